"""Fine-tuning: the whole network learns with a classifier on its features."""

import keras
import numpy as np

from rfd_tf.atomic import atomic_path
from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.probing import classifier_losses, run_figures
from rfd_tf.evaluation.results import ClassifierFigures
from rfd_tf.extractors import KerasExtractor, ModelInfo, save_keras
from rfd_tf.imbalance import class_balanced_weights
from rfd_tf.losses import ClassifierLoss
from rfd_tf.models import ProbedModel
from rfd_tf.models.feature_model import FEATURES
from rfd_tf.models.network_copy import network_copy
from rfd_tf.models.probes import classifier
from rfd_tf.training.picture_inputs import PictureInputs
from rfd_tf.training.probe_run import ProbeRun

FINETUNED_FILE = "finetuned.keras"
CLASSIFIER_FILE = "classifier.keras"  # of its features
_HEADS = ("rotation_probabilities", "embedding")  # of the features as they were


def run(experiment: Experiment) -> dict[str, ClassifierFigures]:
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
        kernel_initializer: of a dense classifier; by default as of `models.probes.classifier`.
    """
    networks = {}

    def make_model(synchronized: bool):
        outputs = [name for name in experiment.extractor.info.outputs if name not in _HEADS]
        network = network_copy(experiment.extractor.model, outputs, synchronized)
        trained = keras.Model(network.inputs[0], {feature: network.output[feature]}, name=network.name)
        loss = _one_loss(experiment)
        width = trained.output[feature].shape[-1]
        head = _head(width, len(experiment.class_names), loss.cosine_head, kernel_initializer)
        networks["whole"], networks["head"] = network, head
        model = ProbedModel({feature: head}, {feature: feature}, {feature: loss.loss}, trained, frozen=False)
        return model, {feature: loss}

    run = ProbeRun(
        experiment.config,
        experiment.workdir,
        experiment.strategy,
        PictureInputs(experiment.training, experiment.test, sampling=_sampling(experiment)),
        make_model,
        experiment.config.finetune.rate_factor,
    )
    run.build()
    run.fit()
    if run.is_first_worker:
        _save(experiment, networks["whole"], networks["head"], saved_as)
    return run_figures(experiment, run)


def _check(experiment: Experiment) -> str:
    """The feature to classify by."""
    config, extractor = experiment.config, experiment.extractor
    if not isinstance(extractor, KerasExtractor):
        raise ValueError(
            f"Only a Keras model can be fine-tuned: a run's folder, a .keras file or zoo:NAME. "
            f"{extractor.location} is none; use linear or nonlinear probes for it"
        )
    if config.input != "images":
        raise ValueError(f"Fine-tuning needs `input='images'`. Received: input={config.input!r}")
    names = extractor.check_names(tuple(config.features) or (FEATURES,))
    if len(names) > 1 or len(extractor.info.outputs[names[0]]) != 1 or names[0] in _HEADS:
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
    """Weights of the training pictures that are drawn by weight; None where each comes once an epoch."""
    options = experiment.config.classifier
    if options.sampling == "class_balanced":
        weights = class_balanced_weights(experiment.class_counts, options.beta)
        return weights[experiment.training_labels]
    if options.sampling:
        raise ValueError(
            f"`classifier.sampling` must be '' or 'class_balanced'. Received: {options.sampling!r}"
        )
    return None


def _head(width: int, num_classes: int, cosine: bool, kernel_initializer) -> keras.Model:
    inputs = keras.Input((width,), name="feature")
    logits = classifier(inputs, num_classes, cosine, "classifier", kernel_initializer)
    return keras.Model(inputs, logits, name="classifier_head")


def _save(experiment: Experiment, network: keras.Model, head: keras.Model, saved_as: str) -> None:
    info = experiment.extractor.info
    outputs = {name: shape for name, shape in info.outputs.items() if name not in _HEADS}
    finetuned = ModelInfo(info.name, info.preprocessing, outputs)
    path = experiment.workdir / saved_as
    with atomic_path(experiment.workdir / CLASSIFIER_FILE) as temporary:
        head.save(temporary)
    save_keras(KerasExtractor(network, finetuned, str(path)), path)
