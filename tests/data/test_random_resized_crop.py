import math
import random

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from rfd_tf.data.augmentation import crop_window, decode_window, decode_window_fast, random_resized_crop
from tests.data.images import decoded, encoded, random_image


def oracle_window(height, width, rng, min_area=0.08, max_area=1.0):
    """The published rule in plain Python: ten draws, then the centre."""
    for _ in range(10):
        area = height * width * rng.uniform(min_area, max_area)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    if width / height < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif width / height > 4 / 3:
        w, h = round(height * 4 / 3), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@tf.function(reduce_retracing=True)
def windows(height, width, count, min_area):
    return tf.map_fn(
        lambda n: tf.stack(crop_window(height, width, tf.stack([tf.constant(3, tf.int64), n]), min_area)),
        tf.range(count),
        fn_output_signature=tf.int32,
    )


def my_windows(height, width, count, min_area=0.08):
    arguments = tf.constant(height), tf.constant(width), tf.constant(count, tf.int64)
    return windows(*arguments, tf.constant(min_area)).numpy()


def kolmogorov_smirnov(a, b):
    """Largest distance between two samples' distribution functions."""
    grid = np.concatenate([a, b])
    return np.abs(
        np.searchsorted(np.sort(a), grid, "right") / len(a)
        - np.searchsorted(np.sort(b), grid, "right") / len(b)
    ).max()


@pytest.mark.parametrize(("height", "width"), [(200, 300), (300, 200), (224, 224), (500, 120)])
def test_windows_are_distributed_as_published(height, width):
    count = 3000
    mine = my_windows(height, width, count)
    rng = random.Random(0)
    theirs = np.array([oracle_window(height, width, rng) for _ in range(count)])
    top, left, h, w = mine.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    limit = 1.95 * math.sqrt(2 / count)  # p = 0.001
    for quantity in (
        lambda t, x, h, w: h * w,
        lambda t, x, h, w: w / h,
        lambda t, x, h, w: t,
        lambda t, x, h, w: x,
    ):
        assert kolmogorov_smirnov(quantity(*mine.T), quantity(*theirs.T)) < limit


@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10), (7, 400)])
def test_what_never_fits_gives_the_centre(height, width):
    expected = oracle_window(height, width, random.Random(0), min_area=0.9)
    assert {tuple(row) for row in my_windows(height, width, 20, min_area=0.9).tolist()} == {expected}


@pytest.mark.parametrize("side", [1, 2, 3])
def test_tiny_images(side):
    top, _, height, width = my_windows(side, side, 50).T
    assert (height >= 1).all()
    assert (width >= 1).all()
    assert (top + height <= side).all()


@pytest.mark.parametrize("options", [{}, {"subsampling": 1}, {"subsampling": 0}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_window_of_a_jpeg_equals_the_whole_decoded_then_cut(mode, options):
    content = encoded(random_image(75, 91).convert(mode), **options)
    whole, rng = decoded(content), random.Random(1)
    for _ in range(40):
        h, w = rng.randint(1, 75), rng.randint(1, 91)
        y, x = rng.randint(0, 75 - h), rng.randint(0, 91 - w)
        mine = decode_window(tf.constant(content), *map(tf.constant, (y, x, h, w)))
        np.testing.assert_array_equal(mine, whole[y : y + h, x : x + w])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "pixels"])
def test_crop_equals_pil(kind):
    image = random_image(120, 160)
    fetched = tf.constant(np.asarray(image) if kind == "pixels" else encoded(image, kind))
    pixels = np.asarray(image) if kind == "pixels" else decoded(encoded(image, kind))
    for n in range(5):
        seed = tf.constant([3, n], tf.int64)
        top, left, height, width = (int(v) for v in crop_window(tf.constant(120), tf.constant(160), seed))
        cut = Image.fromarray(pixels).crop((left, top, left + width, top + height))
        expected = np.asarray(cut.resize((32, 32), Image.Resampling.BILINEAR)).astype("float32")
        mine = random_resized_crop(fetched, 32, seed)
        assert mine.shape == (32, 32, 3)
        np.testing.assert_allclose(mine, expected, atol=1.01)


def test_real_photo_equals_pil(test_data):
    path = min((test_data / "VOCdevkit/VOC2007/JPEGImages").iterdir())
    content, image = path.read_bytes(), Image.open(path)
    seed = tf.constant([1, 2])
    top, left, height, width = (
        int(v) for v in crop_window(tf.constant(image.height), tf.constant(image.width), seed)
    )
    cut = image.crop((left, top, left + width, top + height)).resize((224, 224), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(
        random_resized_crop(tf.constant(content), 224, seed), np.asarray(cut), atol=1.01
    )


@pytest.mark.parametrize(
    ("size", "ratio"), [(200, 1), (151, 1), (150, 2), (76, 2), (75, 4), (38, 4), (37, 8), (9, 8)]
)
def test_fast_window_is_the_exact_one_averaged(size, ratio):
    """As small as the side that is wanted allows, beginning and ending at the next whole pixel outwards."""
    content = encoded(random_image(400, 500), quality=95)
    top, left, height, width = 52, 99, 300, 333
    window = map(tf.constant, (top, left, height, width))
    mine = tf.cast(decode_window_fast(tf.constant(content), *window, size), tf.float32)
    begin, end = (top // ratio, left // ratio), (-(-(top + height) // ratio), -(-(left + width) // ratio))
    averaged = np.asarray(Image.fromarray(decoded(content)).reduce(ratio))
    expected = averaged[begin[0] : end[0], begin[1] : end[1]].astype("float32")
    assert mine.shape == expected.shape
    assert np.abs(mine - expected).mean() < 2  # of 255: colour is repeated, not interpolated


@pytest.mark.parametrize("size", [(400, 500), (53, 400), (31, 33)])
def test_fast_crop_shows_the_same_as_the_exact_one(size):
    fetched = tf.constant(encoded(random_image(*size), quality=95))
    for n in range(10):
        crops = (random_resized_crop(fetched, 24, tf.constant([3, n]), fast=f) for f in (False, True))
        exact, fast = (np.asarray(crop, "float32") for crop in crops)
        assert np.abs(fast - exact).mean() < 8
        assert np.corrcoef(np.ravel(fast), np.ravel(exact))[0, 1] > 0.98


def test_fast_is_for_jpegs_only():
    fetched = tf.constant(encoded(random_image(), "PNG"))
    exact, fast = (random_resized_crop(fetched, 24, tf.constant([3, 4]), fast=f) for f in (False, True))
    np.testing.assert_array_equal(fast, exact)
