"""RandAugment, MixUp and CutMix: Keras's results, by our seeds; labels that say what is in the images."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.data import ArraySource, Preprocessing, augmentation
from rfd_tf.data.keras_augmentation import MIXED, mixing, rand_augment
from tests.data.datasets import on_one_thread, training_dataset

SIDE, BATCH, CLASSES = 12, 8, 5
PLAIN = Preprocessing(SIDE, "pad_crop", mean=(0, 0, 0), std=(1, 1, 1))
SEED = tf.constant([3, -4], tf.int64)
rng = np.random.default_rng(0)


def augmented(*names, **options):
    return dataclasses.replace(PLAIN, augment=names, **options)


@pytest.fixture(scope="module")
def source():
    images = rng.integers(0, 256, (30, SIDE, SIDE, 3), dtype="uint8")
    return ArraySource(images, rng.permutation(np.arange(30) % CLASSES))


def batches(source, recipe, ordered=lambda dataset: dataset, **options):
    options = {"batch_size": BATCH, "seed": 5, "epochs": 2, "with_labels": True} | options
    dataset = ordered(training_dataset(source, recipe, **options))
    return [{**features, "label": labels} for features, labels in dataset.as_numpy_iterator()]


def joined(parts):
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


@pytest.mark.parametrize(("num_ops", "magnitude"), [(2, 0.5), (1, 1.0)])
def test_rand_augment_is_kerass_by_its_own_generator_in_our_state(num_ops, magnitude):
    image = tf.constant(rng.uniform(0, 255, (SIDE, SIDE, 3)).astype("float32"))
    layer = keras.layers.RandAugment((0, 255), num_ops, magnitude, dtype="float32")
    theirs = tf.function(lambda: layer(image[None])[0])
    ours = tf.function(lambda seed: rand_augment(image, seed, num_ops, magnitude))
    found = []
    for number in range(12):
        seed = SEED + number
        layer.generator.state.assign(seed)
        found.append(ours(seed).numpy())
        np.testing.assert_allclose(found[-1], theirs(), rtol=0, atol=1e-3)
        assert found[-1].min() >= 0
        assert found[-1].max() <= 255
    assert len({changed.tobytes() for changed in found}) > 8
    np.testing.assert_array_equal(ours(SEED), found[0])


def test_rand_augment_comes_after_crop_and_flip_and_leaves_them_as_they_are():
    fetched = tf.constant(rng.integers(0, 256, (SIDE, SIDE, 3), dtype="uint8"))
    recipe = augmented("rand_augment", rand_augment_ops=1, rand_augment_magnitude=0.3)
    for seed in (SEED + n for n in range(2)):
        image = PLAIN.train_image(fetched, seed) * 255
        changed = rand_augment(image, tf.random.fold_in(seed, tf.constant(3, tf.int64)), 1, 0.3)
        np.testing.assert_allclose(
            recipe.train_image(fetched, seed),
            augmentation.normalize(changed, (0, 0, 0), (1, 1, 1)),
            atol=1e-2,
        )
    np.testing.assert_array_equal(recipe.eval_image(fetched), PLAIN.eval_image(fetched))


def test_the_policy_of_the_process_does_not_matter():
    images = tf.constant(rng.uniform(0, 255, (4, SIDE, SIDE, 3)).astype("float32"))
    expected = rand_augment(images[0], SEED, 1, 0.75), mixing(MIXED, 4, 0.3)(images, tf.range(4), SEED)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        recipe = augmented("rand_augment", rand_augment_ops=1, rand_augment_magnitude=0.75)
        assert recipe.train_image(tf.zeros([SIDE, SIDE, 3], tf.uint8), SEED).dtype == tf.float32
        found = rand_augment(images[0], SEED, 1, 0.75), mixing(MIXED, 4, 0.3)(images, tf.range(4), SEED)
    finally:
        keras.config.set_dtype_policy("float32")
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("alpha", [1e-3, 0.2, 1.0, 4.0])
def test_mixup_is_the_combination_that_its_labels_say(alpha):
    """With a class for each image the labels are the matrix of the mixture."""
    images = rng.normal(size=(16, SIDE, SIDE, 3)).astype("float32")
    mix = tf.function(mixing(("mixup",), 16, alpha))
    own = []
    for number in range(10):
        found, shares = (part.numpy() for part in mix(images, tf.range(16), SEED + number))
        np.testing.assert_allclose(found, np.tensordot(shares, images, 1), rtol=0, atol=1e-5)
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
        assert ((shares > 0).sum(axis=1) <= 2).all()
        others = shares - np.diag(np.diag(shares))
        assert ((others > 0).sum(axis=0) <= 1).all()  # each image goes to one other
        own.append(np.diag(shares)[others.any(axis=1)])
    own = np.concatenate(own)
    if alpha >= 0.2:  # below, whatever is not mixed has no share of another image
        assert np.var(own) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.35)  # of Beta(alpha, alpha)


def test_cutmix_labels_are_the_shares_of_the_pixels():
    images = np.broadcast_to(np.arange(16, dtype="float32")[:, None, None, None], (16, SIDE, SIDE, 3))
    mix = tf.function(mixing(("cutmix",), 16, 0.2))
    corners, areas = [], []
    for number in range(20):
        found, shares = (part.numpy() for part in mix(images, tf.range(16), SEED + number))
        counts = np.stack([(found[..., 0] == image).mean(axis=(1, 2)) for image in range(16)], axis=1)
        np.testing.assert_allclose(shares, counts, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(found[..., 0], found[..., 2])
        for image, cut in enumerate(found[..., 0] != np.arange(16)[:, None, None]):
            rows, columns = np.flatnonzero(cut.any(axis=1)), np.flatnonzero(cut.any(axis=0))
            if not len(rows):
                continue
            assert cut[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all(), image  # one whole box
            corners.append((rows[0], columns[0]))
            areas.append(cut.mean())
    top, left = np.transpose(corners)
    assert (top != left).mean() > 0.6  # not along the diagonal
    assert np.mean(areas) == pytest.approx(0.5, abs=0.06)  # uniform
    assert np.var(areas) == pytest.approx(1 / 12, rel=0.25)


def test_with_both_a_batch_is_mixed_by_either():
    images = np.broadcast_to(np.arange(1, 5, dtype="float32")[:, None, None, None], (4, SIDE, SIDE, 3))
    mix = tf.function(mixing(MIXED, 4, 1.0))
    cut = [np.isin(mix(images, tf.range(4), SEED + n)[0], images).all() for n in range(60)]
    assert 18 < sum(cut) < 42


EVERY = ("rand_augment", *MIXED)


@pytest.fixture(scope="module")
def uninterrupted(source):
    return batches(source, augmented(*EVERY))


def test_batches_are_functions_of_seed_and_step(source, uninterrupted):
    resumed = batches(source, augmented(*EVERY), on_one_thread, start_step=4)
    assert_same(resumed, uninterrupted[4:])
    recipe = augmented(*MIXED)
    mixed = batches(source, recipe)
    for start in (1, 3, 5):
        assert_same(batches(source, recipe, start_step=start), mixed[start:])
    other = joined(batches(source, recipe, seed=6))
    for key, values in joined(mixed).items():
        assert not np.array_equal(values, other[key]), key


def test_the_same_images_are_mixed_otherwise_in_the_next_epoch(source):
    recipe = dataclasses.replace(augmented("mixup"), train="resize", flip=False)
    first, second = batches(source, recipe, batch_size=30)
    order = np.argsort(first["index"]), np.argsort(second["index"])
    assert not np.allclose(first["label"][order[0]], second["label"][order[1]], atol=0.01)


def test_replicas_make_up_the_global_batch(source):
    shares = batches(source, augmented(*MIXED), replicas_per_worker=2, start_step=2)
    assert {len(share["index"]) for share in shares} == {BATCH // 2}
    parts = [joined(shares[2 * step : 2 * step + 2]) for step in range(len(shares) // 2)]
    assert_same(parts, batches(source, augmented(*MIXED), start_step=2))


def test_rand_augment_is_the_same_on_several_workers(source):
    recipe = augmented("rand_augment", rand_augment_ops=1)
    whole = batches(source, recipe, epochs=1)
    shards = [batches(source, recipe, epochs=1, num_workers=2, worker_index=n) for n in range(2)]
    assert_same([joined(parts) for parts in zip(*shards, strict=True)], whole)


def test_mixed_batches_have_what_others_have(source, uninterrupted):
    """The same images in the same order; labels that add up to those of the images."""
    spec = training_dataset(
        source, augmented("cutmix"), batch_size=BATCH, seed=0, epochs=1, with_labels=True
    ).element_spec
    assert spec == (
        {
            "image": tf.TensorSpec([BATCH, SIDE, SIDE, 3], tf.float32),
            "index": tf.TensorSpec([BATCH], tf.int64),
        },
        tf.TensorSpec([BATCH, CLASSES], tf.float32),
    )
    for mixed, plain in zip(uninterrupted, batches(source, PLAIN), strict=True):
        np.testing.assert_array_equal(mixed["index"], plain["index"])
        np.testing.assert_allclose(mixed["label"].sum(axis=1), 1, atol=1e-6)
        assert not np.allclose(mixed["image"], plain["image"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"with_labels": False}, "needs them"),
        ({"rotate_locally": "explicit"}, "locally rotated"),
        ({"num_workers": 2}, "one worker.*2 workers"),
    ],
)
def test_mixing_that_makes_no_sense_is_refused(source, options, message):
    with pytest.raises(ValueError, match=rf"`augment` mixes .*{message}"):
        batches(source, augmented("mixup"), **options)


def test_two_crops_are_not_mixed(source):
    with pytest.raises(ValueError, match="two crops"):
        batches(source, augmented("cutmix", crops=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": ("rand_augment", "cutout")}, r"rand_augment.*mixup.*cutmix.*Received: .*cutout"),
        ({"augment": "mixup"}, "tuple of some.*Received: augment='mixup'"),
        ({"rand_augment_ops": 0}, "rand_augment_ops=0"),
        ({"rand_augment_magnitude": 1.5}, "rand_augment_magnitude=1.5"),
        ({"rand_augment_magnitude": 0.0}, "rand_augment_magnitude=0.0"),
        ({"mixup_alpha": 0.0}, "mixup_alpha=0.0"),
        ({"mixup_alpha": float("nan")}, "mixup_alpha=nan"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(SIDE, "resize", **options)
