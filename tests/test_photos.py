"""One photograph, stored in all eight EXIF orientations, gives one feature by every way in."""

import json

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict
from PIL import Image
from sklearn.datasets import load_sample_image

from rfd_tf import cli, data
from rfd_tf.configs.base import data_fields
from rfd_tf.detection.boxes import match_regions
from rfd_tf.detection.detector import SavedDetector
from rfd_tf.detection.find_objects import find_objects
from rfd_tf.detection.inputs import BatchOptions, detection_batches, open_annotated, read_image
from rfd_tf.detection.proposals import SelectiveSearch
from rfd_tf.evaluation.features import cached_features
from rfd_tf.exporting.detector import write_detector_saved_model
from rfd_tf.features import load_features, open_feature_model
from rfd_tf.image_header import encoded_size
from rfd_tf.report.sample import take_sample
from rfd_tf.runs.images import open_image_set
from rfd_tf.serving import ServingClient
from tests.data.devkits import annotation
from tests.data.images import oriented
from tests.detection.tiny_detector import CLASSES, tiny_detector
from tests.export.models import small_backbone, write_run
from tests.serving.server import ModelServer
from zoo.rescaling import calibration_images

ORIENTATIONS = range(1, 9)


def photograph() -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg")[100:340, 120:440])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos") / "photos"
    root.mkdir()
    for orientation in ORIENTATIONS:
        (root / f"{orientation}.jpg").write_bytes(oriented(photograph(), orientation, quality=95))
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    fields = {"exif_orientation": True}
    return write_run(tmp_path_factory.mktemp("runs") / "run", fields, small_backbone())


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "out"
    command = ["rfd", "export", f"--model={run}", f"--out={out}", "--formats=saved_model,onnx"]
    assert cli.main([*command, "--num_images=2"]) == 0
    return out


@pytest.fixture(scope="module")
def expected(run):
    """The feature of the photograph itself."""
    feature_model = open_feature_model(run)
    content = tf.constant(oriented(photograph(), 1, quality=95))
    return feature_model(feature_model.info.preprocessing.eval_image(content).numpy()[None], ["features"])[
        "features"
    ]


def images_of(folder, run, **fields):
    config = data_fields()
    config.update({"source": "flat_folder", "root": str(folder)} | fields)
    return open_image_set(config, open_feature_model(run).info.preprocessing, folder.parent / "skipped.json")


def in_training(run, exported, folder, tmp_path):
    images = images_of(folder, run)
    batch = next(iter(data.evaluation_dataset(images.source, images.preprocessing, 8)))
    return open_feature_model(run)(batch["image"].numpy(), ["features"])["features"]


def in_knn(run, exported, folder, tmp_path):
    found = cached_features(open_feature_model(run), images_of(folder, run), ["features"], tmp_path / "c", 3)
    return found["features"]


def extracted(model, folder, out, *more):
    command = ["rfd", "extract", f"--model={model}", f"--images={folder}", f"--out={out}", "--format=npz"]
    assert cli.main([*command, *more]) == 0
    return load_features(out)[0]["features"]


def in_extraction(run, exported, folder, tmp_path):
    return extracted(run, folder, tmp_path / "out")


def in_onnx(run, exported, folder, tmp_path):
    return extracted(exported / "model.onnx", folder, tmp_path / "out")


def in_saved_model(run, exported, folder, tmp_path):
    files = [path.read_bytes() for path in sorted(folder.iterdir())]
    return open_feature_model(exported / "saved_model").from_files(files)["features"]


def in_serving(run, exported, folder, tmp_path):
    name = open_feature_model(exported / "saved_model").info.name
    with (
        ModelServer(exported / "saved_model", name) as server,
        ServingClient(server.rest_address) as client,
    ):
        return client.features_of_files(sorted(folder.iterdir()))["features"]


def in_report(run, exported, folder, tmp_path):
    sample, _ = take_sample(open_feature_model(run), "features", images_of(folder, run), "training", 8)
    levels = sample.thumbnails.astype(int)
    assert np.abs(levels - levels[:1]).max() <= 25
    return sample.features


def cosines(features, expected):
    norms = np.linalg.norm(features, axis=1) * np.linalg.norm(expected)
    return features @ expected[0] / norms


@pytest.mark.parametrize(
    "way", [in_training, in_knn, in_extraction, in_onnx, in_saved_model, in_serving, in_report]
)
def test_eight_equal_features(way, run, exported, folder, expected, tmp_path):
    features = way(run, exported, folder, tmp_path)
    assert len(features) == 8
    assert cosines(features, expected).min() > 0.999


