"""Rotation probabilities of every image, by a network that never saw it."""

import dataclasses
import os
from collections.abc import Callable

import keras
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rfd_tf.files import atomic_file
from rfd_tf.losses import classifier_loss
from rfd_tf.models import ProbedModel
from rfd_tf.models.backbone import check_feature_names, dense
from rfd_tf.rotations import NUM_ROTATIONS
from rfd_tf.runs.build import build_backbone
from rfd_tf.runs.images import Pictures, list_skipped, open_training_pictures
from rfd_tf.runs.inputs import rotation_inputs
from rfd_tf.runs.probes import fit_probes, probe_scores
from rfd_tf.runs.run import Run, start_run

_PROBABILITIES = "probabilities.npy"
_HEAD = "rotation"


@dataclasses.dataclass(frozen=True)
class OutOfSample:
    """What the folds found.

    Attributes:
        probabilities: float32 [N, 4]; column k is how likely view k looks upright. Zero for images that were
            skipped: what is not known to be ambiguous counts in full.
        accuracies: the share of views of each fold whose rotation was told, in [0, 1].
        pictures: the N images.
    """

    probabilities: np.ndarray
    accuracies: tuple[float, ...]
    pictures: Pictures


def predict_out_of_sample(
    config: ConfigDict, workdir: str | os.PathLike, folds: int, initialize: Callable | None = None
) -> OutOfSample:
    """Train a rotation classifier (RotNet) on all folds but one, predict that one; for each fold in turn.

    Args:
        config: see `configs/base.py`; its data, preprocessing, backbone, optimizer, epochs and strategy are
            used. The classifier is one dense layer on the whole of `backbone.feature`.
        workdir: folder of the folds; each has checkpoints, a history and in the end its probabilities. A call
            with the same arguments goes on with what is missing.
        folds: K, at least 2. The images are dealt to them at random, by `config.seed`.
        initialize: sets a backbone's weights from `config.init`, before training starts.

    Raises:
        ValueError: if there are fewer images than folds, or a field is out of range.
        WorkdirError: if the folder holds folds of another config.
        BadImageError, NonFiniteLossError, TrainingStopped: as of `training.pretrain`.

    Reference: Gidaris et al., ICLR 2018 (RotNet); Feng et al., CVPR 2019 (RFD), which weighs views by it.
    """
    run = start_run(config, workdir)
    with run.hold_folder({**config.to_dict(), "folds": folds}) as folder:
        pictures = open_training_pictures(config, run.workdir)
        parts = deal(pictures.valid, folds, config.seed)
        folder.claim()
        probabilities = np.zeros((len(pictures.source), NUM_ROTATIONS), "float32")
        accuracies = []
        try:
            for number, held_out in enumerate(parts):
                fold = run.part(f"fold-{number + 1}-of-{folds}")
                found = _predict_fold(fold, pictures, held_out, initialize)
                probabilities[held_out] = found[:, :, 0]
                accuracies.append(float(np.mean(found.argmax(axis=2) == np.arange(NUM_ROTATIONS))))
        finally:
            list_skipped(pictures)
    return OutOfSample(probabilities, tuple(accuracies), pictures)


def deal(valid: np.ndarray, folds: int, seed: int) -> list[np.ndarray]:
    """`valid` in K parts of equal size but for one, at random by `seed`; each part in ascending order."""
    if folds < 2:
        raise ValueError(f"There must be at least 2 folds. Received: folds={folds}")
    if len(valid) < folds:
        raise ValueError(f"{len(valid)} images cannot be dealt to {folds} folds")
    shuffled = np.random.default_rng(seed).permutation(valid)
    return [np.sort(part) for part in np.array_split(shuffled, folds)]


def _predict_fold(run: Run, pictures: Pictures, held_out: np.ndarray, initialize) -> np.ndarray:
    """What a network that never saw the held-out images says of them: float32 [M, 4 views, 4 rotations]."""
    path = run.workdir / _PROBABILITIES
    if path.exists():
        return np.load(path, allow_pickle=False)
    logging.info("%s: %d images held out", run.workdir.name, len(held_out))
    # Each fold begins as if it were the only one, whichever came before it in this process.
    keras.backend.clear_session()
    keras.utils.set_random_seed(run.config.seed)
    inputs = rotation_inputs(
        dataclasses.replace(pictures, valid=np.setdiff1d(pictures.valid, held_out)),
        dataclasses.replace(pictures, valid=held_out),
    )
    model = fit_probes(run, inputs, lambda synchronized: _rotnet(run.config, synchronized, initialize))
    logits = (
        probe_scores(run, inputs, model)[_HEAD].reshape(-1, NUM_ROTATIONS, NUM_ROTATIONS).astype("float64")
    )
    found = keras.ops.convert_to_numpy(keras.ops.softmax(logits)).astype("float32")
    with atomic_file(path) as file:
        np.save(file, found)
    return found


def _rotnet(config: ConfigDict, synchronized: bool, initialize: Callable | None):
    backbone = build_backbone(config, synchronized)
    if config.init:
        initialize(backbone)
    feature = config.backbone.feature
    check_feature_names([feature], list(backbone.output))
    width = backbone.output[feature].shape[-1]
    inputs = keras.Input((width,), name="feature")
    logits = dense(NUM_ROTATIONS, width, "rotation_head", dtype=keras.config.floatx())(inputs)
    head = keras.Model(inputs, logits, name=_HEAD)
    loss = classifier_loss("cross_entropy", [1] * NUM_ROTATIONS)
    trained = keras.Model(backbone.inputs[0], {feature: backbone.output[feature]}, name=backbone.name)
    model = ProbedModel({_HEAD: head}, {_HEAD: feature}, {_HEAD: loss.loss}, trained, frozen=False)
    return model, {_HEAD: loss}
