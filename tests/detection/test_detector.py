import dataclasses
import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from rfd_tf.detection import boxes as box_functions
from rfd_tf.detection.boxes import scaled_image
from rfd_tf.detection.detector import DetectionOptions, Detector, open_detector, save_detector
from tests.contract import to_numpy
from tests.detection.test_boxes import random_boxes
from tests.detection.test_detect import suppressed
from tests.detection.tiny_detector import CLASSES, OPTIONS, tiny_detector, tiny_model


@pytest.fixture(scope="module")
def detector():
    return tiny_detector()


def image_and_proposals(seed=1, height=60, width=90, count=40):
    rng = np.random.default_rng(seed)
    proposals = random_boxes(rng, count, side=min(height, width) - 1)
    return rng.integers(0, 256, (height, width, 3), "uint8"), np.concatenate([proposals, proposals + 0.2])


def expected_detections(detector, image, proposals, factors):
    """Each proposal at its factor, none of them shared; then from the definition."""
    options, found = detector.options, []
    logits, deltas = np.zeros((len(proposals), 4)), np.zeros((len(proposals), 4, 4))
    for factor in np.unique(factors):
        own = np.flatnonzero(factors == factor)
        scaled = scaled_image(image, factor, detector.mean, detector.std)[None]
        regions = (proposals[own] * np.float32(factor))[None]
        outputs = detector.model({"image": scaled, "regions": regions}, training=False)
        logits[own] = to_numpy(outputs["class_logits"])[0]
        deltas[own] = to_numpy(outputs["deltas"])[0] * 0.1 + 0.01
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    height, width = image.shape[:2]
    for label in range(1, 4):
        moved = np.array(box_functions.decode(proposals, deltas[:, label]))
        moved = np.clip(moved, 0, [width - 1, height - 1] * 2)
        likely = np.flatnonzero(probabilities[:, label] >= options.score)
        for row in suppressed(moved[likely], probabilities[likely, label], options.nms_iou):
            found.append((probabilities[likely[row], label], label - 1, moved[likely[row]]))
    return sorted(found, key=lambda one: -one[0])[: options.most]


def assert_detections(found, expected):
    assert len(expected) > 10
    assert found.labels.tolist() == [label for _, label, _ in expected]
    np.testing.assert_allclose(found.scores, [score for score, _, _ in expected], atol=1e-5)
    np.testing.assert_allclose(found.boxes, [box for _, _, box in expected], atol=1e-3)


def test_equals_the_definition(detector):
    image, proposals = image_and_proposals()
    found = detector(image, proposals)
    assert_detections(
        found, expected_detections(detector, image, proposals, np.full(len(proposals), 150 / 90))
    )
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == ("float32", "float32", "int64")


def test_of_several_scales_each_proposal_takes_that_nearest_to_224_pixels():
    image, proposals = image_and_proposals(2, 60, 80)
    proposals[:6] = [
        [0, 0, 79, 59],
        [0, 0, 59, 59],
        [2, 3, 70, 50],
        [1, 0, 60, 57],
        [0, 9, 79, 59],
        [0, 0, 9, 9],
    ]
    detector = tiny_detector(DetectionOptions((60, 180, 240), longest=300, score=0.2, nms_iou=0.5, most=60))
    candidates = np.array([1.0, 3.0, 300 / 80])
    sides = proposals[:, 2:] - proposals[:, :2] + 1
    nearest = np.abs(sides.prod(axis=1)[:, None] * candidates**2 - 224**2).argmin(axis=1)
    assert set(nearest) == {1, 2}
    expected = expected_detections(detector, image, proposals, candidates[nearest])
    assert_detections(detector(image, proposals), expected)


def test_one_trace_for_all_sizes(detector):
    for seed, (height, width) in enumerate([(60, 90), (41, 33), (10, 200), (1, 1)]):
        image, proposals = image_and_proposals(seed, height, width, 3 + seed)
        found = detector(image, proposals)
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [width - 1, height - 1] * 2).all()
    assert detector.traced.experimental_get_tracing_count() == 1


def test_no_proposals(detector):
    found = detector(np.zeros((40, 40, 3), "uint8"), np.zeros((0, 4)))
    assert found.boxes.shape == (0, 4)
    assert len(found.scores) == len(found.labels) == 0


def test_bad_images_and_boxes(detector):
    with pytest.raises(ValueError, match="uint8"):
        detector(np.zeros((40, 40, 3)), np.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"\[40, 40\]"):
        detector(np.zeros((40, 40), "uint8"), np.zeros((1, 4)))
    with pytest.raises(ValueError, match="finite"):
        detector(np.zeros((40, 40, 3), "uint8"), [[0, 0, np.nan, 3]])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"class_names": ("cat",)}, "3 classes"),
        ({"std": (0.5, 0.0, 0.5)}, "std"),
        ({"options": DetectionOptions(longest=2000)}, "longest"),
        ({"name": "a b"}, "name"),
    ],
)
def test_bad_arguments(changed, named):
    arguments = {"class_names": CLASSES, "mean": (0.5,) * 3, "std": (0.5,) * 3, **changed}
    with pytest.raises(ValueError, match=named):
        Detector(tiny_model(), **arguments)


