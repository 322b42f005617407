from collections.abc import Callable, Iterable, Mapping

import keras
import numpy as np
from keras import ops


def compiled_inference(model: keras.Model, input_shape: tuple[int | None, ...] | None = None) -> Callable:
    """`model` in inference mode, compiled where the backend compiles; its weights are those at each call.

    TensorFlow traces it for each shape of input, JAX compiles it for each. Run operation by operation, as JAX
    does without, a network takes many times as long.

    Args:
        model: functional.
        input_shape: of the inputs, float32, where TensorFlow shall trace it once, for any size of batch.
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
