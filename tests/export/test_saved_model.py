"""The SavedModel's signatures, opened by TensorFlow alone."""

import json

import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.data import FlatFolder, evaluation_dataset
from rfd_tf.exporting.writers import write_saved_model
from rfd_tf.features import KerasFeatureModel, ModelInfo, open_feature_model
from rfd_tf.features.open_feature_model import find_saved_model, open_saved_model
from tests.data.images import animated_webp
from tests.export.models import (
    encode,
    image,
    normalized,
    png_header,
    prepared,
    small_network,
    write_run,
)

GOOD = {
    "jpeg": encode(image()),
    "tall": encode(image(30, 90)),
    "small": encode(image(7, 9)),
    "grey": encode(image(mode="L")),
    "png": encode(image(), "PNG"),
    "grey png": encode(image(mode="L"), "PNG"),
    "palette": encode(image(mode="P"), "PNG"),
    "alpha": encode(image(mode="RGBA"), "PNG"),
    "webp": encode(image(), "WEBP"),
    "cmyk": encode(image(mode="CMYK")),
}


@pytest.fixture(scope="module")
def feature_model(tmp_path_factory):
    return open_feature_model(write_run(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def folder(feature_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "saved_model" / "1"
    write_saved_model(feature_model, folder)
    return folder


@pytest.fixture(scope="module")
def opened(folder):
    return open_saved_model(folder)


@pytest.fixture(scope="module")
def model(folder):
    return tf.saved_model.load(str(folder))


@pytest.fixture(scope="module")
def signatures(model):
    return model.signatures


@pytest.mark.parametrize("count", [1, 5])
def test_images_to_all_outputs(signatures, feature_model, count):
    images = normalized(feature_model, count)
    found = signatures["serving_default"](image=tf.constant(images))
    expected = feature_model(images)
    assert set(found) == set(expected) >= {"features", "rotation", "invariant", "block1", "embedding"}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)


def test_rotation_probabilities_alone(signatures, feature_model, tmp_path):
    images = normalized(feature_model)
    found = signatures["rotation_probabilities"](image=tf.constant(images))
    assert list(found) == ["rotation_probabilities"]
    np.testing.assert_allclose(
        found["rotation_probabilities"], feature_model(images)["rotation_probabilities"], atol=1e-5
    )
    np.testing.assert_allclose(tf.reduce_sum(found["rotation_probabilities"], axis=1), 1, atol=1e-5)


def test_about_tells_the_facts_to_each(signatures, feature_model, folder):
    texts = signatures["about"](ignored=tf.constant(["", "x"]))["json"].numpy()
    assert [ModelInfo.from_json(text, "here") for text in texts] == [feature_model.info] * 2
    assert ModelInfo.from_json((folder / "assets" / "model.json").read_text(), "here") == feature_model.info


def test_files_are_prepared_as_in_evaluation(signatures, feature_model):
    found = signatures["jpeg"](encoded=tf.constant(list(GOOD.values())))
    for name, values in feature_model(prepared(feature_model, GOOD.values())).items():
        np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (animated_webp(), "an animated WebP"),
        (GOOD["jpeg"][:400], "damaged or cut short"),
        (GOOD["png"][:80], "damaged or cut short"),
        (b"<html>not found</html>", "neither JPEG, PNG, BMP nor WebP"),
        (b"", "an empty file"),
        (png_header(10_000, 10_000), "10000 x 10000 pixels, more than 64000000 in all"),
    ],
)
def test_bad_files_are_refused_by_position(signatures, bad, reason):
    files = [GOOD["png"], GOOD["jpeg"], bad, GOOD["grey"]]
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"\[image 2: {reason}"):
        signatures["jpeg"](encoded=tf.constant(files))


def test_every_bad_file_is_listed(opened):
    with pytest.raises(ValueError, match=r"image 0: an empty file; image 2: damaged or cut short$"):
        opened.from_files([b"", GOOD["png"], GOOD["jpeg"][:400]])
    with pytest.raises(ValueError, match=r"image 0: neither JPEG, PNG, BMP nor WebP$"):
        opened.from_files([b"nothing"])


def test_empty_batch(opened):
    with pytest.raises(ValueError, match="the batch of images is empty"):
        opened.from_files([])


def test_wrong_input_is_refused(signatures):
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
        signatures["serving_default"](image=tf.zeros([2, 15, 16, 3]))
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
        signatures["serving_default"](image=tf.zeros([2, 16, 16, 3], tf.uint8))


