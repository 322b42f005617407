"""The detector's losses against NumPy, and that it learns where things are."""

import keras
import numpy as np
import pytest

from rfd_tf.detection.fast_rcnn import FastRCNN, _head, truncated_svd
from rfd_tf.layers import RoIMaxPool
from rfd_tf.models import alexnet
from rfd_tf.optimizers import CoupledSGD
from tests.contract import to_numpy

CLASSES = 3


def trunk(batch_norm=False):
    keras.utils.set_random_seed(0)
    images = x = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="conv1")(x)
    if batch_norm:
        x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="conv2")(x)
    return keras.Model(images, x, name="trunk")


def detector(**options):
    keras.utils.set_random_seed(1)
    options = {"pool": RoIMaxPool(3, 4), "dense_width": 16, "dropout": 0.0} | options
    model = FastRCNN(options.pop("trunk", None) or trunk(), CLASSES, **options)
    model.compile(CoupledSGD(0.05, 0.9))
    return model


def test_the_config_of_a_file_from_before_the_pooling_was_an_argument():
    config = detector().get_config()
    pooling = config.pop("pool")["config"]
    again = FastRCNN.from_config({**config, "pool_size": pooling["size"], "stride": pooling["stride"]})
    assert (again.pool.size, again.pool.stride) == (3, 4)


def example(rng, batch=2, regions=6):
    corners = np.sort(rng.uniform(0, 40, (batch, regions, 2, 2)), axis=2).reshape(batch, regions, 4)
    inputs = {
        "image": rng.normal(size=(batch, 40, 48, 3)).astype("float32"),
        "regions": corners.astype("float32"),
    }
    labels = rng.integers(-1, CLASSES + 1, (batch, regions))
    return inputs, {"labels": labels, "deltas": rng.normal(size=(batch, regions, 4)).astype("float32")}


def test_losses_equal_the_definition():
    rng = np.random.default_rng(0)
    model = detector()
    inputs, targets = example(rng)
    means, deviations = rng.normal(size=(CLASSES + 1, 4)), rng.uniform(0.5, 2, (CLASSES + 1, 4))
    model.set_delta_statistics(means, deviations)
    logits = rng.normal(size=(2, 6, CLASSES + 1)).astype("float32")
    deltas = rng.normal(size=(2, 6, CLASSES + 1, 4)).astype("float32")
    loss = model.compute_loss(inputs, targets, {"class_logits": logits, "deltas": deltas})
    class_loss = box_loss = 0.0
    for b, r in np.ndindex(2, 6):
        label = targets["labels"][b, r]
        if label < 0:
            continue
        class_loss += np.log(np.exp(logits[b, r]).sum()) - logits[b, r, label]
        if label > 0:
            error = np.abs(deltas[b, r, label] - (targets["deltas"][b, r] - means[label]) / deviations[label])
            box_loss += np.where(error < 1, 0.5 * error**2, error - 0.5).sum()
    count = (targets["labels"] >= 0).sum()
    assert float(loss) == pytest.approx((class_loss + box_loss) / count, rel=1e-5)
    found = model.get_metrics_result()
    assert float(found["class_loss"]) == pytest.approx(class_loss / count, rel=1e-5)
    assert float(found["box_loss"]) == pytest.approx(box_loss / count, rel=1e-5)
    right = logits.argmax(axis=2) == targets["labels"]
    assert float(found["accuracy"]) == pytest.approx(right.sum() / count)
    assert float(found["foreground_accuracy"]) == pytest.approx(right[targets["labels"] > 0].mean())


