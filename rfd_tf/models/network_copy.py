from collections.abc import Sequence

import keras


def network_copy(
    model: keras.Model, names: Sequence[str], synchronized: bool = False, dtype: str | None = None
) -> keras.Model:
    """A functional model's outputs `names`, with layers and weights of its own.

    Under a strategy's scope its variables belong to that strategy. What other outputs need is left out.

    Args:
        model: functional, with a dict of outputs.
        names: those wanted.
        synchronized: whether batch norm shall take its statistics over all replicas.
        dtype: the policy of the copy's layers; None for that of each.
    """

    def copy(layer):
        config = layer.get_config()
        if synchronized and isinstance(layer, keras.layers.BatchNormalization):
            config["synchronized"] = True
        if dtype is not None and "dtype" in config:
            config["dtype"] = dtype
        return layer.__class__.from_config(config)

    part = keras.Model(model.inputs[0], {name: model.output[name] for name in names}, name=model.name)
    again = keras.models.clone_model(part, clone_function=copy, recursive=True)
    again.set_weights(part.get_weights())
    return again
