"""EXIF's orientation, and CMYK; the oracles are `image_header`'s reader, whose own oracle is PIL, and PIL."""

import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from rfd_tf.data import FlatFolder, Preprocessing, evaluation_dataset
from rfd_tf.data.augmentation import decode, random_resized_crop
from rfd_tf.data.orientation import exif_orientation, stored_window, upright
from rfd_tf.image_header import exif_orientation as exif_orientation_of_bytes
from rfd_tf.image_header import upright as upright_in_numpy
from tests.data.datasets import training_dataset
from tests.data.images import encoded, oriented, random_image

ORIENTATIONS = range(1, 9)
in_graph = tf.function(exif_orientation, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def shown(content: bytes) -> np.ndarray:
    """PIL's view of what a file shows."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_images_are_decoded_as_they_are_shown(kind, orientation):
    for order in "<>":
        content = oriented(random_image(), orientation, kind, order)
        assert int(in_graph(content)) == int(exif_orientation(tf.constant(content))) == orientation
    image = decode(tf.constant(content), exif_orientation=True)
    np.testing.assert_array_equal(image, shown(content))
    assert image.shape == (40, 50, 3)
    stored = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(decode(tf.constant(content)), stored)
    np.testing.assert_array_equal(upright(tf.constant(stored), tf.constant(orientation)), shown(content))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_window_of_what_is_shown_is_found_in_what_is_stored(orientation):
    stored = np.arange(7 * 11).reshape(7, 11)
    whole = upright_in_numpy(stored, orientation)
    top, left, height, width = window = 1, 2, 3, 4
    y, x, h, w = (int(v) for v in stored_window(window, *whole.shape, tf.constant(orientation)))
    part = upright_in_numpy(stored[y : y + h, x : x + w], orientation)
    np.testing.assert_array_equal(part, whole[top : top + height, left : left + width])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_files_are_read_alike(data):
    """The reader in graphs agrees with that in Python, whatever the bytes."""
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))
    content = bytearray(oriented(random_image(9, 8), data.draw(st.integers(2, 8)), kind))
    start = 0 if kind == "JPEG" else content.index(b"eXIf" if kind == "PNG" else b"EXIF") - 8
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(start, min(start + 110, len(content) - 1)))] = data.draw(
            st.sampled_from([0, 1, 3, 4, 6, 8, 18, 0x80, 0xE1, 0xFF]) | st.integers(0, 255)
        )
    content = bytes(content[: data.draw(st.integers(start, len(content)) | st.just(len(content)))])
    assert int(in_graph(content)) == exif_orientation_of_bytes(content)


def as_stored(orientation: int, image: Image.Image) -> tf.Tensor:
    return tf.constant(oriented(image, orientation, quality=98, subsampling=0))


@pytest.mark.parametrize("train", ["random_resized_crop", "random_crop", "pad_crop", "resize"])
def test_eight_orientations_give_one_training_image(train):
    """With one seed the same crop, up to JPEG's rounding."""
    recipe = Preprocessing(24, train, 30)
    image = random_image(90, 131)
    for number in range(4):
        seed = tf.constant([number, 5], tf.int64)
        expected = recipe.train_image(as_stored(1, image), seed)
        for orientation in ORIENTATIONS:
            found = recipe.train_image(as_stored(orientation, image), seed)
            assert np.abs(found - expected).max() < 0.1  # of a range of 4.6
    turned = Preprocessing(24, train, 30, exif_orientation=False).train_image(as_stored(6, image), seed)
    assert np.abs(turned - expected).max() > 1


def test_fast_crops_are_nearly_the_same():
    image = random_image(300, 420)
    for number in range(4):
        seed = tf.constant([number, 6], tf.int64)
        crops = [
            np.asarray(random_resized_crop(as_stored(o, image), 24, seed, fast=True, exif_orientation=True))
            for o in ORIENTATIONS
        ]
        for crop in np.asarray(crops, "float32"):
            assert np.abs(crop - crops[0]).mean() < 8  # the corners lie on a grid of the stored pixels


def test_pipelines_see_what_is_shown(tmp_path):
    image = random_image(60, 80)
    for orientation in ORIENTATIONS:
        (tmp_path / f"{orientation}.jpg").write_bytes(oriented(image, orientation, quality=98, subsampling=0))
    source, recipe = FlatFolder(tmp_path), Preprocessing(24, "random_resized_crop", 30)
    images = next(iter(evaluation_dataset(source, recipe, 8)))["image"].numpy()
    assert np.abs(images - images[:1]).max() < 0.1
    images = next(iter(training_dataset(source, recipe, batch_size=8, seed=0, epochs=1)))["image"].numpy()
    assert images.shape == (8, 24, 24, 3)


def ink(name: str) -> bytes:
    """A JPEG of four inks: Adobe's CMYK, or YCCK."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 9, 4), dtype="uint8")
    image = Image.fromarray(noise, "CMYK").resize((50, 40), Image.Resampling.BICUBIC)
    content = bytearray(encoded(image, quality=95))
    if name == "YCCK":
        content[content.index(b"Adobe") + 11] = 2  # how the inks are transformed
    return bytes(content)


@pytest.mark.parametrize("name", ["CMYK", "YCCK"])
def test_inks_become_rgb_as_in_pil(name):
    content = ink(name)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    assert np.abs(decode(tf.constant(content)).numpy() - expected).max() <= 1  # TensorFlow rounds down
