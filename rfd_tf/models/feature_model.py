"""A backbone as its users want it: one model from images to named features."""

from collections.abc import Sequence

import keras
from keras import ops

from rfd_tf.models.backbone import check_feature_names, select_features

FEATURES, ROTATION, INVARIANT = "features", "rotation", "invariant"
ROTATION_PROBABILITIES = "rotation_probabilities"
RESERVED = (FEATURES, ROTATION, INVARIANT, ROTATION_PROBABILITIES, "embedding")


def feature_model(
    backbone: keras.Model,
    feature_name: str | None = None,
    feature_maps: Sequence[str] | None = (),
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
        dict.fromkeys([feature_name, *feature_maps]),
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
