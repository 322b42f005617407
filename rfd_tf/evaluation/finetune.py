"""Networks trained with a classifier on their features: fine-tuning, from scratch, and VOC's classes."""

import dataclasses
import os
from functools import partial

import keras
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rfd_tf.data import LOCALIZED_ROTATIONS, Preprocessing
from rfd_tf.evaluation.experiment import Experiment, measured
from rfd_tf.evaluation.probes import classifier_losses, feature_names, probe_figures
from rfd_tf.evaluation.results import (
    ClassifierFigures,
    EvaluationResult,
    MultiLabelFigures,
    multi_label_figures,
)
from rfd_tf.features import KerasFeatureModel, ModelInfo, keras_feature_model, save_keras
from rfd_tf.files import atomic_path
from rfd_tf.imbalance import class_balanced_weights
from rfd_tf.losses import ClassifierLoss
from rfd_tf.models import MultiLabelClassifier, ProbedModel, dense_head, dense_weights, set_dense_weights
from rfd_tf.models.backbone import fan_in_uniform
from rfd_tf.models.heads import classifier
from rfd_tf.models.inference import FEATURES
from rfd_tf.models.keras_file import network_copy
from rfd_tf.runs.build import build_backbone, initialize
from rfd_tf.runs.inputs import ImageInputs, multi_label_inputs
from rfd_tf.runs.probes import fit_multi_label, fit_probes, multi_label_scores
from rfd_tf.runs.workdir import BACKBONE_FILE

FINETUNED_FILE = "finetuned.keras"
CLASSIFIER_FILE = "classifier.keras"  # of its features
VOC_CLASSIFIER_FILE, LOGITS = "voc_classifier.keras", "logits"
PUBLISHED_VOC = ("pool5",)
_AUXILIARY = "localized_rotation"  # the input with its labels, too
_HEADS = ("rotation_probabilities", "embedding")  # of the features as they were


def run_finetune(experiment: Experiment) -> dict[str, ClassifierFigures]:
    """The figures after the last epoch, by feature.

    The workdir then has `finetuned.keras`, which can be opened as any model, and `classifier.keras`, from its
    features to logits (or cosines).

    Raises:
        ValueError: for a model that is not there in its Keras form, several features or losses, or features
            on disk.
    """
    feature = _check(experiment)
    return train_whole(experiment, feature, FINETUNED_FILE)


def train_whole(
    experiment: Experiment,
    feature: str,
    saved_as: str,
    kernel_initializer: keras.initializers.Initializer | None = None,
) -> dict[str, ClassifierFigures]:
    """Train the experiment's network with a classifier on `feature`; the figures after the last epoch.

    Args:
        experiment: of a Keras model, with one loss.
        feature: a vector among the model's outputs.
        saved_as: name of the file that the trained network gets in the workdir.
        kernel_initializer: of a dense classifier; by default as of `models.heads.classifier`.

    With `finetune.localized_rotation` a second classifier of the same kind tells rotated patches by
    cross-entropy, of unscaled cosines where the first one gives cosines, as the authors do. It is not kept.

    Raises:
        ValueError: on `finetune` or `classifier` options out of range.
    """
    networks = {}
    task, weight = _localized_rotation(experiment)

    feature_model = experiment.feature_model
    assert isinstance(feature_model, KerasFeatureModel)
    outputs = {name: shape for name, shape in feature_model.info.outputs.items() if name not in _HEADS}

    def make_model(synchronized: bool):
        network = network_copy(feature_model.model, list(outputs), synchronized)
        trained = keras.Model(network.inputs[0], {feature: network.output[feature]}, name=network.name)
        loss = _one_loss(experiment)
        make_head = partial(_head, trained.output[feature].shape[-1], loss.cosine_head, kernel_initializer)
        probes, losses = {feature: make_head(len(experiment.class_names))}, {feature: loss.loss}
        networks["whole"], networks["head"] = network, probes[feature]
        if task:
            probes[_AUXILIARY] = make_head(LOCALIZED_ROTATIONS[task], _AUXILIARY)
            losses[_AUXILIARY] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        features = dict.fromkeys(probes, feature)
        auxiliary = {_AUXILIARY: weight} if task else {}
        model = ProbedModel(probes, features, losses, trained, frozen=False, auxiliary=auxiliary)
        return model, {feature: loss}

    inputs = ImageInputs(
        experiment.training, experiment.test, sampling=_sampling(experiment), rotate_locally=task
    )
    model = fit_probes(experiment.run, inputs, make_model, experiment.config.finetune.rate_factor)
    if not experiment.run.worker:
        with atomic_path(experiment.run.workdir / CLASSIFIER_FILE) as temporary:
            networks["head"].save(temporary)
        _save(experiment, networks["whole"], saved_as, outputs)
    return probe_figures(experiment, inputs, model)


