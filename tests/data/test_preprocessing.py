import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from rfd_tf.data import CIFAR_MEAN, CIFAR_STD, Preprocessing
from rfd_tf.data.preprocessing import RECIPES
from tests.data.pictures import encoded, picture

SEED = tf.constant([1, 2], tf.int64)


@pytest.mark.parametrize("train", RECIPES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "pixels"])
def test_every_recipe_on_every_input(train, kind):
    image = picture(60, 45)
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
    image = picture(60, 45)
    resized = image.resize((30, 40), Image.Resampling.BILINEAR).crop((3, 8, 27, 32))
    expected = (np.asarray(resized) / 255 - CIFAR_MEAN) / CIFAR_STD
    recipe = Preprocessing(24, resize=30, mean=CIFAR_MEAN, std=CIFAR_STD)
    mine = recipe.eval_image(tf.constant(np.asarray(image)))
    np.testing.assert_allclose(mine, expected, atol=1.01 / 255 / min(CIFAR_STD))


def test_small_arrays_pass_unchanged_when_the_size_fits():
    image = np.asarray(picture(32, 32))
    recipe = Preprocessing(32, train="resize", flip=False, mean=(0, 0, 0), std=(1, 1, 1))
    for mine in (recipe.eval_image(tf.constant(image)), recipe.train_image(tf.constant(image), SEED)):
        np.testing.assert_allclose(mine * 255, image, atol=1e-3)


def test_fast_decoding_is_for_training_only():
    fetched = tf.constant(encoded(picture(400, 500)))
    exact, fast = (Preprocessing(24, resize=30, fast_decoding=on) for on in (False, True))
    np.testing.assert_array_equal(fast.eval_image(fetched), exact.eval_image(fetched))
    differences = np.abs(fast.train_image(fetched, SEED) - exact.train_image(fetched, SEED))
    assert 0 < differences.mean() < 0.1


def test_no_flip_means_none():
    recipe = Preprocessing(8, train="resize", flip=False)
    image = tf.constant(np.asarray(picture()))
    assert len({recipe.train_image(image, SEED + n).numpy().tobytes() for n in range(10)}) == 1


COLORS = {
    "color_jitter": (0.4, 0.4, 0.4, 0.1),
    "color_jitter_probability": 0.5,
    "grayscale": 0.3,
    "blur": 0.5,
}


def test_colours_change_in_the_asked_share_of_images_in_training_only():
    image = tf.constant(np.asarray(picture(32, 32)))
    plain = Preprocessing(32, train="resize", flip=False, mean=(0, 0, 0), std=(1, 1, 1))
    colored = dataclasses.replace(plain, **COLORS)
    np.testing.assert_array_equal(colored.eval_image(image), plain.eval_image(image))
    found = [colored.train_image(image, SEED + n).numpy() for n in range(60)]
    grey = [np.ptp(one, axis=-1).max() < 1e-6 for one in found]
    same = [np.array_equal(one, plain.train_image(image, SEED).numpy()) for one in found]
    assert 8 <= sum(grey) <= 28  # 0.3 of 60, within three deviations
    assert 3 <= sum(same) <= 21  # 0.5 * 0.7 * 0.5 of 60 = 10.5
    assert min(one.min() for one in found) >= 0
    assert max(one.max() for one in found) <= 1 + 1e-6


@pytest.mark.parametrize("train", RECIPES)
def test_without_colours_crops_and_flips_are_what_they_are_with_them(train):
    """Every chance has a seed of its own: switching the colours on moves no window."""
    image = tf.constant(np.asarray(picture(40, 50)))
    plain = Preprocessing(24, train=train, resize=30)
    grey = dataclasses.replace(plain, grayscale=1.0, mean=(0, 0, 0), std=(1, 1, 1))
    for n in range(4):
        mine = grey.train_image(image, SEED + n).numpy()
        pixels = plain.train_image(image, SEED + n).numpy() * plain.std + plain.mean
        np.testing.assert_allclose(mine[..., 0], pixels @ [0.299, 0.587, 0.114], atol=1e-5)


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
        ({"color_jitter": (0.4, 0.4)}, "four strengths.*Received"),
        ({"color_jitter": (0.4, 0.4, 0.4, 0.6)}, "at most 0.5"),
        ({"color_jitter_probability": 1.1}, "color_jitter_probability=1.1"),
        ({"grayscale": -0.1}, "grayscale=-0.1"),
        ({"blur": 2}, "blur=2"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{"image_size": 224} | options)
