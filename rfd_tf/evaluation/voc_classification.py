"""PASCAL VOC 2007 classification: fc6-8, fine-tuning, linear SVMs, low-shot."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np
from absl import logging

from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.probes import feature_names
from rfd_tf.evaluation.results import MultiLabelFigures, average_precisions, figures_of, multi_label_figures
from rfd_tf.evaluation.svm import (
    PUBLISHED,
    SvmTask,
    cross_validated,
    fewest_positives,
    low_shot_labels,
    svm_tasks,
)
from rfd_tf.features import KerasFeatureModel, ModelInfo, save_keras
from rfd_tf.metrics.voc_average_precision import RULES
from rfd_tf.models import MultiLabelClassifier, dense_head, dense_weights, set_dense_weights
from rfd_tf.models.keras_file import network_copy
from rfd_tf.runs.inputs import multi_label_inputs
from rfd_tf.runs.probes import fit_multi_label, multi_label_scores
from rfd_tf.terminal import progress_bar

CLASSIFIER_FILE = "voc_classifier.keras"
LOGITS = "logits"


def train_dense(experiment: Experiment) -> dict[str, MultiLabelFigures]:
    """New fc6, fc7 and fc8 on the frozen network: the figures after the last epoch.

    The workdir then has `voc_classifier.keras`, a model from images to `logits`.

    Raises:
        ValueError: for a model that is not there in its Keras form, or several features.
    """
    return _trained(experiment, frozen=True)


def train_all(experiment: Experiment) -> dict[str, MultiLabelFigures]:
    """The same with the network trained along; fc6 and fc7 begin as its own, where it has them."""
    return _trained(experiment, frozen=False)


def _trained(experiment: Experiment, frozen: bool) -> dict[str, MultiLabelFigures]:
    feature = _feature(experiment)
    crops = experiment.config.voc.test_crops
    inputs = multi_label_inputs(experiment.training, experiment.test)
    model = fit_multi_label(
        experiment.run,
        inputs,
        lambda synchronized: _classifier(experiment, feature, frozen, synchronized),
        experiment.config.finetune.rate_factor,
    )
    if not experiment.run.worker:
        _save(experiment, model)
    scores = multi_label_scores(experiment.run, inputs, model, crops)
    figures = multi_label_figures(experiment.test_targets, scores)
    return {f"{feature}, {f'{crops} crops' if crops else 'centre crop'}": figures}


def _feature(experiment: Experiment) -> str:
    config, feature_model = experiment.config, experiment.feature_model
    method = config.voc.method
    if not isinstance(feature_model, KerasFeatureModel):
        raise ValueError(
            f"voc.method={method!r} trains a Keras model: a run's folder, a .keras file or zoo:NAME. "
            f"{feature_model.location} is not one; use voc.method='svm' for it"
        )
    if config.input != "images":
        raise ValueError(f"voc.method={method!r} needs `input='images'`. Received: input={config.input!r}")
    names = feature_names(experiment, PUBLISHED, last_only=True)
    if len(names) > 1:
        raise ValueError(f"voc.method={method!r} takes one of `features`. Received: {names}")
    return names[0]


def _classifier(
    experiment: Experiment, feature: str, frozen: bool, synchronized: bool
) -> MultiLabelClassifier:
    feature_model, settings = experiment.feature_model, experiment.config.voc
    assert isinstance(feature_model, KerasFeatureModel)
    network = network_copy(feature_model.model, [feature], synchronized)
    trunk = keras.Model(network.inputs[0], network.output[feature], name=network.name)
    shape = feature_model.info.outputs[feature]
    own = None if frozen else dense_weights(feature_model.model, shape)
    widths = [len(bias) for _, bias in own] if own else [settings.dense_width] * 2
    keras.utils.set_random_seed(experiment.config.seed)
    head = dense_head(shape, len(experiment.class_names), widths, settings.dropout)
    if own:
        set_dense_weights(head, own)
    if not frozen:
        logging.info("fc6 and fc7 begin as %s", "the network's own" if own else "new ones: it has none")
    return MultiLabelClassifier(trunk, head, frozen=frozen)


def _save(experiment: Experiment, model: MultiLabelClassifier) -> None:
    """As a feature model of one output, which can be opened and exported like any."""
    info = experiment.feature_model.info
    orientation = experiment.training.preprocessing.exif_orientation
    prepared = dataclasses.replace(info.preprocessing, exif_orientation=orientation)
    inputs = keras.Input(info.image_shape, name="image")
    logits = model.head(model.trunk(inputs, training=False), training=False)
    whole = keras.Model(inputs, {LOGITS: logits}, name=model.trunk.name)
    path = experiment.run.workdir / CLASSIFIER_FILE
    names = experiment.class_names
    own = ModelInfo(info.name, prepared, {LOGITS: (len(names),)}, class_names=names)
    save_keras(KerasFeatureModel(whole, own, str(path)), path)


def run_svm(experiment: Experiment) -> dict[str, MultiLabelFigures]:
    """Feature -> figures; `extra` has the least and largest cost chosen, and machines not converged.

    A class with fewer positives than folds takes the cost that is best for the mean of the others.

    Raises:
        ValueError: on `voc` options out of range, or a class that no training image shows.
    """
    label, fewest = fewest_positives(experiment.training_targets)
    if not fewest:
        raise ValueError(f"No training image shows a {experiment.class_names[label]}: no SVM can learn it")
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
            f"No class has {task.options.folds} training images that show it, to choose a cost by: give "
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


def run_low_shot(experiment: Experiment) -> dict[str, MultiLabelFigures]:
    """`FEATURE, k=K` -> means over `voc.samples` draws, with the deviation of each mAP in `extra`.

    The cost is `voc.low_shot_cost`; of `voc.costs`, the one that is best on the test images and what it
    gives are in `extra`, for comparison with published figures, which are chosen so.

    A k that is more than the training images of some class is left out, with a warning.

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
            f"`voc.shots` must be from 1 to {fewest}, as many training images show a {name}. "
            f"Received: {wanted}"
        )
    if left_out := [str(k) for k in wanted if k > fewest]:
        logging.warning("k=%s is left out: %d training images show a %s", ", ".join(left_out), fewest, name)
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
    extra: dict[str, float] = {"samples": len(precisions)}
    for number, rule in enumerate(RULES):
        extra[f"{rule}_map_std"] = float(maps[:, 0, number].std())
    for number, rule in enumerate(RULES):
        extra[f"best_{rule}_map"] = float(maps[:, best, number].mean())
    return figures_of(precisions[:, 0].mean(axis=0), extra | {"best_cost": float(costs[best])})


METHODS = {"fc6-8": train_dense, "finetune": train_all, "svm": run_svm, "low_shot_svm": run_low_shot}


def run_voc_classification(experiment: Experiment) -> dict[str, MultiLabelFigures]:
    """The figures of `voc.method`, by feature, and number of shots or crops.

    Raises:
        ValueError: on another method, and what the methods have to say.
    """
    method = experiment.config.get("voc", {}).get("method")
    if method not in METHODS:
        raise ValueError(
            f"`voc.method` must be one of {', '.join(METHODS)}: take --config=voc_classification. "
            f"Received: {method!r}"
        )
    return METHODS[method](experiment)