def test_ignored_where_a_config_or_a_flag_says_so(run, folder, expected, tmp_path):
    images = images_of(folder, run, exif_orientation=False)
    features = cached_features(open_feature_model(run), images, ["features"], tmp_path / "c", 3)["features"]
    assert cosines(features, expected).min() < 0.99
    flag = extracted(run, folder, tmp_path / "out", "--noexif_orientation")
    np.testing.assert_allclose(flag, features, atol=1e-5)


def test_runs_from_before_go_on_ignoring_it_unless_told(folder, expected, tmp_path):
    old = write_run(tmp_path / "old", {"source": "flat_folder"}, small_backbone())
    assert cosines(extracted(old, folder, tmp_path / "as_before"), expected).min() < 0.99
    told = extracted(old, folder, tmp_path / "told", "--exif_orientation")
    assert cosines(told, expected).min() > 0.999
    command = ["rfd", "export", f"--model={old}", f"--out={tmp_path / 'out'}", "--formats=saved_model"]
    assert cli.main([*command, "--exif_orientation", "--num_images=1"]) == 0
    features = in_saved_model(old, tmp_path / "out", folder, tmp_path)
    assert cosines(features, expected).min() > 0.999


@pytest.fixture(scope="module")
def lossless(tmp_path_factory):
    """The photograph again, so that what is found in it is the same to the last bit."""
    root = tmp_path_factory.mktemp("lossless")
    image = photograph().resize((96, 72))
    for orientation in ORIENTATIONS:
        (root / f"{orientation}.png").write_bytes(oriented(image, orientation, "PNG"))
    return root


def test_proposals_are_in_what_is_shown(lossless):
    search = SelectiveSearch("single")
    expected = search(lossless / "1.png")
    assert expected[:, 2].max() > 71  # beyond the height
    for orientation in ORIENTATIONS:
        np.testing.assert_array_equal(search(lossless / f"{orientation}.png"), expected)
    ignoring = SelectiveSearch("single", exif_orientation=False)
    assert ignoring(lossless / "6.png")[:, 2].max() <= 71
    assert ignoring.fingerprint() != search.fingerprint()


def test_calibration_images_are_as_shown(lossless):
    images = calibration_images(lossless, (24, 32), 8)
    assert (images == images[:1]).all()


def test_objects_are_found_in_what_is_shown(lossless, tmp_path):
    detector = tiny_detector()
    found = json.loads(find_objects(detector, lossless, tmp_path / "out", 200).read_text())
    assert [one["file"] for one in found] == [f"{orientation}.png" for orientation in ORIENTATIONS]
    assert found[0]["detections"]
    for one in found:
        assert one["detections"] == found[0]["detections"]
        with Image.open(tmp_path / "out" / "pictures" / one["file"]) as drawn:
            assert drawn.size == (96, 72)
    write_detector_saved_model(detector, tmp_path / "saved")
    saved, proposals = SavedDetector(tmp_path / "saved"), SelectiveSearch("fast")(lossless / "1.png")[:200]
    scores = [
        saved.from_file((lossless / f"{orientation}.png").read_bytes(), proposals).scores
        for orientation in ORIENTATIONS
    ]
    np.testing.assert_allclose(scores, np.repeat(scores[:1], 8, axis=0), atol=1e-6)
    np.testing.assert_allclose(scores[0], [one["score"] for one in found[0]["detections"]], atol=1e-5)


def test_annotations_are_of_what_is_shown(tmp_path):
    folder = tmp_path / "VOC2007"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    text = annotation((CLASSES[0], (3, 4, 30, 20), False), size=(50, 40))
    image = Image.fromarray(np.asarray(photograph().resize((50, 40))))
    (folder / "JPEGImages" / "a.jpg").write_bytes(oriented(image, 6, quality=98, subsampling=0))
    (folder / "Annotations" / "a.xml").write_text(text)
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("a\n")
    fields = ConfigDict({"source": "voc_devkit", "root": str(folder), "split": "trainval", "year": "2007"})
    fields.exif_orientation = True
    source = open_annotated(fields)
    assert encoded_size(folder / "JPEGImages" / "a.jpg") == (40, 50)
    levels = read_image(source, 0, exif_orientation=True).astype(int)
    assert np.abs(levels - np.asarray(image)).mean() < 3
    regions = [match_regions(source.annotations[0].boxes, source.annotations[0])]
    options = BatchOptions(1, scales=(40,), exif_orientation=True)
    schedule = data.Schedule(np.arange(1), seed=0, batch_size=1, epochs=1)
    batches = detection_batches(source, regions, data.Preprocessing(32), schedule, options)
    assert next(iter(batches))[0]["image"].shape == (1, 40, 50, 3)
    fields.exif_orientation = False
    with pytest.raises(data.VocError, match=r"40 x 50.*says 50 x 40: the size with exif_orientation=True"):
        open_annotated(fields)
