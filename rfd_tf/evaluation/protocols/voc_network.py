"""fc6-8 on a network's last map, trained on PASCAL VOC alone or with all that is below.

Reference: Krähenbühl et al., ICLR 2016, "Data-dependent initializations of convolutional neural networks",
    whose code set the protocol.
"""

import dataclasses

import keras
from absl import logging

from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.multi_label_figures import multi_label_figures
from rfd_tf.evaluation.probing import feature_names
from rfd_tf.evaluation.results import MultiLabelFigures
from rfd_tf.evaluation.svm_task import PUBLISHED
from rfd_tf.extractors import KerasExtractor, ModelInfo, save_keras
from rfd_tf.models import MultiLabelClassifier, dense_head, dense_weights, set_dense_weights
from rfd_tf.models.network_copy import network_copy
from rfd_tf.training.multi_label_inputs import MultiLabelInputs
from rfd_tf.training.multi_label_run import MultiLabelRun

CLASSIFIER_FILE = "voc_classifier.keras"
LOGITS = "logits"


def train_dense(experiment: Experiment) -> dict[str, MultiLabelFigures]:
    """New fc6, fc7 and fc8 on the frozen network: the figures after the last epoch.

    The workdir then has `voc_classifier.keras`, a model from pictures to `logits`.

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
    run = MultiLabelRun(
        experiment.config,
        experiment.workdir,
        experiment.strategy,
        MultiLabelInputs(experiment.training, experiment.test, crops),
        lambda synchronized: _classifier(experiment, feature, frozen, synchronized),
        experiment.config.finetune.rate_factor,
    )
    run.build()
    run.fit()
    if run.is_first_worker:
        _save(experiment, run.model)
    figures = multi_label_figures(experiment.test_targets, run.test_scores())
    return {f"{feature}, {f'{crops} crops' if crops else 'centre crop'}": figures}


def _feature(experiment: Experiment) -> str:
    config, extractor = experiment.config, experiment.extractor
    method = config.voc.method
    if not isinstance(extractor, KerasExtractor):
        raise ValueError(
            f"voc.method={method!r} trains a Keras model: a run's folder, a .keras file or zoo:NAME. "
            f"{extractor.location} is none; use voc.method='svm' for it"
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
    extractor, settings = experiment.extractor, experiment.config.voc
    network = network_copy(extractor.model, [feature], synchronized)
    trunk = keras.Model(network.inputs[0], network.output[feature], name=network.name)
    shape = extractor.info.outputs[feature]
    own = None if frozen else dense_weights(extractor.model, shape)
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
    info = experiment.extractor.info
    orientation = experiment.training.preprocessing.exif_orientation
    prepared = dataclasses.replace(info.preprocessing, exif_orientation=orientation)
    inputs = keras.Input(info.image_shape, name="image")
    logits = model.head(model.trunk(inputs, training=False), training=False)
    whole = keras.Model(inputs, {LOGITS: logits}, name=model.trunk.name)
    path = experiment.workdir / CLASSIFIER_FILE
    names = experiment.class_names
    own = ModelInfo(info.name, prepared, {LOGITS: (len(names),)}, class_names=names)
    save_keras(KerasExtractor(whole, own, str(path)), path)