def _check(experiment: Experiment) -> str:
    """The feature to classify by."""
    config, feature_model = experiment.config, experiment.feature_model
    if not isinstance(feature_model, KerasFeatureModel):
        raise ValueError(
            f"Only a Keras model can be fine-tuned: a run's folder, a .keras file or zoo:NAME. "
            f"{feature_model.location} is not one; use linear or nonlinear probes for it"
        )
    if config.input != "images":
        raise ValueError(f"Fine-tuning needs `input='images'`. Received: input={config.input!r}")
    names = feature_model.check_names(tuple(config.features) or (FEATURES,))
    if len(names) > 1 or len(feature_model.info.outputs[names[0]]) != 1 or names[0] in _HEADS:
        raise ValueError(f"Fine-tuning takes one vector of `features`, such as 'features'. Received: {names}")
    _one_loss(experiment)
    return names[0]


def _one_loss(experiment: Experiment) -> ClassifierLoss:
    losses = classifier_losses(experiment)
    if len(losses) != 1:
        raise ValueError(
            f"A whole network learns by one of `classifier.losses` at a time. Received: {tuple(losses)}"
        )
    return next(iter(losses.values()))


def _sampling(experiment: Experiment) -> np.ndarray | None:
    """Weights of the training images that are drawn by weight; None where each comes once an epoch."""
    options = experiment.config.classifier
    if options.sampling == "class_balanced":
        weights = class_balanced_weights(experiment.class_counts, options.beta)
        return weights[experiment.training.labels]
    if options.sampling:
        raise ValueError(
            f"`classifier.sampling` must be '' or 'class_balanced'. Received: {options.sampling!r}"
        )
    return None


def _localized_rotation(experiment: Experiment) -> tuple[str, float]:
    """The kind of the auxiliary task, empty for none, and the weight of its loss."""
    wanted = tuple(experiment.config.finetune.localized_rotation)
    if not wanted:
        return "", 0.0
    weighed = len(wanted) == 2 and isinstance(wanted[1], int | float) and 0 < wanted[1] < float("inf")
    if not weighed or wanted[0] not in LOCALIZED_ROTATIONS:
        raise ValueError(
            f"`finetune.localized_rotation` must be (), or one of {', '.join(LOCALIZED_ROTATIONS)} with the "
            f"weight of its loss, such as ('explicit', 0.1). Received: {wanted}"
        )
    return wanted


def _head(
    width: int, cosine: bool, kernel_initializer, num_classes: int, name: str = "classifier"
) -> keras.Model:
    inputs = keras.Input((width,), name="feature")
    # Cao et al.'s code draws a kernel anew and leaves the bias as PyTorch begins it.
    bias_initializer = fan_in_uniform(width) if kernel_initializer else "zeros"
    logits = classifier(inputs, num_classes, cosine, name, kernel_initializer, bias_initializer)
    return keras.Model(inputs, logits, name=f"{name}_head")


def _save(
    experiment: Experiment,
    network: keras.Model,
    name: str,
    outputs: dict[str, tuple[int, ...]],
    class_names: tuple[str, ...] = (),
) -> None:
    """Write the trained network to the workdir, with all that is needed to open it."""
    info = experiment.feature_model.info
    orientation = experiment.training.preprocessing.exif_orientation
    prepared = dataclasses.replace(info.preprocessing, exif_orientation=orientation)
    own = ModelInfo(info.name, prepared, outputs, class_names=class_names)
    path = experiment.run.workdir / name
    save_keras(KerasFeatureModel(network, own, str(path)), path)


