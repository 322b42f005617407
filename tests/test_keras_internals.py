"""Keras's private parts are used in one module, as long as there is no public way."""

import re
from pathlib import Path

import keras
import pytest

from rfd_tf.keras_internals import all_layers, consumers, mask_of, producer, variable_index

ROOT = Path(__file__).parents[1]
PRIVATE = re.compile(
    r"keras\.src|_flatten_layers|_outbound_nodes|_keras_history|_keras_mask|_get_variable_index"
)
HOMES = {"rfd_tf/keras_internals.py", "rfd_tf/distribution.py"}


def test_nothing_else_reaches_inside_keras():
    files = [*ROOT.glob("rfd_tf/**/*.py"), *ROOT.glob("zoo/*.py")]
    users = {
        str(path.relative_to(ROOT)) for path in files if PRIVATE.search(path.read_text(encoding="utf-8"))
    }
    assert users == HOMES


@pytest.mark.parametrize(
    ("owner", "public"),
    [
        (keras.Model, "flatten_layers"),
        (keras.Layer, "outbound_nodes"),
        (keras.Layer, "consumers"),
        (keras.KerasTensor, "history"),
        (keras.KerasTensor, "producer"),
        (keras.ops, "get_mask"),
        (keras.optimizers.Optimizer, "variable_index"),
        (keras.optimizers.Optimizer, "get_variable_index"),
    ],
)
def test_there_is_no_public_way_yet(owner, public):
    """Where this fails Keras has made something public: use it instead."""
    assert not hasattr(owner, public)


def test_they_say_what_they_say():
    inputs = keras.Input((4,))
    inner = keras.Model(inputs, keras.layers.Dense(3, name="inner")(inputs), name="part")
    outputs = keras.layers.Dense(2, name="outer")(inner(inputs))
    model = keras.Model(inputs, outputs)
    names = [layer.name for layer in all_layers(model)]
    assert names[0] == model.name
    assert {"part", "inner", "outer"} <= set(names)
    assert producer(outputs).name == "outer"
    assert "outer" in [layer.name for layer in consumers(inner)]
    optimizer = keras.optimizers.SGD()
    optimizer.build(model.trainable_variables)
    assert [variable_index(optimizer, v) for v in model.trainable_variables] == [0, 1, 2, 3]
    masked = keras.layers.Masking()(keras.ops.ones((2, 3, 1)))
    assert mask_of(masked).shape == (2, 3)
    assert mask_of(keras.ops.ones((2, 3))) is None
