"""What every layer, loss and model of ours must do, in one place."""

import keras
import numpy as np

from rfd_tf.precision import full_precision


def check_config_round_trip(thing):
    """Constructor arguments are attributes and config keys; the config makes the same thing again."""
    config = thing.get_config()
    again = type(thing).from_config(config)
    assert again.get_config() == config
    assert keras.saving.get_registered_name(type(thing)).startswith("rfd_tf>")
    return again


def check_layer(layer, inputs: np.ndarray, tmp_path):
    """Config and `.keras` round trips, symbolic = eager shape and dtype, mixed precision stays close."""
    symbolic_input = keras.Input(inputs.shape[1:])
    symbolic = layer(symbolic_input)
    eager = layer(inputs)
    assert tuple(symbolic.shape[1:]) == tuple(eager.shape[1:])
    assert keras.backend.standardize_dtype(symbolic.dtype) == keras.backend.standardize_dtype(eager.dtype)
    check_config_round_trip(layer)

    model = keras.Model(symbolic_input, symbolic)
    path = tmp_path / "layer.keras"
    model.save(path)
    revived = keras.saving.load_model(path)
    np.testing.assert_array_equal(to_numpy(revived(inputs)), to_numpy(eager))

    mixed = type(layer).from_config({**layer.get_config(), "dtype": "mixed_bfloat16"})
    mixed.build(inputs.shape)
    mixed.set_weights(layer.get_weights())
    difference = np.abs(to_numpy(mixed(inputs)).astype("float32") - to_numpy(eager)).max()
    assert difference <= 0.05 * max(1.0, np.abs(to_numpy(eager)).max())


def to_numpy(value) -> np.ndarray:
    return keras.ops.convert_to_numpy(full_precision(value))