def test_each_region_is_pooled_from_its_own_image():
    rng = np.random.default_rng(1)
    model = detector()
    inputs, _ = example(rng, batch=3)
    together = model(inputs)
    for number in range(3):
        alone = model({name: value[number : number + 1] for name, value in inputs.items()})
        for name in alone:
            np.testing.assert_allclose(
                to_numpy(alone[name])[0], to_numpy(together[name])[number], rtol=1e-4, atol=1e-6
            )
    maps = model.trunk(inputs["image"])
    flat = np.concatenate([np.repeat(np.arange(3.0), 6)[:, None], inputs["regions"].reshape(-1, 4)], axis=1)
    pooled = RoIMaxPool(3, 4)(maps, flat.astype("float32"))
    expected = to_numpy(model.head(pooled)["class_logits"]).reshape(3, 6, -1)
    np.testing.assert_allclose(to_numpy(together["class_logits"]), expected, rtol=1e-5, atol=1e-6)


def test_learns_which_square_is_where():
    """Bright squares of two colours on noise; proposals around them, moved; the boxes come out right."""
    rng = np.random.default_rng(2)
    model = detector(dense_width=32)
    # The published deviations are for thousands of inputs.
    for name in ("fc6", "fc7", "class_logits", "deltas"):
        kernel = model.head.get_layer(name).kernel
        kernel.assign(keras.initializers.GlorotUniform(seed=3)(kernel.shape))
    model.compile(keras.optimizers.Adam(3e-3))

    def batches():
        while True:
            images = rng.normal(0, 0.1, (4, 40, 40, 3)).astype("float32")
            regions, labels, deltas = [], np.zeros((4, 8), "int64"), np.zeros((4, 8, 4), "float32")
            for number in range(4):
                side, label = 16, rng.integers(1, 3)
                y, x = rng.integers(4, 20, 2)
                images[number, y : y + side, x : x + side, label] += 2
                near = np.array([x, y, x + side - 1, y + side - 1]) + rng.integers(-3, 4, (4, 1)) * [
                    1,
                    0,
                    1,
                    0,
                ]
                far = np.array([[0, 0, 7, 7], [32, 32, 39, 39], [0, 32, 7, 39], [32, 0, 39, 7]])
                regions.append(np.concatenate([near, far]))
                labels[number, :4] = label
                deltas[number, :4, 0] = (x - near[:, 0]) / side
                # Corners may hold a piece of the square: such a region fills the batch only.
                touches = (np.abs(far[:, 0] - x - 4) < 14) & (np.abs(far[:, 1] - y - 4) < 14)
                labels[number, 4:][touches] = -1
            yield (
                {"image": images, "regions": np.array(regions, "float32")},
                {"labels": labels, "deltas": deltas},
            )

    model.set_delta_statistics(np.zeros((CLASSES + 1, 4)), np.full((CLASSES + 1, 4), 0.1))
    source = batches()
    first = model.evaluate(source, steps=4, verbose=0, return_dict=True)
    model.fit(source, steps_per_epoch=120, epochs=1, verbose=0)
    last = model.evaluate(source, steps=8, verbose=0, return_dict=True)
    assert last["foreground_accuracy"] > 0.9
    assert last["accuracy"] > 0.9
    assert last["box_loss"] < 0.6 * first["box_loss"]


def test_batch_norm_of_the_trunk_stays():
    rng = np.random.default_rng(3)
    model = detector(trunk=trunk(batch_norm=True))
    layer = model.trunk.get_layer("bn")
    before = [to_numpy(weight).copy() for weight in layer.weights]
    kernel = to_numpy(model.trunk.get_layer("conv1").kernel).copy()
    model.fit(*example(rng), batch_size=2, epochs=2, verbose=0)
    for weight, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(weight), value)
    assert np.abs(to_numpy(model.trunk.get_layer("conv1").kernel) - kernel).max() > 0


