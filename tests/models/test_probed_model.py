"""A frozen network stays as it is, and each probe learns as if it were alone."""

import keras
import numpy as np
import pytest

from rfd_tf.losses import CrossEntropyLoss, LDAMLoss
from rfd_tf.models import ProbedModel, linear_probe
from rfd_tf.optimizers import CoupledSGD
from tests.contract import to_numpy

CLASSES, BATCH = 6, 12
FEATURES = ("block1", "block3")


def backbone():
    """Small, with batch-norm statistics as after training."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((16, 16, 3))
    features = {}
    x = inputs
    for name, filters in zip(FEATURES, (3, 4), strict=True):
        x = keras.layers.Conv2D(filters, 3, 2)(x)
        x = features[name] = keras.layers.ReLU(name=name)(keras.layers.BatchNormalization()(x))
    network = keras.Model(inputs, features)
    network(np.random.default_rng(0).normal(size=(8, 16, 16, 3)), training=True)
    return network


def model_of(network, names, frozen=True):
    probes = {}
    for name in names:
        keras.utils.set_random_seed(5)
        shape = tuple(network.output[name].shape[1:])
        probes[name] = linear_probe(shape, CLASSES, cosine=name == "block3", name=name)
    losses = {
        "block1": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "block3": LDAMLoss([10] * CLASSES),
    }
    model = ProbedModel(probes, {n: n for n in names}, {n: losses[n] for n in names}, network, frozen=frozen)
    model.compile(CoupledSGD(0.01, 0.9, nesterov=True, coupled_weight_decay=5e-4))
    return model


def examples(count=2 * BATCH):
    rng = np.random.default_rng(1)
    return {"image": rng.normal(size=(count, 16, 16, 3)).astype("float32")}, rng.integers(CLASSES, size=count)


def fitted(network, names, frozen=True):
    model = model_of(network, names, frozen)
    history = model.fit(*examples(), batch_size=BATCH, epochs=2, shuffle=False, verbose=0).history
    return model, history


@pytest.fixture(scope="module")
def together():
    network = backbone()
    before = network.get_weights()
    return before, *fitted(network, FEATURES)


def test_the_frozen_backbone_is_untouched(together):
    before, model, _ = together
    for variable, value in zip(model.backbone.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value, err_msg=variable.path)
    assert all(layer.trainable for layer in model.backbone.layers)  # a user's network stays a user's
    learning = {id(variable) for variable in model.trainable_variables}
    assert learning == {id(variable) for variable in model.trainable_weights}
    assert learning.isdisjoint(id(variable) for variable in model.backbone.variables)
    others = {id(variable) for variable in model.non_trainable_variables}
    assert learning | others == {id(variable) for variable in model.variables}
    saved = {id(variable) for variable in model.training_state}
    assert saved.isdisjoint(id(variable) for variable in model.backbone.variables)
    assert len(saved) == len(model.variables) - len(model.backbone.variables)


def test_each_probe_learns_as_if_alone(together):
    _, model, history = together
    for name in FEATURES:
        alone, alone_history = fitted(backbone(), [name])
        for one, other in zip(model.probes[name].weights, alone.probes[name].weights, strict=True):
            np.testing.assert_allclose(to_numpy(one), to_numpy(other), rtol=1e-5, atol=1e-6, err_msg=one.path)
        np.testing.assert_allclose(history[f"{name}_loss"], alone_history[f"{name}_loss"], rtol=1e-5)
    total = np.sum([history[f"{name}_loss"] for name in FEATURES], axis=0)
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)


def test_metrics_are_those_of_the_logits(together):
    _, model, _ = together
    inputs, labels = examples()
    measured = model.evaluate(inputs, labels, batch_size=BATCH, verbose=0, return_dict=True)
    logits = model.predict(inputs, batch_size=BATCH, verbose=0)
    for name in FEATURES:
        ranks = (-logits[name]).argsort(axis=1)
        assert measured[f"{name}_top1"] == pytest.approx(np.mean(ranks[:, 0] == labels))
        assert measured[f"{name}_top5"] == pytest.approx(
            np.mean((ranks[:, :5] == labels[:, None]).any(axis=1))
        )


def test_unfrozen_everything_learns():
    network = backbone()
    before = network.get_weights()
    model, _ = fitted(network, ["block3"], frozen=False)
    moved = [not np.array_equal(to_numpy(v), w) for v, w in zip(network.variables, before, strict=True)]
    assert all(moved), [v.path for v, m in zip(network.variables, moved, strict=True) if not m]
    assert len(model.training_state) == len(model.variables)


def test_round_trip(together, tmp_path):
    _, model, _ = together
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    inputs, _ = examples(3)
    for name, logits in model(inputs).items():
        np.testing.assert_allclose(to_numpy(again(inputs)[name]), to_numpy(logits), atol=1e-6)


def test_soft_labels_are_learnt_and_measured_by_their_largest_share():
    network = backbone()
    probes = {"block1": linear_probe(tuple(network.output["block1"].shape[1:]), CLASSES, name="block1")}
    model = ProbedModel(probes, {"block1": "block1"}, {"block1": CrossEntropyLoss()}, network)
    model.compile("sgd")
    inputs, labels = examples(BATCH)
    others = (labels + 1) % CLASSES
    soft = 0.7 * np.eye(CLASSES, dtype="float32")[labels] + 0.3 * np.eye(CLASSES, dtype="float32")[others]
    found = {
        what: model.evaluate(inputs, given, batch_size=BATCH, verbose=0, return_dict=True)
        for what, given in (("soft", soft), ("hard", labels), ("other", others))
    }
    for metric in ("block1_top1", "block1_top5"):
        assert found["soft"][metric] == found["hard"][metric]
    expected = 0.7 * found["hard"]["loss"] + 0.3 * found["other"]["loss"]
    assert found["soft"]["loss"] == pytest.approx(expected, rel=1e-5)
    history = model.fit(inputs, soft, batch_size=BATCH, epochs=5, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


def test_what_it_refuses():
    probe = linear_probe((4,), 3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(ValueError, match="the same probes"):
        ProbedModel({"a": probe}, {"b": "x"}, {"a": loss})
    with pytest.raises(ValueError, match="twice: linear_probe_classifier"):
        ProbedModel({"a": probe, "b": linear_probe((4,), 3)}, {"a": "x", "b": "x"}, {"a": loss, "b": loss})
    with pytest.raises(ValueError, match="no feature 'x'"):
        ProbedModel({"a": probe}, {"a": "x"}, {"a": loss}, backbone())


def with_auxiliary(weight=0.1, frozen=False):
    network = backbone()
    shape = tuple(network.output["block1"].shape[1:])
    probes = {}
    for name, classes in (("block1", CLASSES), ("turned", 4)):
        keras.utils.set_random_seed(5)
        probes[name] = linear_probe(shape, classes, name=name)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = ProbedModel(
        probes,
        dict.fromkeys(probes, "block1"),
        dict.fromkeys(probes, cross_entropy),
        network,
        frozen=frozen,
        auxiliary={"turned": weight},
    )
    model.compile(CoupledSGD(0.01, 0.9, nesterov=True, coupled_weight_decay=5e-4))
    return model


def test_an_auxiliary_probe_learns_its_own_labels_at_its_weight():
    model = with_auxiliary(weight=0.25)
    inputs, labels = examples(BATCH)
    turns = np.arange(BATCH) % 4
    predicted = model({**inputs, "turned": turns}, training=True)
    loss = model.compute_loss({**inputs, "turned": turns}, labels, predicted)

    def cross_entropy(logits, truth):
        logits = to_numpy(logits).astype("float64")
        return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(BATCH), truth])

    expected = cross_entropy(predicted["block1"], labels) + 0.25 * cross_entropy(predicted["turned"], turns)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_an_auxiliary_probe_shapes_the_network_and_is_left_out_of_validation():
    inputs, labels = examples()
    turns = np.arange(len(labels)) % 4
    model = with_auxiliary()
    history = model.fit(
        {**inputs, "turned": turns},
        labels,
        batch_size=BATCH,
        epochs=2,
        shuffle=False,
        verbose=0,
        validation_data=(inputs, labels),
    ).history
    assert {"turned_loss", "turned_top1", "block1_top5", "val_block1_top1"} <= set(history)
    assert not [name for name in history if name.startswith("val_turned")]
    assert set(model(inputs)) == {"block1"}
    kernel = model.backbone.trainable_variables[0]
    alone, _ = fitted(backbone(), ["block1"], frozen=False)
    assert np.abs(to_numpy(kernel) - to_numpy(alone.backbone.trainable_variables[0])).max() > 1e-5
    revived = ProbedModel.from_config(model.get_config())
    assert revived.auxiliary == {"turned": 0.1}


@pytest.mark.parametrize("auxiliary", [{"turned": 0.0}, {"other": 1.0}, {"turned": float("nan")}])
def test_auxiliary_probes_out_of_range(auxiliary):
    model = with_auxiliary()
    with pytest.raises(ValueError, match=next(iter(auxiliary))):
        ProbedModel(
            model.probes, model.feature_names, model.probe_losses, model.backbone, auxiliary=auxiliary
        )
