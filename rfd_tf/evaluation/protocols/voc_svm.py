"""Linear SVMs on frozen features of PASCAL VOC.

Reference: Goyal et al., ICCV 2019, "Scaling and Benchmarking Self-Supervised Visual Representation Learning".
"""

import numpy as np
from absl import logging

from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.linear_svm import cross_validated
from rfd_tf.evaluation.low_shot import fewest_positives
from rfd_tf.evaluation.multi_label_figures import multi_label_figures
from rfd_tf.evaluation.results import MultiLabelFigures
from rfd_tf.evaluation.svm_task import SvmTask, svm_tasks
from rfd_tf.progress_bar import progress_bar


def run(experiment: Experiment) -> dict[str, MultiLabelFigures]:
    """Feature -> figures; `extra` has the least and largest cost chosen, and machines not converged.

    A class with fewer positives than folds takes the cost that is best for the mean of the others.

    Raises:
        ValueError: on `voc` options out of range, or a class that no training picture shows.
    """
    label, fewest = fewest_positives(experiment.training_targets)
    if not fewest:
        raise ValueError(f"No training picture shows a {experiment.class_names[label]}: no SVM can learn it")
    with svm_tasks(experiment) as tasks:
        return {task.name: _figures(task) for task in tasks}


def _figures(task: SvmTask) -> MultiLabelFigures:
    costs = _chosen_costs(task)
    targets = task.experiment.training_targets

    def compute():
        machines = task.machines(targets, costs)
        found = list(progress_bar(f"SVMs, {task.name}", len(costs), machines, unit="class"))
        return {
            "scores": [machine.scores for machine in found],
            "converged": [machine.converged for machine in found],
        }

    machines = task.kept("machines", costs.tolist(), compute)
    extra = {
        "least_cost": float(costs.min()),
        "largest_cost": float(costs.max()),
        "unconverged": int((~machines["converged"]).sum()),
    }
    return multi_label_figures(task.experiment.test_targets, machines["scores"].T, extra)


def _chosen_costs(task: SvmTask) -> np.ndarray:
    """[C], by cross-validation where there are several; of equal ones the least."""
    classes = task.experiment.class_names
    if len(task.costs) == 1:
        return np.full(len(classes), task.costs[0])
    progress = progress_bar(f"Costs of SVMs, {task.name}", len(classes), range(len(classes)), unit="class")
    precisions = np.array([_precisions(task, label) for label in progress])
    unknown = np.isnan(precisions).any(axis=1)
    if unknown.all():
        raise ValueError(
            f"No class has {task.options.folds} training pictures that show it, to choose a cost by: give "
            f"one `voc.costs`. Received: {task.costs}"
        )
    if unknown.any():
        few = ", ".join(classes[label] for label in np.flatnonzero(unknown))
        logging.warning("%s: fewer positives than folds, the others' cost: %s", task.name, few)
        precisions[unknown] = precisions[~unknown].mean(axis=0)
    return np.array(task.costs)[precisions.argmax(axis=1)]


def _precisions(task: SvmTask, label: int) -> np.ndarray:
    """Of the costs, by cross-validation on one class; NaN where that is not possible."""
    labels = task.experiment.training_targets[:, label]

    def compute():
        found = cross_validated(task.training, labels, task.costs, task.options, task.pool)
        return {"precisions": np.full(len(task.costs), np.nan) if found is None else found}

    name = task.experiment.class_names[label]
    return task.kept(f"costs-{name}", task.costs, compute)["precisions"]