def test_alexnet_of_any_size_saves_and_comes_back(tmp_path):
    network = alexnet((None, None, 3), ["conv5"], use_batch_norm=False)
    model = FastRCNN(keras.Model(network.inputs[0], network.output["conv5"]), 20, dense_width=8)
    inputs = {
        "image": np.random.default_rng(4).normal(size=(1, 130, 170, 3)).astype("float32"),
        "regions": np.array([[[0, 0, 169, 129], [20, 30, 90, 100]]], "float32"),
    }
    model.set_delta_statistics(np.zeros((21, 4)), np.full((21, 4), 0.2))
    expected = model(inputs)
    assert expected["class_logits"].shape == (1, 2, 21)
    assert expected["deltas"].shape == (1, 2, 21, 4)
    model.save(tmp_path / "detector.keras")
    revived = keras.saving.load_model(tmp_path / "detector.keras")
    for name, value in revived(inputs).items():
        np.testing.assert_allclose(to_numpy(value), to_numpy(expected[name]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        to_numpy(revived.denormalized(np.ones((21, 4), "float32"))), np.full((21, 4), 0.2)
    )


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_classes=0"):
        FastRCNN(trunk(), 0)
    images = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match="one map"):
        FastRCNN(keras.Model(images, {"a": images}))
    model = detector()
    with pytest.raises(ValueError, match=r"\(4, 4\) each.*\(3, 4\)"):
        model.set_delta_statistics(np.zeros((3, 4)), np.ones((3, 4)))
    with pytest.raises(ValueError, match="least deviation 0"):
        model.set_delta_statistics(np.zeros((4, 4)), np.zeros((4, 4)))


def outputs_of(model, inputs):
    return {name: to_numpy(value) for name, value in model(inputs, training=False).items()}


def test_full_rank_changes_nothing():
    inputs, _ = example(np.random.default_rng(5))
    model = detector()
    model.set_delta_statistics(np.full((CLASSES + 1, 4), 0.3), np.full((CLASSES + 1, 4), 2.0))
    again = truncated_svd(model, (16, 16))
    for name, expected in outputs_of(model, inputs).items():
        np.testing.assert_allclose(outputs_of(again, inputs)[name], expected, rtol=1e-5, atol=1e-7)
    for name in ("delta_means", "delta_deviations"):
        np.testing.assert_array_equal(to_numpy(getattr(again, name)), to_numpy(getattr(model, name)))


def test_truncated_kernels_are_the_nearest_of_their_rank():
    model = detector()
    smaller = truncated_svd(model, (5, 3))
    for name, rank in (("fc6", 5), ("fc7", 3)):
        kernel, bias = model.head.get_layer(name).get_weights()
        left, values, right = np.linalg.svd(kernel, full_matrices=False)
        (first,) = smaller.head.get_layer(f"{name}_svd").get_weights()
        second, same = smaller.head.get_layer(name).get_weights()
        assert (first.shape, second.shape) == ((kernel.shape[0], rank), (rank, kernel.shape[1]))
        nearest = (left[:, :rank] * values[:rank]) @ right[:rank]
        np.testing.assert_allclose(first @ second, nearest, rtol=1e-4, atol=1e-7)
        np.testing.assert_array_equal(same, bias)


def test_parameters_at_the_papers_ranks():
    pooled = keras.Input((6, 6, 256))
    counts = [_head(pooled, 20, 4096, 0.0, ranks).count_params() for ranks in (None, (1024, 256))]
    left_out = 9216 * 4096 + 4096 * 4096
    assert counts[0] - counts[1] == left_out - 1024 * (9216 + 4096) - 256 * (4096 + 4096)


def test_what_cannot_be_truncated():
    model = detector()
    with pytest.raises(ValueError, match=r"fc6, \(72, 16\), is 16 at most. Received: 17"):
        truncated_svd(model, (17, 3))
    for ranks in ((0, 3), (3,), (1, 2, 3)):
        with pytest.raises(ValueError, match="`ranks` must be two numbers"):
            truncated_svd(model, ranks)
    with pytest.raises(ValueError, match=r"truncated already, to ranks \(5, 3\)"):
        truncated_svd(truncated_svd(model, (5, 3)), (3, 2))
