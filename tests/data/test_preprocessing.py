import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from rfd_tf.data import CIFAR_MEAN, CIFAR_STD, Preprocessing, augmentation, color
from rfd_tf.data.augmentation import random_resized_crop
from rfd_tf.data.preprocessing import RECIPES
from tests.data.images import encoded, random_image

SEED = tf.constant([1, 2], tf.int64)


@pytest.mark.parametrize("train", RECIPES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "pixels"])
def test_every_recipe_on_every_input(train, kind):
    image = random_image(60, 45)
    fetched = tf.constant(np.asarray(image) if kind == "pixels" else encoded(image, kind))
    recipe = Preprocessing(24, train=train, resize=30)
    in_graph = tf.function(recipe.train_image)
    assert in_graph.get_concrete_function(fetched, SEED).output_shapes == (24, 24, 3)
    mine = in_graph(fetched, SEED)
    assert mine.dtype == tf.float32
    np.testing.assert_allclose(mine, recipe.train_image(fetched, SEED), atol=1e-5)
    assert recipe.eval_image(fetched).shape == (24, 24, 3)
    others = [recipe.train_image(fetched, SEED + n) for n in range(1, 6)]
    assert any(not np.array_equal(other, mine) for other in others)


def test_evaluation_of_the_crops_equals_pil():
    image = random_image(60, 45)
    resized = image.resize((30, 40), Image.Resampling.BILINEAR).crop((3, 8, 27, 32))
    expected = (np.asarray(resized) / 255 - CIFAR_MEAN) / CIFAR_STD
    recipe = Preprocessing(24, resize=30, mean=CIFAR_MEAN, std=CIFAR_STD)
    mine = recipe.eval_image(tf.constant(np.asarray(image)))
    np.testing.assert_allclose(mine, expected, atol=1.01 / 255 / min(CIFAR_STD))


def test_small_arrays_pass_unchanged_when_the_size_fits():
    image = np.asarray(random_image(32, 32))
    recipe = Preprocessing(32, train="resize", flip=False, mean=(0, 0, 0), std=(1, 1, 1))
    for mine in (recipe.eval_image(tf.constant(image)), recipe.train_image(tf.constant(image), SEED)):
        np.testing.assert_allclose(mine * 255, image, atol=1e-3)


def test_fast_decoding_is_for_training_only():
    fetched = tf.constant(encoded(random_image(400, 500)))
    exact, fast = (Preprocessing(24, resize=30, fast_decoding=on) for on in (False, True))
    np.testing.assert_array_equal(fast.eval_image(fetched), exact.eval_image(fetched))
    differences = np.abs(fast.train_image(fetched, SEED) - exact.train_image(fetched, SEED))
    assert 0 < differences.mean() < 0.1


@pytest.mark.parametrize("colors", [{}, {"color_jitter": (0.4,) * 4, "grayscale": 0.5, "blur": 1.0}])
def test_colors_leave_crop_and_flip_as_they_are(colors):
    fetched = tf.constant(encoded(random_image(60, 45)))
    recipe = Preprocessing(24, resize=30, **colors)
    for seed in (SEED + n for n in range(8)):
        crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2))
        expected = augmentation.random_flip(random_resized_crop(fetched, 24, crop_seed), flip_seed)
        if colors:
            color_seed = tf.random.fold_in(seed, tf.constant(2, tf.int64))
            expected = np.floor(color.random_color(expected, color_seed, (0.4,) * 4, 1.0, 0.5, 1.0) + 0.5)
        expected = augmentation.normalize(expected, recipe.mean, recipe.std)
        np.testing.assert_array_equal(recipe.train_image(fetched, seed), expected)


def test_evaluation_keeps_its_colors():
    fetched = tf.constant(encoded(random_image(60, 45)))
    plain, changed = (
        Preprocessing(24, resize=30, **options)
        for options in ({}, {"color_jitter": (0.8, 0.8, 0.8, 0.2), "grayscale": 1.0, "blur": 1.0, "crops": 2})
    )
    np.testing.assert_array_equal(changed.eval_image(fetched), plain.eval_image(fetched))


def test_no_flip_means_none():
    recipe = Preprocessing(8, train="resize", flip=False)
    image = tf.constant(np.asarray(random_image()))
    assert len({recipe.train_image(image, SEED + n).numpy().tobytes() for n in range(10)}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size=0"),
        ({"train": "warp"}, "random_resized_crop.*Received: train='warp'"),
        ({"image_size": 300}, "resize=256"),
        ({"min_area": 0.0}, "min_area=0.0"),
        ({"min_area": 0.9, "max_area": 0.5}, "max_area=0.5"),
        ({"std": (1, 1)}, "three values"),
        ({"std": (1, 0, 1)}, "positive"),
        ({"fast_decoding": True, "train": "resize"}, "random_resized_crop.*Received: train='resize'"),
        ({"color_jitter": (0.4, 0.4)}, r"four strengths .* color_jitter=\(0.4, 0.4\)"),
        ({"color_jitter": (0.4, -0.1, 0.4, 0.1)}, "negative"),
        ({"color_jitter": (0.4, float("nan"), 0.4, 0.1)}, "color_jitter=.*nan"),
        ({"color_jitter": (0.4, 0.4, 0.4, 0.6)}, "hue must be at most 0.5"),
        ({"color_jitter_probability": 1.2}, "color_jitter_probability=1.2"),
        ({"grayscale": -0.2}, "grayscale=-0.2"),
        ({"blur": 2.0}, "blur=2.0"),
        ({"crops": 3}, "`crops` must be 1 or 2. Received: crops=3"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{"image_size": 224} | options)
