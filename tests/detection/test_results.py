import json
import re

import numpy as np
import pytest

from rfd_tf.data import VOC_CLASSES, VocDevkit
from rfd_tf.detection.coco_metrics import write_coco_results
from rfd_tf.detection.detector import Detections
from rfd_tf.detection.voc_metrics import evaluate_detections, read_voc_results, rounded, write_voc_results


@pytest.fixture(scope="module")
def real(test_data):
    source = VocDevkit(test_data / "VOCdevkit", "test")
    return dict(zip(source.names, source.annotations, strict=True))


def perfect(annotations, rng):
    """Every object found, in any order of scores."""
    return {
        name: Detections(found.boxes, rng.uniform(0.5, 1, len(found.boxes)).astype("float32"), found.labels)
        for name, found in annotations.items()
    }


def test_the_annotations_themselves_are_perfect(real):
    figures = evaluate_detections(perfect(real, np.random.default_rng(0)), real, VOC_CLASSES)
    for rule in ("11_point", "area"):
        found = figures.average_precisions(rule)
        assert (found[~np.isnan(found)] == 1).all()
        assert figures.mean_average_precision(rule) == 1
    counts = [curve.num_positives for curve in figures.curves]
    assert sum(counts) == sum((~found.difficult).sum() for found in real.values())
    table = figures.table()
    assert table.count("\n") == 22
    assert f"| person | {counts[14]} | 100.0 | 100.0 |" in table
    assert "| **mean** |" in table.splitlines()[-1]


def test_classes_of_their_own(real):
    """A class whose detections are called another has nothing; the others do not suffer."""
    found = perfect(real, np.random.default_rng(1))
    cat, dog = VOC_CLASSES.index("cat"), VOC_CLASSES.index("dog")
    changed = {
        name: Detections(d.boxes, d.scores, np.where(d.labels == cat, dog, d.labels))
        for name, d in found.items()
    }
    values = evaluate_detections(changed, real, VOC_CLASSES).average_precisions()
    assert values[cat] == 0
    assert 0 < values[dog] < 1
    others = np.delete(values, [cat, dog])
    assert (others[~np.isnan(others)] == 1).all()


def test_images_must_be_the_same(real):
    found = perfect(real, np.random.default_rng(2))
    first = next(iter(found))
    del found[first]
    with pytest.raises(ValueError, match=first):
        evaluate_detections(found, real, VOC_CLASSES)


def test_nothing_found_anywhere(real):
    nothing = Detections(np.zeros((0, 4), "float32"), np.zeros(0, "float32"), np.zeros(0, "int64"))
    figures = evaluate_detections(dict.fromkeys(real, nothing), real, VOC_CLASSES)
    assert figures.mean_average_precision() == 0
    empty = evaluate_detections({}, {}, VOC_CLASSES)
    assert np.isnan(empty.mean_average_precision())
    assert "| - | - |" in empty.table()


def test_result_files_give_the_same_figures(real, tmp_path):
    rng = np.random.default_rng(3)
    noisy = {
        name: Detections(d.boxes + rng.normal(0, 6, d.boxes.shape).astype("float32"), d.scores, d.labels)
        for name, d in perfect(real, rng).items()
    }
    paths = write_voc_results(tmp_path, noisy, VOC_CLASSES, "test")
    assert paths[0].name == "comp4_det_test_aeroplane.txt"
    again = read_voc_results(tmp_path, list(real), VOC_CLASSES, "test")
    for name, found in noisy.items():
        order = np.argsort(-found.scores, kind="stable")
        np.testing.assert_array_equal(again[name].scores, found.scores[order])
        np.testing.assert_allclose(again[name].boxes, found.boxes[order], rtol=1e-6, atol=1e-5)
    figures = [evaluate_detections(d, real, VOC_CLASSES).average_precisions() for d in (noisy, again)]
    np.testing.assert_array_equal(*figures)
    assert 0.2 < np.nanmean(figures[0]) < 1


def test_rounded_results_are_fast_rcnns_files(real, tmp_path):
    """Scores of three decimals, corners of one: what is written is what is measured."""
    rng = np.random.default_rng(4)
    noisy = {
        name: Detections(d.boxes + rng.normal(0, 6, d.boxes.shape).astype("float32"), d.scores**8, d.labels)
        for name, d in perfect(real, rng).items()
    }
    cut = {name: rounded(found) for name, found in noisy.items()}
    write_voc_results(tmp_path, cut, VOC_CLASSES, "test", few_decimals=True)
    lines = (tmp_path / "comp4_det_test_person.txt").read_text().splitlines()
    assert all(re.fullmatch(r"\d{6} [01]\.\d{3}( -?\d+\.\d){4}", line) for line in lines)
    name, score, *corners = lines[0].split()
    row = np.flatnonzero(noisy[name].labels == VOC_CLASSES.index("person"))[0]
    assert float(score) == pytest.approx(noisy[name].scores[row], abs=5.1e-4)
    np.testing.assert_allclose(np.float64(corners) - 1, noisy[name].boxes[row], atol=0.051)
    again = read_voc_results(tmp_path, list(real), VOC_CLASSES, "test")
    figures = [evaluate_detections(d, real, VOC_CLASSES).average_precisions() for d in (cut, again)]
    np.testing.assert_array_equal(*figures)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("000001 0.5 1 2 3", "must be `image"),
        ("000001 0.5 1 2 3 x", "must be `image"),
        ("000001 nan 1 2 3 4", "not finite"),
        ("../etc 0.5 1 2 3 4", r"no image '\.\./etc'"),
    ],
)
def test_broken_result_files_are_named(tmp_path, line, message):
    path = tmp_path / "comp4_det_test_cat.txt"
    with pytest.raises(FileNotFoundError, match=path.name):
        read_voc_results(tmp_path, ["000001"], ["cat"], "test")
    path.write_text(f"000001 0.5 1 2 3 4\n{line}\n")
    with pytest.raises(ValueError, match=f"line 2.*{message}"):
        read_voc_results(tmp_path, ["000001"], ["cat"], "test")


def test_coco(tmp_path):
    found = {"000012": Detections(np.float32([[0, 1, 9, 4]]), np.float32([0.5]), np.array([14]))}
    write_coco_results(tmp_path / "a.json", found)
    assert json.loads((tmp_path / "a.json").read_text()) == [
        {"image_id": 12, "category_id": 15, "bbox": [0, 1, 10, 4], "score": 0.5}
    ]
    write_coco_results(tmp_path / "b.json", {"x": found["000012"], "y": found["000012"]})
    assert [row["image_id"] for row in json.loads((tmp_path / "b.json").read_text())] == [1, 2]
