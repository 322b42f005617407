import colorsys
import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import ImageEnhance
from scipy import ndimage

from rfd_tf.data import color
from rfd_tf.data.schedule import stream
from tests.data.images import random_image

SIDE = 24
ADJUSTMENTS = (color.adjust_brightness, color.adjust_contrast, color.adjust_saturation, color.adjust_hue)


@pytest.fixture(scope="module")
def image():
    return random_image(SIDE, SIDE, seed=3)


@pytest.fixture(scope="module")
def pixels(image):
    return tf.constant(np.asarray(image), tf.float32)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.4, 2.5])
@pytest.mark.parametrize(
    ("adjust", "enhance"),
    [
        (color.adjust_brightness, ImageEnhance.Brightness),
        (color.adjust_contrast, ImageEnhance.Contrast),
        (color.adjust_saturation, ImageEnhance.Color),
    ],
)
def test_factors_do_what_pil_does(image, pixels, adjust, enhance, factor):
    mine = adjust(pixels, tf.constant(factor))
    expected = np.asarray(enhance(image).enhance(factor), "float32")
    # PIL cuts off fractions, and rounds the grey level that it blends with.
    np.testing.assert_allclose(mine, expected, atol=1.01 + 0.5 * abs(1 - factor))
    assert mine.shape == pixels.shape
    assert np.min(mine) >= 0
    assert np.max(mine) <= 255


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.25, 0.4])
def test_hue_moves_on_the_circle_of_hsv(pixels, turns):
    def moved(rgb):
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb / 255)
        return colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)

    expected = 255 * np.apply_along_axis(moved, 2, np.asarray(pixels, "float64"))
    np.testing.assert_allclose(color.adjust_hue(pixels, tf.constant(turns)), expected, atol=1e-2)


def test_gray_is_pils(image, pixels):
    mine = color.grayscale(pixels).numpy()
    np.testing.assert_allclose(mine[..., 0], np.asarray(image.convert("L")), atol=0.51)
    assert np.ptp(mine, axis=2).max() < 1e-3


@pytest.mark.parametrize("radius", [1, 3, SIDE])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_scipys(pixels, sigma, radius):
    expected = ndimage.gaussian_filter(pixels, sigma, radius=radius, axes=(0, 1), mode="reflect")
    mine = color.gaussian_blur(pixels, tf.constant(sigma), radius)
    np.testing.assert_allclose(mine, expected, atol=1e-3)


def test_jitter_applies_its_four_changes_in_each_order(pixels):
    strengths, drawn = (0.4, 1.5, 0.2, 0.1), (0.25, 0.9, 0.0, 0.75)
    amounts = (0.8, 2.25, 0.8, 0.05)  # the second from [0, 2.5]
    results = []
    for number, order in enumerate(itertools.permutations(range(4))):
        expected = pixels
        for place in order:
            expected = ADJUSTMENTS[place](expected, tf.constant(amounts[place]))
        mine = color.color_jitter(pixels, strengths, tf.constant([*drawn, (number + 0.5) / 24]))
        np.testing.assert_allclose(mine, expected, atol=1e-2)
        results.append(mine.numpy().tobytes())
    assert len(set(results)) > 12  # brightness and hue commute, as others nearly do


@pytest.mark.parametrize("place", range(4))
def test_strength_zero_changes_nothing(pixels, place):
    strengths = [0.0] * 4
    drawn = tf.constant([0.9] * 5)
    np.testing.assert_array_equal(color.color_jitter(pixels, strengths, drawn), pixels)
    strengths[place] = 0.3
    amount = 0.24 if place == 3 else 1.24
    expected = ADJUSTMENTS[place](pixels, tf.constant(amount))
    np.testing.assert_allclose(color.color_jitter(pixels, strengths, drawn), expected, atol=1e-2)


def outcomes(pixels, count=400, **options):
    """What `random_color` makes of `count` seeds."""
    change = tf.function(lambda seed: color.random_color(pixels, seed, **options))
    return [change(stream(0, 1, n)).numpy() for n in range(count)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"jitter": (0.4,) * 4, "jitter_probability": 0.8}, 0.8),
        ({"grayscale_probability": 0.2}, 0.2),
        ({"blur_probability": 0.5}, 0.5),
        ({"blur_probability": 1.0}, 1.0),
        ({"jitter": (0.4, 0.0, 0.0, 0.0)}, 1.0),
        ({}, 0.0),
    ],
)
def test_each_change_has_its_probability(pixels, options, expected):
    changed = [not np.array_equal(mine, pixels) for mine in outcomes(pixels, **options)]
    assert abs(np.mean(changed) - expected) <= 4 * np.sqrt(expected * (1 - expected) / len(changed))


def test_factors_are_uniform_in_their_range():
    flat = tf.fill([2, 2, 3], 100.0)
    factors = np.array([mine[0, 0, 0] for mine in outcomes(flat, jitter=(0.4, 0.0, 0.0, 0.0))]) / 100
    assert 0.6 <= factors.min() < 0.62
    assert 1.38 < factors.max() <= 1.4
    counts = np.histogram(factors, 8, (0.6, 1.4))[0]
    assert ((counts - 50) ** 2 / 50).sum() < 24.3  # chi-square, 7 degrees of freedom, p = 0.001


def test_changes_are_drawn_independently(pixels):
    """Whether and how one is made does not depend on the others being on."""
    jitter = {"jitter": (0.4,) * 4, "jitter_probability": 0.5}
    grey = {"grayscale_probability": 0.5}
    alone, both = outcomes(pixels, 60, **jitter), outcomes(pixels, 60, **jitter, **grey)
    made_grey = [not np.array_equal(mine, pixels) for mine in outcomes(pixels, 60, **grey)]
    for jittered, result, is_grey in zip(alone, both, made_grey, strict=True):
        expected = color.grayscale(tf.constant(jittered)) if is_grey else jittered
        np.testing.assert_allclose(result, expected, atol=1e-3)
    jitters = [not np.array_equal(jittered, pixels) for jittered in alone]
    assert len(set(zip(jitters, made_grey, strict=True))) == 4


def test_a_function_of_the_seed_alone(pixels):
    options = {"jitter": (0.8, 0.8, 0.8, 0.2), "grayscale_probability": 0.2, "blur_probability": 0.5}
    first, again = outcomes(pixels, 30, **options), outcomes(pixels, 30, **options)
    np.testing.assert_array_equal(first, again)
    assert len({mine.tobytes() for mine in first}) == 30


def test_a_sides_tenth_is_blurred_over():
    """One white pixel spreads over the kernel: 23 of 224 pixels, as SimCLR's, and at least 3."""
    for side, expected in ((224, 23), (32, 3), (8, 3)):
        dot = tf.scatter_nd([[side // 2, side // 2]], tf.fill([1, 3], 255.0), [side, side, 3])
        widths = [int((mine[side // 2, :, 0] > 0).sum()) for mine in outcomes(dot, 20, blur_probability=1.0)]
        assert max(widths) == expected
