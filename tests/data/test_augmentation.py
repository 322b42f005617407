import colorsys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter

from rfd_tf.data import augmentation
from tests.data.pictures import decoded, encoded, picture


def pil_resize(image: Image.Image, width: int, height: int) -> np.ndarray:
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).astype("float32")


def seeds(count):
    return [tf.constant([7, n], tf.int64) for n in range(count)]


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"subsampling": 0, "progressive": True}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("L", "PNG", {}),
        ("P", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("RGB", "BMP", {}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGB", "GIF", {}),
    ],
)
def test_decodes_as_pil_does(mode, kind, options):
    content = encoded(picture().convert(mode), kind, **options)
    mine = augmentation.decode(tf.constant(content))
    assert mine.dtype == tf.uint8
    np.testing.assert_array_equal(mine, decoded(content))


def test_sixteen_bits_are_cut_to_eight():
    levels = np.arange(0, 65536, 97, dtype="uint16")[:600].reshape(20, 30)
    mine = augmentation.decode(tf.constant(encoded(Image.fromarray(levels), "PNG"))).numpy()
    np.testing.assert_allclose(mine[..., 1], levels / 257, atol=1)


def test_pixels_pass_through_decode():
    pixels = tf.constant(np.asarray(picture()))
    assert augmentation.decode(pixels) is pixels


@pytest.mark.parametrize(("height", "width"), [(20, 30), (37, 23), (90, 140), (40, 50)])
def test_resize_equals_pil(height, width):
    image = picture()
    mine = augmentation.resize(tf.constant(np.asarray(image)), height, width)
    np.testing.assert_allclose(mine, pil_resize(image, width, height), atol=1.01)


def test_a_picture_of_the_wanted_size_stays():
    """As TensorFlow's own resizing leaves it, where the size is known early and where it is not."""
    image = tf.constant(np.asarray(picture()))
    height, width = image.shape[:2]
    late = tf.function(
        augmentation.resize, input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), *sides()]
    )
    for mine in (augmentation.resize(image, height, width), late(image, height, width)):
        assert mine.dtype == tf.float32
        np.testing.assert_array_equal(mine, tf.cast(image, tf.float32))
    # A size that is known, but not early, with a picture whose shape is.
    known = tf.function(lambda side: augmentation.resize(image, side, side))
    assert known(tf.constant(7)).shape == (7, 7, 3)


def sides():
    return [tf.TensorSpec([], tf.int32)] * 2


@pytest.mark.parametrize(("height", "width"), [(40, 50), (50, 40), (33, 33), (100, 37), (17, 64)])
def test_short_side_and_centre_follow_torchvision(height, width):
    image = picture(height, width)
    size, crop = 32, 27
    if height <= width:
        new_height, new_width = size, int(size * width / height)
    else:
        new_height, new_width = int(size * height / width), size
    expected = pil_resize(image, new_width, new_height)
    mine = augmentation.resize_short_side(tf.constant(np.asarray(image)), size)
    np.testing.assert_allclose(mine, expected, atol=1.01)
    top, left = round((new_height - crop) / 2), round((new_width - crop) / 2)
    np.testing.assert_array_equal(
        augmentation.center_crop(mine, crop), mine.numpy()[top : top + crop, left : left + crop]
    )


@pytest.mark.parametrize(("side", "crop"), [(6, 3), (7, 4), (8, 3), (9, 4), (5, 5)])
def test_odd_margins_round_half_to_even(side, crop):
    image = np.arange(side * side, dtype="float32").reshape(side, side, 1)
    top = round((side - crop) / 2)
    np.testing.assert_array_equal(
        augmentation.center_crop(image, crop), image[top : top + crop, top : top + crop]
    )


def test_random_crop_reaches_every_position_alike():
    image = tf.reshape(tf.range(5 * 6), [5, 6, 1])
    corners = [int(augmentation.random_crop(image, 4, seed)[0, 0, 0]) for seed in seeds(600)]
    counts = np.bincount(corners, minlength=30).reshape(5, 6)[:2, :3]
    assert counts.sum() == 600
    assert ((counts - 100) ** 2 / 100).sum() < 20.5  # chi-square, 5 degrees of freedom, p = 0.001


def test_pad_crop_is_a_window_of_the_framed_picture():
    image = np.asarray(picture(8, 8)).astype("float32") + 1
    framed = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    windows = {framed[y : y + 8, x : x + 8].tobytes() for y in range(9) for x in range(9)}
    found = {augmentation.pad_crop(tf.constant(image), 8, seed).numpy().tobytes() for seed in seeds(40)}
    assert found <= windows
    assert len(found) > 20


