import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from rfd_tf.data import augmentation
from tests.data.images import decoded, encoded, random_image


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
    content = encoded(random_image().convert(mode), kind, **options)
    mine = augmentation.decode(tf.constant(content))
    assert mine.dtype == tf.uint8
    np.testing.assert_array_equal(mine, decoded(content))


def test_sixteen_bits_are_cut_to_eight():
    levels = np.arange(0, 65536, 97, dtype="uint16")[:600].reshape(20, 30)
    mine = augmentation.decode(tf.constant(encoded(Image.fromarray(levels), "PNG"))).numpy()
    np.testing.assert_allclose(mine[..., 1], levels / 257, atol=1)


def test_pixels_pass_through_decode():
    pixels = tf.constant(np.asarray(random_image()))
    assert augmentation.decode(pixels) is pixels


@pytest.mark.parametrize(("height", "width"), [(20, 30), (37, 23), (90, 140), (40, 50)])
def test_resize_equals_pil(height, width):
    image = random_image()
    mine = augmentation.resize(tf.constant(np.asarray(image)), height, width)
    np.testing.assert_allclose(mine, pil_resize(image, width, height), atol=1.01)


def test_a_image_of_the_wanted_size_stays():
    """As TensorFlow's own resizing leaves it, where the size is known early and where it is not."""
    image = tf.constant(np.asarray(random_image()))
    height, width = image.shape[:2]
    late = tf.function(
        augmentation.resize, input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), *sides()]
    )
    for mine in (augmentation.resize(image, height, width), late(image, height, width)):
        assert mine.dtype == tf.uint8
        np.testing.assert_array_equal(mine, image)
    # A size that is known, but not early, with an image whose shape is.
    known = tf.function(lambda side: augmentation.resize(image, side, side))
    assert known(tf.constant(7)).shape == (7, 7, 3)


@pytest.mark.parametrize(("height", "width"), [(20, 30), (37, 23), (90, 140), (17, 90), (224, 30)])
def test_resize_is_tensorflows_own_rounded(height, width):
    image = tf.constant(np.asarray(random_image(61, 83)))
    theirs = tf.image.resize(image, [height, width], method="bilinear", antialias=True)
    mine = augmentation.resize(image, height, width)
    assert mine.dtype == tf.uint8
    assert mine.shape == (height, width, 3)
    differing = np.asarray(mine) != np.floor(np.asarray(theirs) + 0.5)
    assert differing.mean() < 1e-3  # where a half is rounded


def sides():
    return [tf.TensorSpec([], tf.int32)] * 2


@pytest.mark.parametrize(("height", "width"), [(40, 50), (50, 40), (33, 33), (100, 37), (17, 64)])
def test_short_side_and_centre_follow_torchvision(height, width):
    image = random_image(height, width)
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


def test_pad_crop_is_a_window_of_the_framed_image():
    image = np.asarray(random_image(8, 8)).astype("float32") + 1
    framed = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    windows = {framed[y : y + 8, x : x + 8].tobytes() for y in range(9) for x in range(9)}
    found = {augmentation.pad_crop(tf.constant(image), 8, seed).numpy().tobytes() for seed in seeds(40)}
    assert found <= windows
    assert len(found) > 20


def test_flip_mirrors_half_of_the_time():
    image = tf.constant(np.asarray(random_image(4, 5)))
    flipped = [augmentation.random_flip(image, seed).numpy() for seed in seeds(200)]
    mirrored = np.array([np.array_equal(f, np.asarray(image)[:, ::-1]) for f in flipped])
    same = np.array([np.array_equal(f, image) for f in flipped])
    assert (mirrored ^ same).all()
    assert 75 < mirrored.sum() < 125


def test_normalize():
    image = np.asarray(random_image())
    expected = (image / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    mine = augmentation.normalize(image, augmentation.IMAGENET_MEAN, augmentation.IMAGENET_STD)
    assert mine.dtype == tf.float32
    np.testing.assert_allclose(mine, expected, atol=1e-5)
    # By rows, as one image is normalised, or by channels, as a batch is: bit for bit the same.
    batch = augmentation.normalize(image[None], augmentation.IMAGENET_MEAN, augmentation.IMAGENET_STD)
    np.testing.assert_array_equal(mine, batch[0])
