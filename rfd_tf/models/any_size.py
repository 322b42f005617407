import keras

from rfd_tf.layers import CeilMaxPooling2D


def any_size(backbone: keras.Model, feature: str, ceil_pools: bool = False) -> keras.Model:
    """A backbone up to one of its maps, for images of any height and width, with weights of its own.

    Args:
        backbone: functional, with a dict of outputs.
        feature: the name of a map.
        ceil_pools: whether max pools without padding round the number of their windows up, as Caffe's do. It
            shows at sizes that the windows do not fit.

    Returns:
        A functional model from images [B, H, W, C] to that map.

    Raises:
        ValueError: if there is no such output, it is no map, or a layer before it needs a fixed size.
    """
    if feature not in backbone.output:
        raise ValueError(f"{backbone.name!r} has no output {feature!r}; it has {', '.join(backbone.output)}")
    if len(backbone.output[feature].shape) != 4:
        raise ValueError(f"The output {feature!r} of {backbone.name!r} is no map [B, H, W, C]")
    part = keras.Model(backbone.inputs[0], backbone.output[feature], name=backbone.name)
    images = keras.Input((None, None, backbone.inputs[0].shape[-1]), name="image")

    def cloned(layer):
        rounded = ceil_pools and type(layer) is keras.layers.MaxPooling2D and layer.padding == "valid"
        kind = CeilMaxPooling2D if rounded else type(layer)
        return kind.from_config(layer.get_config())

    try:
        again = keras.models.clone_model(part, input_tensors=images, clone_function=cloned)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{backbone.name!r} cannot do with images of any size: {error}") from error
    again.set_weights(part.get_weights())
    return again
