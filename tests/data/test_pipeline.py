import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.data import ArraySource, ImageFolder, Preprocessing, evaluation_dataset
from rfd_tf.data.schedule import AUGMENTATION, stream
from tests.data.datasets import on_one_thread, training_dataset
from tests.data.images import write

COUNT = 22
RECIPE = Preprocessing(12, resize=14)
COLORS = dataclasses.replace(RECIPE, color_jitter=(0.8, 0.8, 0.8, 0.2), grayscale=0.2, blur=0.5)
TWO_CROPS = dataclasses.replace(COLORS, crops=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return ImageFolder(
        write(folder, *(f"{n % 2}/{n:02}.{'png' if n % 5 == 0 else 'jpg'}" for n in range(COUNT)))
    )


def batches(source, recipe=RECIPE, **options):
    return list(dataset_of(source, recipe, **options).as_numpy_iterator())


def dataset_of(source, recipe=RECIPE, **options):
    options = {"batch_size": 4, "seed": 5, "epochs": 3, "num_negatives": 3} | options
    return training_dataset(source, recipe, **options)


def joined(parts):
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


@pytest.fixture(scope="module")
def uninterrupted(source):
    return batches(source)


def test_shapes_and_types(source):
    spec = training_dataset(
        source, RECIPE, batch_size=4, seed=0, epochs=1, num_negatives=3, with_labels=True
    ).element_spec
    assert spec == (
        {
            "image": tf.TensorSpec([4, 12, 12, 3], tf.float32),
            "index": tf.TensorSpec([4], tf.int64),
            "negatives": tf.TensorSpec([4, 3], tf.int32),
        },
        tf.TensorSpec([4], tf.int64),
    )
    assert set(training_dataset(source, RECIPE, batch_size=4, seed=0, epochs=1).element_spec) == {
        "image",
        "index",
    }


def test_every_epoch_shows_each_image_at_most_once(uninterrupted):
    assert len(uninterrupted) == 3 * (COUNT // 4)
    orders = joined(uninterrupted)["index"].reshape(3, -1)
    assert all(len(set(order)) == 20 for order in orders.tolist())
    assert len({tuple(order) for order in orders.tolist()}) == 3


@pytest.mark.parametrize("start_step", [0, 1, 5, 7, 13, 15])
def test_resumed_equals_uninterrupted(source, uninterrupted, start_step):
    resumed = batches(source, start_step=start_step)
    assert len(resumed) == len(uninterrupted) - start_step
    for left, right in zip(resumed, uninterrupted[start_step:], strict=True):
        assert_same(left, right)


def test_parallelism_changes_nothing(source, uninterrupted):
    alone = on_one_thread(dataset_of(source)).as_numpy_iterator()
    for left, right in zip(alone, uninterrupted, strict=True):
        assert_same(left, right)


def test_workers_and_replicas_make_up_the_global_batch(source, uninterrupted):
    shards = [
        batches(source, num_workers=2, worker_index=worker, replicas_per_worker=2, start_step=3)
        for worker in range(2)
    ]
    for step, expected in enumerate(uninterrupted[3:]):
        parts = [shards[worker][2 * step + replica] for worker in range(2) for replica in range(2)]
        assert_same(joined(parts), expected)


def test_the_first_of_two_crops_is_the_only_one_of_one(source):
    for one, two in zip(batches(source, COLORS), batches(source, TWO_CROPS), strict=True):
        second = two.pop("second_image")
        assert_same(one, two)
        assert second.shape == (4, 12, 12, 3)
        assert second.dtype == np.float32
        assert all(not np.allclose(a, b) for a, b in zip(second, two["image"], strict=True))


@pytest.mark.parametrize("recipe", [RECIPE, COLORS])
def test_an_image_is_a_function_of_seed_epoch_and_index(source, recipe):
    """That one alone, and normalised alone."""
    every = joined(batches(source, recipe))
    for place in (0, 9, 21, 50):
        index = tf.constant(every["index"][place])
        seed = stream(5, AUGMENTATION, tf.constant(place // 20, tf.int64), index)
        expected = recipe.train_image(source.fetch(index), seed)
        np.testing.assert_allclose(every["image"][place], expected, atol=1e-4)  # eager blur rounds otherwise


@pytest.mark.parametrize("recipe", [RECIPE, TWO_CROPS])
def test_pixels_for_the_device(source, recipe):
    for plain, pixels in zip(batches(source, recipe), batches(source, recipe, normalized=False), strict=True):
        for name in [name for name in pixels if "image" in name]:
            assert pixels[name].dtype == np.uint8
            pixels[name] = recipe.normalize(pixels[name]).numpy()
        assert_same(plain, pixels)


def test_two_crops_are_functions_of_seed_epoch_and_index(source):
    whole = batches(source, TWO_CROPS)
    for left, right in zip(batches(source, TWO_CROPS, start_step=7), whole[7:], strict=True):
        assert_same(left, right)
    shards = [batches(source, TWO_CROPS, num_workers=2, worker_index=worker) for worker in range(2)]
    for *parts, expected in zip(*shards, whole, strict=True):
        assert_same(joined(parts), expected)


def test_an_image_is_fetched_once_for_two_crops(source, monkeypatch):
    fetches, fetch = [], source.fetch
    monkeypatch.setattr(source, "fetch", lambda index: fetches.append(index) or fetch(index))
    training_dataset(source, TWO_CROPS, batch_size=4, seed=0, epochs=1)
    assert len(fetches) == 1


def test_another_seed_gives_other_everything(source, uninterrupted):
    other, mine = joined(batches(source, seed=6)), joined(uninterrupted)
    for key in mine:
        assert not np.array_equal(mine[key], other[key])


def test_augmentation_changes_with_the_epoch(uninterrupted):
    every = joined(uninterrupted)
    image = every["index"][0]
    seen = every["image"][every["index"] == image]
    assert len(seen) >= 2
    assert not np.array_equal(seen[0], seen[1])


def test_labels_are_those_of_the_index(source):
    for features, labels in training_dataset(
        source, RECIPE, batch_size=4, seed=0, epochs=1, with_labels=True
    ):
        np.testing.assert_array_equal(labels, source.labels[features["index"]])


def test_negatives_are_uniform_over_all_rows(source):
    drawn = joined(batches(source, num_negatives=200, valid_indices=np.arange(6)))["negatives"]
    counts = np.bincount(drawn.ravel(), minlength=COUNT)
    expected = drawn.size / COUNT
    assert len(counts) == COUNT
    assert ((counts - expected) ** 2 / expected).sum() < 46.8


def test_valid_indices_only(source):
    valid = np.array([2, 3, 7, 11, 20])
    every = joined(batches(source, valid_indices=valid, batch_size=5))
    np.testing.assert_array_equal(np.sort(every["index"].reshape(3, 5)), np.tile(valid, (3, 1)))


def test_evaluation_keeps_order_and_last_batch(source):
    parts = list(evaluation_dataset(source, RECIPE, 8).as_numpy_iterator())
    assert [len(labels) for _, labels in parts] == [8, 8, 6]
    np.testing.assert_array_equal(joined([features for features, _ in parts])["index"], np.arange(COUNT))
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]), source.labels)
    fetched = source.fetch(tf.constant(9, tf.int64))
    np.testing.assert_allclose(parts[1][0]["image"][1], RECIPE.eval_image(fetched), atol=1e-5)


def test_evaluation_of_chosen_images_without_labels():
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype="uint8")
    recipe = Preprocessing(5, train="resize", mean=(0, 0, 0), std=(1, 1, 1))
    (features,) = evaluation_dataset(ArraySource(images), recipe, 8, indices=[4, 1]).as_numpy_iterator()
    assert features["index"].tolist() == [4, 1]
    np.testing.assert_allclose(features["image"] * 255, images[[4, 1]], atol=1e-3)


def test_errors(source):
    unlabelled = ImageFolder(source.root, labelled=False)
    with pytest.raises(ValueError, match="22 usable images, fewer than one batch"):
        batches(source, batch_size=32)
    with pytest.raises(ValueError, match="Labels were asked for"):
        batches(unlabelled, with_labels=True)
    with pytest.raises(ValueError, match="multiple of 8"):
        batches(source, num_workers=8)
    with pytest.raises(ValueError, match="num_negatives=-1"):
        batches(source, num_negatives=-1)
    with pytest.raises(ValueError, match=r"\[0, 22\). Received: 22"):
        batches(source, valid_indices=[0, 1, 2, 22])
    with pytest.raises(ValueError, match="batch_size=0"):
        evaluation_dataset(source, RECIPE, 0)
