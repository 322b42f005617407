import json

import numpy as np
import pytest
import torch

from rfd_tf.evaluation.results import (
    EvaluationResult,
    classification_figures,
    load_result,
    markdown_table,
    save_result,
    text_table,
)
from rfd_tf.runs import provenance

COUNTS = (500, 101, 100, 20, 19, 1, 0)


def test_against_independent_computations():
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 7, 200), rng.normal(size=(200, 7))
    figures = classification_figures(labels, scores, COUNTS, {"best_epoch": 3})
    first_five = torch.topk(torch.tensor(scores), 5).indices.numpy()
    predicted = first_five[:, 0]
    assert figures.top1 == pytest.approx(np.mean(predicted == labels))
    assert figures.top5 == pytest.approx(np.mean((first_five == labels[:, None]).any(axis=1)))
    assert figures.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    recalls = [np.mean(predicted[labels == c] == c) for c in range(7)]
    assert figures.per_class == pytest.approx(recalls)
    for group, classes in {"many": [0, 1], "medium": [2, 3], "few": [4, 5, 6]}.items():
        assert figures.shot_groups[group] == pytest.approx(np.mean([recalls[c] for c in classes]))
    for true, row in enumerate(figures.confusion):
        assert row == [int(np.sum((labels == true) & (predicted == taken))) for taken in range(7)]
    assert figures.extra == {"best_epoch": 3}
    assert classification_figures(labels, predicted, COUNTS).top1 == figures.top1


def test_classes_without_test_images_do_not_count():
    figures = classification_figures([0, 0, 2], np.array([0, 2, 2]), [200, 50, 150])
    assert figures.per_class == [0.5, None, 1.0]
    assert figures.balanced_accuracy == 0.75
    assert figures.shot_groups == {"many": 0.75, "medium": None, "few": None}
    assert figures.top5 is None


def test_few_classes_have_no_top_five():
    assert classification_figures([0, 1], np.eye(5)[:2], [9] * 5).top5 is None
    assert classification_figures([0, 5], np.eye(6)[[0, 1]], [9] * 6).top5 == 0.5


def test_of_equal_scores_the_smaller_class_comes_first():
    figures = classification_figures([0, 4, 5], np.zeros((3, 7)), COUNTS)
    assert figures.top1 == pytest.approx(1 / 3)
    assert figures.top5 == pytest.approx(2 / 3)


def test_scores_of_unseen_classes():
    scores = np.full((2, 7), -np.inf)
    scores[:, 1] = 0
    assert classification_figures([1, 6], scores, COUNTS).top1 == 0.5


@pytest.mark.parametrize(
    ("labels", "answers", "message"),
    [
        ([], np.zeros((0, 7)), "test set is empty"),
        ([0, 7], np.zeros((2, 7)), r"labels must be in \[0, 7\). Received: 7"),
        ([0, -1], np.zeros((2, 7)), "Received: -1"),
        ([0, 1], np.array([0, 9]), r"predictions must be in \[0, 7\). Received: 9"),
        ([0, 1], np.array([0.0, 1.0]), "vector of integers"),
        ([0, 1], np.array([0]), "2 labels and 1 predictions"),
        ([0, 1], np.zeros((2, 6)), r"shape \(2, 7\)"),
        ([0, 1], np.array([[0.0] * 7, [np.nan] * 7]), "test image 1 are not numbers"),
    ],
)
def test_bad_arguments(labels, answers, message):
    with pytest.raises(ValueError, match=message):
        classification_figures(np.asarray(labels, dtype="int64"), answers, COUNTS)


@pytest.fixture
def result():
    scores = np.eye(7)[[0, 1, 1]]
    return EvaluationResult(
        protocol="knn",
        model="runs/a",
        command="rfd evaluate",
        figures={
            "pool, k=20": classification_figures(
                [0, 1, 2], scores, COUNTS, {"best_epoch": 12, "best_top1": 0.675}
            ),
            "a|b": classification_figures([0, 1, 2], np.array([0, 1, 2]), COUNTS),
        },
        class_names=list("abcdefg"),
        class_counts=list(COUNTS),
        test_images=3,
        settings={"seed": 0, "k": (20,)},
        seconds=1.5,
        **provenance.here_and_now(),
    )


def test_tables(result):
    lines = text_table(result).splitlines()
    # No class with few training images has a test image.
    assert (
        " ".join(lines[0].split()) == "accuracy in % top-1 top-5 balanced many medium best epoch best top-1"
    )
    assert lines[2].split() == ["pool,", "k=20", "66.7", "100.0", "66.7", "100.0", "0.0", "12", "67.5"]
    assert len({len(line) for line in lines[:3]}) == 1
    rows = markdown_table(result).splitlines()
    assert rows[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert rows[3] == "| a\\|b | 100.0 |  | 100.0 | 100.0 | 100.0 |  |  |"


def test_result_with_its_circumstances_on_disk(result, tmp_path):
    again = load_result(save_result(result, tmp_path))
    assert again.figures == result.figures
    assert set(again.machine) == {"processor", "cores", "memory", "accelerators"}
    assert again.versions["python"].count(".") == 2
    assert again.versions["numpy"] == np.__version__
    assert again.date.endswith("+00:00")
    json.loads((tmp_path / "evaluation.json").read_text())