def test_flip_mirrors_half_of_the_time():
    image = tf.constant(np.asarray(picture(4, 5)))
    flipped = [augmentation.random_flip(image, seed).numpy() for seed in seeds(200)]
    mirrored = np.array([np.array_equal(f, np.asarray(image)[:, ::-1]) for f in flipped])
    same = np.array([np.array_equal(f, image) for f in flipped])
    assert (mirrored ^ same).all()
    assert 75 < mirrored.sum() < 125


def test_normalize():
    image = np.asarray(picture())
    expected = (image / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    mine = augmentation.normalize(image, augmentation.IMAGENET_MEAN, augmentation.IMAGENET_STD)
    assert mine.dtype == tf.float32
    np.testing.assert_allclose(mine, expected, atol=1e-5)
    # By rows, as one picture is normalised, or by channels, as a batch is: bit for bit the same.
    batch = augmentation.normalize(image[None], augmentation.IMAGENET_MEAN, augmentation.IMAGENET_STD)
    np.testing.assert_array_equal(mine, batch[0])


def _photo(height=17, width=23):
    return np.random.default_rng(3).integers(0, 256, (height, width, 3)).astype("uint8")


def _jitter_of(strengths, seed):
    """Our jitter, and the four factors and the order that it drew."""
    pixels = _photo()
    drawn = augmentation.uniform([8], seed).numpy().astype("float64")
    low = [max(0.0, 1 - strength) for strength in strengths[:3]]
    factors = [a + (1 + s - a) * d for a, s, d in zip(low, strengths, drawn, strict=False)]
    turn = strengths[3] * (2 * drawn[3] - 1)
    mine = augmentation.color_jitter(tf.constant(pixels, tf.float32), strengths, seed).numpy()
    return pixels, mine, [*factors, turn], np.argsort(drawn[4:], kind="stable")


@pytest.mark.parametrize(
    ("place", "enhance"),
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
def test_each_step_of_the_jitter_is_pils(place, enhance):
    strengths = [0.0] * 4
    strengths[place] = 0.8
    for number in range(4):
        pixels, mine, drawn, _order = _jitter_of(strengths, tf.constant([number, 1], tf.int64))
        expected = np.asarray(enhance(Image.fromarray(pixels)).enhance(drawn[place]), "float64")
        np.testing.assert_allclose(mine, expected, atol=1.6)  # PIL rounds the grey image, too


def test_the_hue_turns_as_colorsys_does():
    pixels, mine, drawn, _order = _jitter_of([0.0, 0.0, 0.0, 0.5], tf.constant([7, 1], tf.int64))

    def turned(rgb):
        hue, saturation, value = colorsys.rgb_to_hsv(*(rgb / 255.0))
        return np.array(colorsys.hsv_to_rgb((hue + drawn[3]) % 1.0, saturation, value)) * 255.0

    assert abs(drawn[3]) > 0.05
    np.testing.assert_allclose(mine, np.apply_along_axis(turned, 2, pixels), atol=0.01)


def test_the_jitters_steps_come_in_the_order_that_was_drawn():
    """Brightness, contrast and saturation by NumPy, one after another with clipping, in many orders."""
    orders = set()
    for number in range(12):
        seed = tf.constant([number, 5], tf.int64)
        pixels, mine, (brightness, contrast, saturation, _), order = _jitter_of([0.8, 0.8, 0.8, 0.0], seed)
        x = pixels.astype("float64")
        for step in order:
            grey = (x @ [0.299, 0.587, 0.114])[..., None]
            x = [
                x * brightness,
                grey.mean() + contrast * (x - grey.mean()),
                grey + saturation * (x - grey),
                x,
            ][step]
            x = np.clip(x, 0, 255)
        np.testing.assert_allclose(mine, x, atol=0.01)
        orders.add(tuple(order))
    assert len(orders) > 6


def test_grayscale_is_pils():
    pixels = _photo()
    expected = np.asarray(Image.fromarray(pixels).convert("L"), "float64")
    mine = augmentation.grayscale(tf.constant(pixels, tf.float32)).numpy()[..., 0]
    np.testing.assert_allclose(mine, expected, atol=0.51)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_against_scipy(sigma):
    pixels = _photo().astype("float32")
    radius = 4
    expected = gaussian_filter(
        pixels.astype("float64"), (sigma, sigma, 0), mode="mirror", truncate=radius / sigma
    )
    mine = augmentation.gaussian_blur(tf.constant(pixels), tf.constant(sigma), radius)
    np.testing.assert_allclose(mine, expected, atol=0.01)