def test_runs_in_a_session_as_servers_run_it(folder, feature_model):
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        signature = meta.signature_def["jpeg"]
        outputs = {name: info.name for name, info in signature.outputs.items()}
        found = session.run(outputs, {signature.inputs["encoded"].name: [GOOD["jpeg"], GOOD["png"]]})
    expected = feature_model(prepared(feature_model, [GOOD["jpeg"], GOOD["png"]]))
    np.testing.assert_allclose(found["features"], expected["features"], atol=1e-5)


def test_uint8_input_is_normalized_inside(tmp_path):
    feature_model = small_network()
    fields = {**json.loads(feature_model.info.to_json()), "input": "uint8"}
    served = KerasFeatureModel(feature_model.model, ModelInfo.from_json(json.dumps(fields), "here"), "memory")
    write_saved_model(served, tmp_path / "1")
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    pixels = np.random.default_rng(2).integers(0, 256, (4, 16, 16, 3)).astype("uint8")
    found = signatures["serving_default"](image=tf.constant(pixels))["features"]
    np.testing.assert_allclose(
        found, feature_model(feature_model.info.normalize(pixels))["features"], atol=1e-5
    )
    rounded = feature_model.info.to_pixels(prepared(feature_model, [GOOD["jpeg"]]))
    from_file = signatures["jpeg"](encoded=tf.constant([GOOD["jpeg"]]))["features"]
    np.testing.assert_array_equal(
        from_file, signatures["serving_default"](image=tf.constant(rounded))["features"]
    )
    opened = open_feature_model(tmp_path)  # takes normalised images like every feature model
    np.testing.assert_allclose(opened(feature_model.info.normalize(pixels))["features"], found, atol=1e-6)


def test_opened_like_every_model(folder, feature_model, opened):
    images = normalized(feature_model)
    assert opened.info == feature_model.info
    np.testing.assert_allclose(opened(images, ["pool"])["pool"], feature_model(images)["pool"], atol=1e-5)
    with pytest.raises(ValueError, match="no feature map 'conv9'; it has: block1, pool"):
        open_feature_model(folder, ["conv9"])


def test_found_from_the_folders_above(folder):
    for location in (folder, folder.parent, folder.parent.parent):
        assert find_saved_model(location) == folder


def test_newest_version_counts(folder, tmp_path):
    for version in ("2", "10", "notes"):
        (tmp_path / version).mkdir()
    for version in ("2", "10"):
        (tmp_path / version / "saved_model.pb").write_bytes(b"broken")
        (tmp_path / version / "assets").mkdir()
        (tmp_path / version / "assets" / "model.json").write_text(
            (folder / "assets" / "model.json").read_text()
        )
    with pytest.raises(ValueError, match=r"/10: TensorFlow cannot read it"):
        open_saved_model(tmp_path)
    (tmp_path / "10" / "assets" / "model.json").unlink()
    with pytest.raises(ValueError, match=r"/10 has no assets/model\.json"):
        open_saved_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no SavedModel"):
        open_feature_model(tmp_path / "notes")


def test_does_not_write_over_anything(feature_model, folder):
    with pytest.raises(FileExistsError, match="is not empty"):
        write_saved_model(feature_model, folder)


def test_photographs_of_natural_sizes(signatures, feature_model, test_data, tmp_path):
    """50 photographs, 10 of them in grey as well: the pipeline over a folder and the `jpeg` signature."""
    from PIL import Image

    photographs = sorted((test_data / "VOCdevkit" / "VOC2007" / "JPEGImages").glob("*.jpg"))[:50]
    if len(photographs) < 50:
        pytest.skip("fewer than 50 photographs")
    for number, path in enumerate(photographs):
        (tmp_path / path.name).write_bytes(path.read_bytes())
        if number % 5 == 0:
            Image.open(path).convert("L").save(tmp_path / f"grey_{path.name}", quality=95)
    source = FlatFolder(tmp_path)
    assert len({Image.open(source.root / file).size for file in source.files}) > 5
    found, expected = [], []
    for batch in evaluation_dataset(source, feature_model.info.preprocessing, 20):
        files = [(source.root / source.files[index]).read_bytes() for index in batch["index"].numpy()]
        expected.append(feature_model(batch["image"].numpy()))
        found.append(signatures["jpeg"](encoded=tf.constant(files)))
    assert sum(len(part["features"]) for part in expected) == 60
    for name in feature_model.info.outputs:
        for part, reference in zip(found, expected, strict=True):
            np.testing.assert_allclose(part[name], reference[name], atol=1e-3, err_msg=name)