def classify(config: ConfigDict, workdir: str | os.PathLike, command: str = "") -> EvaluationResult:
    """Train a network with a classifier on its main feature, as configured; continue what was interrupted.

    Args:
        config: see `configs/classify/classify.py`.
        workdir: the run's folder. It ends with `backbone.keras` (features, to be evaluated or exported like
            those of any run), `classifier.keras` (from them to logits, or to cosines), `evaluation.json`,
            `history.csv` and `checkpoints/`.
        command: the command line, for the result.

    Returns:
        The figures after the last epoch, by the name of the feature; their `extra` has the best epoch's.

    Raises:
        WorkdirError: if the folder holds a run of another config.
        BadImageError: on a corrupt image, unless `on_error="skip"`.
        NonFiniteLossError, TrainingStopped: as of `runs.pretrain`.
        ValueError: on a config out of range.

    Reference: Cao et al., NeurIPS 2019 (LDAM-DRW), whose recipe `configs/classify/classify.py` is.
    """

    def network() -> KerasFeatureModel:
        backbone = build_backbone(config)
        initialize(config, backbone)
        return keras_feature_model(
            backbone,
            Preprocessing.of_config(config),
            config.init or "untrained network",
            feature_name=config.backbone.feature,
            decoupled=False,
        )

    def train(experiment: Experiment) -> dict[str, ClassifierFigures]:
        # As in Cao et al.'s code: normal, not truncated as `keras.initializers.HeNormal` is.
        he_normal = keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
        return train_whole(experiment, FEATURES, BACKBONE_FILE, he_normal)

    return measured("classify", train, config, workdir, network, command)


def train_multi_label(experiment: Experiment, frozen: bool) -> dict[str, MultiLabelFigures]:
    """Train fc6, fc7 and fc8 for several classes an image: the figures after the last epoch.

    The workdir then has `voc_classifier.keras`, a model from images to `logits`.

    Args:
        experiment: with targets, of a Keras model.
        frozen: whether only these new layers learn. Else the network is trained along, and fc6 and fc7 begin
            as its own, where it has them.

    Raises:
        ValueError: for a model that is not there in its Keras form, or several features.
    """
    feature = _multi_label_feature(experiment)
    crops = experiment.config.voc.test_crops
    inputs = multi_label_inputs(experiment.training, experiment.test)
    model = fit_multi_label(
        experiment.run,
        inputs,
        lambda synchronized: _multi_label_model(experiment, feature, frozen, synchronized),
        experiment.config.finetune.rate_factor,
    )
    if not experiment.run.worker:
        # As a feature model of one output, which can be opened and exported like any.
        image = keras.Input(experiment.feature_model.info.image_shape, name="image")
        logits = model.head(model.trunk(image, training=False), training=False)
        whole = keras.Model(image, {LOGITS: logits}, name=model.trunk.name)
        names = experiment.class_names
        _save(experiment, whole, VOC_CLASSIFIER_FILE, {LOGITS: (len(names),)}, names)
    scores = multi_label_scores(experiment.run, inputs, model, crops)
    figures = multi_label_figures(experiment.test.targets, scores)
    return {f"{feature}, {f'{crops} crops' if crops else 'centre crop'}": figures}


def _multi_label_feature(experiment: Experiment) -> str:
    config, feature_model = experiment.config, experiment.feature_model
    method = config.voc.method
    if not isinstance(feature_model, KerasFeatureModel):
        raise ValueError(
            f"voc.method={method!r} trains a Keras model: a run's folder, a .keras file or zoo:NAME. "
            f"{feature_model.location} is not one; use voc.method='svm' for it"
        )
    if config.input != "images":
        raise ValueError(f"voc.method={method!r} needs `input='images'`. Received: input={config.input!r}")
    names = feature_names(experiment, PUBLISHED_VOC, last_only=True)
    if len(names) > 1:
        raise ValueError(f"voc.method={method!r} takes one of `features`. Received: {names}")
    return names[0]


def _multi_label_model(
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
