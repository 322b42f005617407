"""Fine-tuning: the whole network learns with a classifier on its features."""

import keras

from rfd_tf.atomic import atomic_path
from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.probing import classifier_losses, run_figures
from rfd_tf.evaluation.results import ClassifierFigures
from rfd_tf.extractors import KerasExtractor, ModelInfo, save_keras
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
    networks = {}

    def make_model(synchronized: bool):
        outputs = [name for name in experiment.extractor.info.outputs if name not in _HEADS]
        network = network_copy(experiment.extractor.model, outputs, synchronized)
        trained = keras.Model(network.inputs[0], {feature: network.output[feature]}, name=network.name)
        (loss,) = classifier_losses(experiment).values()
        head = _head(trained.output[feature].shape[-1], len(experiment.class_names), loss.cosine_head)
        networks["whole"], networks["head"] = network, head
        model = ProbedModel({feature: head}, {feature: feature}, {feature: loss.loss}, trained, frozen=False)
        return model, {feature: loss}

    run = ProbeRun(
        experiment.config,
        experiment.workdir,
        experiment.strategy,
        PictureInputs(experiment.training, experiment.test),
        make_model,
        experiment.config.finetune.rate_factor,
    )
    run.build()
    run.fit()
    if run.is_first_worker:
        _save(experiment, networks["whole"], networks["head"])
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
    if len(losses := classifier_losses(experiment)) > 1:
        raise ValueError(f"Fine-tuning takes one of `classifier.losses` at a time. Received: {tuple(losses)}")
    return names[0]


def _head(width: int, num_classes: int, cosine: bool) -> keras.Model:
    inputs = keras.Input((width,), name="feature")
    return keras.Model(inputs, classifier(inputs, num_classes, cosine), name="classifier_head")


def _save(experiment: Experiment, network: keras.Model, head: keras.Model) -> None:
    info = experiment.extractor.info
    outputs = {name: shape for name, shape in info.outputs.items() if name not in _HEADS}
    finetuned = ModelInfo(info.name, info.preprocessing, outputs)
    path = experiment.workdir / FINETUNED_FILE
    with atomic_path(experiment.workdir / CLASSIFIER_FILE) as temporary:
        head.save(temporary)
    save_keras(KerasExtractor(network, finetuned, str(path)), path)
