"""Linear SVMs that learn each of PASCAL VOC's classes from a few pictures.

Reference: Goyal et al., ICCV 2019, "Scaling and Benchmarking Self-Supervised Visual Representation Learning".
"""

from collections.abc import Sequence

import numpy as np
from absl import logging

from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.low_shot import fewest_positives, low_shot_labels
from rfd_tf.evaluation.multi_label_figures import average_precisions, figures_of
from rfd_tf.evaluation.results import MultiLabelFigures
from rfd_tf.evaluation.svm_task import SvmTask, svm_tasks
from rfd_tf.metrics.voc_average_precision import RULES
from rfd_tf.progress_bar import progress_bar


def run(experiment: Experiment) -> dict[str, MultiLabelFigures]:
    """`FEATURE, k=K` -> means over `voc.samples` draws, with the deviation of each mAP in `extra`.

    The cost is `voc.low_shot_cost`; of `voc.costs`, the one that is best on the test pictures and what it
    gives are in `extra`, for comparison with published figures, which are chosen so.

    A k that is more than the training pictures of some class is left out, with a warning.

    Raises:
        ValueError: on `voc` options out of range, or if every k is left out.
    """
    settings = experiment.config.voc
    if not settings.low_shot_cost > 0 or settings.samples < 1:
        raise ValueError(
            "`voc.low_shot_cost` must be positive, `voc.samples` at least 1. "
            f"Received: {settings.low_shot_cost}, {settings.samples}"
        )
    draws = [(k, sample) for k in _possible_shots(experiment) for sample in range(settings.samples)]
    figures = {}
    with svm_tasks(experiment) as tasks:
        for task in tasks:
            costs = (settings.low_shot_cost, *(cost for cost in task.costs if cost != settings.low_shot_cost))
            found: dict[int, list[np.ndarray]] = {}
            for k, sample in progress_bar(f"Low-shot SVMs, {task.name}", len(draws), draws, unit="draw"):
                found.setdefault(k, []).append(_draw(task, k, sample, costs))
            for k, precisions in found.items():
                figures[f"{task.name}, k={k}"] = _mean_figures(np.array(precisions), costs)
    return figures


def _possible_shots(experiment: Experiment) -> list[int]:
    wanted = tuple(experiment.config.voc.shots)
    label, fewest = fewest_positives(experiment.training_targets)
    name = experiment.class_names[label]
    possible = [k for k in wanted if 1 <= k <= fewest]
    if not possible or min(wanted) < 1:
        raise ValueError(
            f"`voc.shots` must be from 1 to {fewest}, as many training pictures show a {name}. "
            f"Received: {wanted}"
        )
    if left_out := [str(k) for k in wanted if k > fewest]:
        logging.warning("k=%s is left out: %d training pictures show a %s", ", ".join(left_out), fewest, name)
    return possible


def _draw(task: SvmTask, shots: int, sample: int, costs: Sequence[float]) -> np.ndarray:
    """Average precisions [costs, rules, C] of one draw."""
    experiment = task.experiment

    def compute():
        labels = low_shot_labels(experiment.training_targets, shots, sample, task.options.seed)
        columns, every_cost = np.tile(labels, len(costs)), np.repeat(costs, labels.shape[1])
        scores = np.array([machine.scores for machine in task.machines(columns, every_cost)])
        by_cost = scores.reshape(len(costs), labels.shape[1], -1)
        return {"precisions": [average_precisions(experiment.test_targets, found.T) for found in by_cost]}

    return task.kept(f"{shots}-shot-{sample}", costs, compute)["precisions"]


def _mean_figures(precisions: np.ndarray, costs: Sequence[float]) -> MultiLabelFigures:
    """Of average precisions [samples, costs, rules, C]; the first cost is the one that counts."""
    maps = np.nanmean(precisions, axis=3)
    best = int(maps[:, :, RULES.index("area")].mean(axis=0).argmax())
    extra = {"samples": len(precisions)}
    for number, rule in enumerate(RULES):
        extra[f"{rule}_map_std"] = float(maps[:, 0, number].std())
    for number, rule in enumerate(RULES):
        extra[f"best_{rule}_map"] = float(maps[:, best, number].mean())
    return figures_of(precisions[:, 0].mean(axis=0), extra | {"best_cost": float(costs[best])})