def test_a_file_detects_the_same(tmp_path):
    detector = tiny_detector()
    detector.model.compile("adam")
    detector.model.optimizer.build(detector.model.trainable_variables)
    save_detector(detector, tmp_path / "run" / "detector.keras")
    for place in (tmp_path / "run", tmp_path / "run" / "detector.keras"):
        opened = open_detector(place)
        assert opened.facts() == detector.facts()
        assert opened.options == detector.options
    image, proposals = image_and_proposals()
    found, again = detector(image, proposals), opened(image, proposals)
    assert len(found.scores) > 10
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(again, name))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["detector.keras"]
    with zipfile.ZipFile(tmp_path / "run" / "detector.keras") as archive:
        assert not json.loads(archive.read("config.json"))["compile_config"]
        weights = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    assert "optimizer" not in weights


def test_a_model_of_another_policy_is_copied():
    detector = tiny_detector()
    model = detector.model
    for layer in model._flatten_layers(include_self=False):
        layer.dtype_policy = "mixed_bfloat16"
    before = [layer.dtype_policy for layer in model._flatten_layers()]
    mixed = dataclasses.replace(detector)
    assert [layer.dtype_policy for layer in model._flatten_layers()] == before
    assert {layer.compute_dtype for layer in mixed.model._flatten_layers()} == {"float32"}
    image, proposals = image_and_proposals()
    np.testing.assert_allclose(
        mixed(image, proposals).scores, tiny_detector()(image, proposals).scores, rtol=1e-5
    )


def test_detectors_from_before_exif_orientation_ignore_it(tmp_path):
    old = dataclasses.replace(tiny_detector(), exif_orientation=False)
    assert "exif_orientation" not in old.facts()
    for detector in (old, tiny_detector()):
        save_detector(detector, tmp_path / "detector.keras")
        assert open_detector(tmp_path).exif_orientation == detector.exif_orientation


def test_a_file_of_before_detects_as_it_did(tmp_path):
    """Without the fields that came later: boxes are x2 - x1 + 1 wide, all of a class go into suppression."""
    detector = tiny_detector()
    save_detector(detector, tmp_path / "detector.keras")
    with zipfile.ZipFile(tmp_path / "detector.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    del config["config"]["exclusive_deltas"]
    facts = json.loads(members["rfd_tf_detector.json"])
    del facts["options"]["most_of_class"]
    members |= {"config.json": json.dumps(config), "rfd_tf_detector.json": json.dumps(facts)}
    with zipfile.ZipFile(tmp_path / "old.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    old = open_detector(tmp_path / "old.keras")
    assert old.options == detector.options
    assert not old.model.exclusive_deltas
    image, proposals = image_and_proposals()
    np.testing.assert_array_equal(old(image, proposals).boxes, detector(image, proposals).boxes)


def test_deltas_are_read_as_they_were_learnt(tmp_path):
    """A detector that learnt of boxes x2 - x1 wide moves them so, also from its file."""
    plain, detector = tiny_detector(), tiny_detector()
    detector.model.exclusive_deltas = True
    save_detector(detector, tmp_path / "detector.keras")
    image, proposals = image_and_proposals()
    found, again = detector(image, proposals), open_detector(tmp_path / "detector.keras")(image, proposals)
    np.testing.assert_array_equal(again.boxes, found.boxes)
    other = plain(image, proposals)
    assert len(other.boxes) != len(found.boxes) or np.abs(other.boxes - found.boxes).max() > 0.01


def test_computes_in_float32_whatever_it_was_trained_in():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = tiny_detector()
    finally:
        keras.config.set_dtype_policy("float32")
    plain = tiny_detector()
    plain.model.set_weights(mixed.model.get_weights())
    image = np.random.default_rng(0).normal(size=(1, 60, 90, 3)).astype("float32")
    inputs = {"image": image, "regions": np.float32([[[0, 0, 80, 50], [9, 9, 40, 40]]])}
    for name, values in plain.model(inputs).items():
        np.testing.assert_array_equal(mixed.model(inputs)[name], values)


def test_files_of_other_kinds(tmp_path):
    with pytest.raises(FileNotFoundError, match="not finished"):
        open_detector(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"gone\.keras"):
        open_detector(tmp_path / "gone.keras")
    (tmp_path / "text.keras").write_text("no archive")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    for name in ("text.keras", "other.keras"):
        with pytest.raises(ValueError, match=f"{name} is not a detector"):
            open_detector(tmp_path / name)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"class_names": ["cat"]},
        {"options": {"most": 3}},
        {"mean": 3},
        {"odd": 1},
        {"exif_orientation": "yes"},
    ],
)
def test_facts_that_do_not_fit(tmp_path, change):
    from rfd_tf.models.keras_file import write_keras

    facts = {**tiny_detector().facts(), **change}
    write_keras(tiny_model(), tmp_path / "bad.keras", "rfd_tf_detector.json", json.dumps(facts))
    with pytest.raises(ValueError, match=r"bad\.keras"):
        open_detector(tmp_path / "bad.keras")


def test_a_damaged_file(tmp_path):
    save_detector(tiny_detector(OPTIONS), tmp_path / "detector.keras")
    with zipfile.ZipFile(tmp_path / "detector.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "cut.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content[:100] if name.endswith(".h5") else content)
    with pytest.raises(ValueError, match=r"cut\.keras"):
        open_detector(tmp_path / "cut.keras")
