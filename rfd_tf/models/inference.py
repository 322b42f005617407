"""A backbone as its users want it: one model from images to named features."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import keras
import numpy as np
from keras import ops

from rfd_tf.models.backbone import check_feature_names, select_features

FEATURES, ROTATION, INVARIANT = "features", "rotation", "invariant"
ROTATION_PROBABILITIES = "rotation_probabilities"
RESERVED = (FEATURES, ROTATION, INVARIANT, ROTATION_PROBABILITIES, "embedding")


def feature_map_names(outputs: Iterable[str]) -> list[str]:
    """Those of a model's outputs that are feature maps, in order."""
    return [name for name in outputs if name not in RESERVED]


def inference_model(
    backbone: keras.Model,
    feature_name: str | None = None,
    feature_maps: Sequence[str] | None = None,
    *,
    decoupled: bool = True,
    heads: keras.Model | None = None,
) -> keras.Model:
    """A functional model from normalised images [B, H, W, 3] to a dict of named outputs; weights are shared.

    The outputs:
        features [B, D]: the feature `feature_name`; a map is averaged over space;
        rotation, invariant [B, D/2]: its halves, if `decoupled`;
        each of `feature_maps`, under its own name;
        rotation_probabilities [B, 4], embedding [B, E]: what `heads` make of the features.

    Args:
        backbone: functional model from images to a dict of features.
        feature_name: the main feature; by default the backbone's last.
        feature_maps: further features, or layers of the backbone; None for all of its other features.
        decoupled: whether the halves are the rotation and the invariant features of RFD.
        heads: `RotationDecoupling.heads()`: from features [B, D] to a dict.

    Raises:
        ValueError: on an unknown feature, a map named like one of the outputs above, an odd D to be split,
            or heads of another width.
    """
    if not isinstance(backbone.output, dict) or not backbone.output:
        raise ValueError(f"The backbone {backbone.name!r} does not give a dict of features")
    feature_name = feature_name or list(backbone.output)[-1]
    if feature_maps is None:
        feature_maps = [name for name in backbone.output if name != feature_name]
    if taken := [name for name in feature_maps if name in RESERVED]:
        raise ValueError(f"A feature map cannot be named {taken[0]!r}: that is an output of every model")
    names = check_feature_names(
        list(dict.fromkeys([feature_name, *feature_maps])),
        list(dict.fromkeys([*backbone.output, *(layer.name for layer in backbone.layers)])),
    )
    found = select_features(backbone, names)
    main = found.output[feature_name]
    features = ops.mean(main, axis=(1, 2)) if len(main.shape) == 4 else main
    outputs = {FEATURES: features}
    if decoupled:
        if features.shape[-1] % 2:
            raise ValueError(
                f"Feature {feature_name!r} has {features.shape[-1]} values, an odd number: it has no halves"
            )
        outputs[ROTATION], outputs[INVARIANT] = ops.split(features, 2, axis=-1)
    outputs |= {name: found.output[name] for name in feature_maps}
    if heads is not None:
        if heads.input_shape[-1] != features.shape[-1]:
            raise ValueError(
                f"The heads take {heads.input_shape[-1]} features, {feature_name!r} has {features.shape[-1]}"
            )
        outputs |= heads(features)
    return keras.Model(backbone.inputs[0], outputs, name=backbone.name)


def compiled_inference(model: keras.Model, input_shape: tuple[int | None, ...] | None = None) -> Callable:
    """`model` in inference mode, compiled where the backend compiles; its weights are those at each call.

    TensorFlow traces it for each shape of input, JAX compiles it for each. Run operation by operation, as JAX
    does without, a network takes many times as long.

    Args:
        model: functional.
        input_shape: of the inputs, float32, if TensorFlow is to trace it once, for any size of batch.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        signature = None if input_shape is None else [tf.TensorSpec(input_shape, tf.float32)]
        return tf.function(
            lambda inputs: model(inputs, training=False), input_signature=signature, reduce_retracing=True
        )
    if backend == "jax":
        import jax

        @jax.jit
        def infer(trainable, others, inputs):
            return model.stateless_call(trainable, others, inputs, training=False)[0]

        def call(inputs):
            groups = (model.trainable_variables, model.non_trainable_variables)
            return infer(*([v.value for v in group] for group in groups), ops.convert_to_tensor(inputs))

        return call
    return lambda inputs: model(inputs, training=False)


def extract_features(
    backbone: keras.Model, batches: Iterable[Mapping], feature_name: str
) -> tuple[np.ndarray, np.ndarray]:
    """One feature of every image, in inference mode; a map is averaged over space.

    Args:
        backbone: functional model from images to a dict of features.
        batches: dicts of `image` [B, H, W, C] and `index` [B], in any order, for example
            `rfd_tf.data.evaluation_dataset`.
        feature_name: one of the backbone's outputs.

    Returns:
        features, float32 [N, D], and index, int64 [N], in the batches' order.
    """

    output = backbone.output[feature_name]
    output = ops.cast(output, "float32")
    output = ops.mean(output, axis=(1, 2)) if len(output.shape) == 4 else output
    infer = compiled_inference(keras.Model(backbone.inputs[0], output))
    features, index = [], []
    for batch in batches:
        features.append(ops.convert_to_numpy(infer(batch["image"])))
        index.append(np.asarray(ops.convert_to_numpy(batch["index"]), dtype="int64"))
    if not features:
        raise ValueError("There are no images to take features of")
    return np.concatenate(features), np.concatenate(index)
