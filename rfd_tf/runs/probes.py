"""Training classifiers on `Inputs`: probes, whole networks, multi-label classifiers; and testing them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from rfd_tf.callbacks import DeferredReweighting
from rfd_tf.data import steps_per_epoch
from rfd_tf.losses import ClassifierLoss, MultiLabelLoss
from rfd_tf.models import MultiLabelClassifier, ProbedModel
from rfd_tf.runs.build import build_optimizer
from rfd_tf.runs.fit import Training, fit
from rfd_tf.runs.images import IMAGE_ERRORS
from rfd_tf.runs.inputs import ImageInputs, Inputs, image_crops
from rfd_tf.runs.run import Run
from rfd_tf.runs.workdir import HISTORY_FILE, read_history
from rfd_tf.terminal import progress_bar


def fit_probes(
    run: Run,
    inputs: Inputs,
    make_model: Callable[[bool], tuple[ProbedModel, Mapping[str, ClassifierLoss]]],
    rate_factor: float = 1.0,
) -> ProbedModel:
    """Train a `ProbedModel`.

    Args:
        run: of a config as `configs/evaluate/base.py`.
        inputs: what it learns from, and is measured on after every epoch.
        make_model: (whether to synchronise batch norm) -> (the model, the losses by probe); called under the
            strategy's scope.
        rate_factor: of the rate of an unfrozen backbone, over that of the probes.
    """
    config = run.config
    losses: dict[str, ClassifierLoss] = {}

    def build(synchronized: bool, _resumed: bool) -> ProbedModel:
        model, made = make_model(synchronized)
        losses.update(made)
        model.compile(_built_optimizer(run, inputs, model))
        if rate_factor != 1 and model.backbone is not None:
            model.optimizer.scale_rates(model.backbone.trainable_variables, rate_factor)
        return model

    def deferred_reweighting(_model) -> list[keras.callbacks.Callback]:
        return [
            DeferredReweighting(config.classifier.drw_start_epoch, config.classifier.beta, loss.loss)
            for loss in losses.values()
            if loss.deferred_reweighting
        ]

    return _fit(
        run,
        inputs,
        build,
        validation_batches=lambda: inputs.validation_batches(config, run.strategy),
        state_callbacks=deferred_reweighting,
    )


def fit_multi_label(
    run: Run,
    inputs: ImageInputs,
    make_model: Callable[[bool], MultiLabelClassifier],
    rate_factor: float = 1.0,
) -> MultiLabelClassifier:
    """Train a `MultiLabelClassifier`, its biases at `config.optimizer.bias_rate` times the rate of weights.

    Args:
        run, inputs, make_model, rate_factor: as of `fit_probes`; `make_model` gives the model alone.
    """

    def build(synchronized: bool, _resumed: bool) -> MultiLabelClassifier:
        model = make_model(synchronized)
        optimizer = _built_optimizer(run, inputs, model)
        model.compile(optimizer, loss=MultiLabelLoss())
        trunk = {id(variable) for variable in model.trunk.trainable_variables}
        for variable in model.trainable_variables:
            factor = rate_factor if id(variable) in trunk else 1.0
            if variable.path.endswith("/bias"):
                factor *= run.config.optimizer.bias_rate
            if factor != 1:
                optimizer.scale_rates([variable], factor)
        return model

    return _fit(run, inputs, build)


def _built_optimizer(run: Run, inputs: Inputs, model: keras.Model):
    optimizer = build_optimizer(
        run.config.optimizer, steps_per_epoch(inputs.num_examples, run.config.batch_size)
    )
    optimizer.build(model.trainable_variables)
    return optimizer


def _fit(run: Run, inputs: Inputs, build, **others) -> keras.Model:
    inputs.check(run.strategy)
    training = Training(
        inputs.num_examples,
        build,
        lambda step, epochs: inputs.training_batches(run.config, run.strategy, step, epochs),
        lambda step, error: inputs.name_bad_image(run.config, step, error),
        **others,
    )
    return fit(run, training)


def probe_scores(run: Run, inputs: Inputs, model: ProbedModel) -> dict[str, np.ndarray]:
    """Logits (or cosines) [M, C], by probe, of all test examples in order."""
    infer = tf.function(lambda features: model(features, training=False), reduce_retracing=True)
    found: dict[str, list[np.ndarray]] = {name: [] for name in _measured(model)}
    with _naming_bad_images(run, inputs, model):
        for features, _labels in inputs.test_batches(run.config):
            for name, logits in infer(features).items():
                found[name].append(logits.numpy())
    return {name: np.concatenate(batches) for name, batches in found.items()}


def multi_label_scores(run: Run, inputs: ImageInputs, model: MultiLabelClassifier, crops: int) -> np.ndarray:
    """Logits [M, C] of all test images in order, averaged over `crops` random crops; 0: the centre."""
    if crops < 0:
        raise ValueError(f"The number of test crops must not be negative. Received: {crops}")
    infer = tf.function(lambda images: model({"image": images}, training=False), reduce_retracing=True)
    found = []
    with _naming_bad_images(run, inputs, model), progress_bar("Test images", len(inputs.test.valid)) as bar:
        for images in image_crops(inputs.test, inputs.training.preprocessing, crops, run.config):
            count, each = images.shape[:2]
            logits = infer(tf.reshape(images, [-1, *images.shape[2:]])).numpy()
            found.append(logits.reshape(count, each, -1).mean(axis=1))
            bar.update(count)
    return np.concatenate(found)


@contextlib.contextmanager
def _naming_bad_images(run: Run, inputs: Inputs, model: keras.Model) -> Iterator[None]:
    try:
        yield
    except IMAGE_ERRORS as error:
        inputs.name_bad_image(run.config, int(model.optimizer.iterations.numpy()), error)
        raise


def best_epochs(run: Run, model: ProbedModel) -> dict[str, dict[str, float]]:
    """By probe: `best_epoch`, counted from 1, and `best_top1` in [0, 1], the highest top-1 of any epoch.

    From the history, which the first worker has: nothing on others. On several replicas top-1 is that of the
    whole batches of test examples.
    """
    if run.worker:
        return {}
    history = read_history(run.workdir / HISTORY_FILE)
    found = {}
    for name in _measured(model):
        accuracies = history[f"val_{name}_top1"]
        best = int(np.nanargmax(accuracies))
        found[name] = {"best_epoch": history["epoch"][best] + 1, "best_top1": float(accuracies[best])}
        logging.info("%s: best after epoch %d, %.4f", name, best + 1, accuracies[best])
    return found


def _measured(model: ProbedModel) -> list[str]:
    """Names of the probes that are tested: not the auxiliary ones."""
    return [name for name in model.probes if name not in model.auxiliary]
