"""Average precisions per class: from scores to files, tables and the page."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from rfd_tf.evaluation.results import (
    ClassifierFigures,
    MultiLabelFigures,
    load_result,
    markdown_table,
    multi_label_figures,
    save_result,
    text_table,
)
from rfd_tf.metrics.voc_average_precision import image_precision_recall
from rfd_tf.report.figures import choose_classifier
from tests.report.made_up import made_up_result

RNG = np.random.default_rng(0)
TARGETS = RNG.choice([-1, -1, 1, 0], (80, 4))
TARGETS[:, 3] = RNG.choice([-1, 0], 80)  # a class that no image shows
SCORES = RNG.normal(size=(80, 4)) + TARGETS


@pytest.fixture
def result():
    made = made_up_result("voc_classification", ["pool5"], ["cat", "dog", "cow", "boat"], [5, 6, 7, 0])
    figures = multi_label_figures(TARGETS, SCORES, {"samples": 5, "11_point_map_std": 0.0125})
    return type(made)(**{**vars(made), "figures": {"pool5, k=1": figures}})


def test_by_class_and_mean():
    figures = multi_label_figures(TARGETS, SCORES)
    for rule in ("11_point", "area"):
        values = figures.average_precision[rule]
        expected = [
            image_precision_recall(SCORES[:, c], TARGETS[:, c]).average_precision(rule) for c in range(3)
        ]
        assert values == [*expected, None]
        assert figures.mean_average_precision[rule] == pytest.approx(np.mean(expected))
    # Without interpolation it is no higher, and near.
    counted = TARGETS[:, 0] != 0
    plain = average_precision_score(TARGETS[counted, 0] == 1, SCORES[counted, 0])
    assert plain <= figures.average_precision["area"][0] < plain + 0.1


def test_what_does_not_count_does_not_count():
    changed = np.where(TARGETS == 0, 100.0, SCORES)
    assert multi_label_figures(TARGETS, changed) == multi_label_figures(TARGETS, SCORES)


def test_errors():
    with pytest.raises(ValueError, match=r"\(80, 4\), \(80, 3\)"):
        multi_label_figures(TARGETS, SCORES[:, :3])
    with pytest.raises(ValueError, match="shows any"):
        multi_label_figures(TARGETS[:, 3:], SCORES[:, 3:])
    with pytest.raises(ValueError, match="finite"):
        multi_label_figures(TARGETS, SCORES * np.nan)


def test_files_of_either_kind_load(result, tmp_path):
    assert load_result(save_result(result, tmp_path)) == result
    assert result.is_multi_label
    fields = json.loads((tmp_path / "evaluation.json").read_text())
    del fields["notes"]  # of before there were any
    (tmp_path / "evaluation.json").write_text(json.dumps(fields))
    assert load_result(tmp_path / "evaluation.json") == result
    other = made_up_result("linear", ["conv1"], ["cat", "dog"], [5, 6])
    again = load_result(save_result(other, tmp_path))
    assert isinstance(again.figures["conv1"], ClassifierFigures)
    assert not again.is_multi_label
    fields = json.loads((tmp_path / "evaluation.json").read_text())
    fields["figures"]["conv1"] = {"average_precision": 1, "nonsense": 2}
    (tmp_path / "evaluation.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"evaluation\.json"):
        load_result(tmp_path / "evaluation.json")


def test_tables(result):
    figures = result.figures["pool5, k=1"]
    shown = text_table(result)
    for value in (*figures.mean_average_precision.values(), *figures.average_precision["11_point"][:3]):
        assert f"{100 * value:.1f}" in shown
    header, _, line = shown.splitlines()[:3]
    assert "mAP, 11-point" in header
    assert line.endswith("1.2")
    assert shown.splitlines()[-1].split() == ["boat"]
    assert "mAP, area" in markdown_table(result)


def test_no_section_on_mistakes_is_made_of_it(result):
    assert choose_classifier({"voc_classification": result}) is None
    linear = made_up_result("knn", ["features"], ["cat", "dog"], [5, 6])
    assert choose_classifier({"a": result, "knn": linear}).figures == linear.figures["features"]
    assert isinstance(next(iter(result.figures.values())), MultiLabelFigures)
