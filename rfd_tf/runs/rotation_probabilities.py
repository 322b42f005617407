"""Rotation probabilities of every image, by networks that never saw it, and what they say of the images."""

import dataclasses
import os
from pathlib import Path

import keras
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rfd_tf import data
from rfd_tf.files import atomic_file, atomic_path
from rfd_tf.imbalance import effective_rotation_counts, rotation_instance_weights, rows_by_class
from rfd_tf.losses import classifier_loss
from rfd_tf.models import ProbedModel
from rfd_tf.models.backbone import check_feature_names, dense
from rfd_tf.rotations import NUM_ROTATIONS
from rfd_tf.runs.build import build_backbone, initialize
from rfd_tf.runs.images import ImageSet, list_skipped, open_training_images
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
        images: the N images.
    """

    probabilities: np.ndarray
    accuracies: tuple[float, ...]
    images: ImageSet


def predict_out_of_sample(config: ConfigDict, workdir: str | os.PathLike, folds: int) -> OutOfSample:
    """Train a rotation classifier (RotNet) on all folds but one, predict that one; for each fold in turn.

    Args:
        config: see `configs/base.py`; its data, preprocessing, backbone, optimizer, epochs and strategy are
            used. The classifier is one dense layer on the whole of `backbone.feature`.
        workdir: folder of the folds; each has checkpoints, a history and in the end its probabilities. A call
            with the same arguments goes on with what is missing.
        folds: K, at least 2. The images are dealt to them at random, by `config.seed`.

    Raises:
        ValueError: if there are fewer images than folds, or a field is out of range.
        WorkdirError: if the folder holds folds of another config.
        BadImageError, NonFiniteLossError, TrainingStopped: as of `runs.pretrain`.

    Reference: Gidaris et al., ICLR 2018 (RotNet); Feng et al., CVPR 2019 (RFD), which weighs views by it.
    """
    run = start_run(config, workdir)
    with run.hold_folder({**config.to_dict(), "folds": folds}) as folder:
        images = open_training_images(config, run.workdir)
        parts = deal(images.valid, folds, config.seed)
        folder.claim()
        probabilities = np.zeros((len(images.source), NUM_ROTATIONS), "float32")
        accuracies = []
        try:
            for number, held_out in enumerate(parts):
                fold = run.part(f"fold-{number + 1}-of-{folds}")
                found = _predict_fold(fold, images, held_out)
                probabilities[held_out] = found[:, :, 0]
                accuracies.append(float(np.mean(found.argmax(axis=2) == np.arange(NUM_ROTATIONS))))
        finally:
            list_skipped(images)
    return OutOfSample(probabilities, tuple(accuracies), images)


def deal(valid: np.ndarray, folds: int, seed: int) -> list[np.ndarray]:
    """`valid` in K parts of equal size but for one, at random by `seed`; each part in ascending order."""
    if folds < 2:
        raise ValueError(f"There must be at least 2 folds. Received: folds={folds}")
    if len(valid) < folds:
        raise ValueError(f"{len(valid)} images cannot be dealt to {folds} folds")
    shuffled = np.random.default_rng(seed).permutation(valid)
    return [np.sort(part) for part in np.array_split(shuffled, folds)]


def _predict_fold(run: Run, images: ImageSet, held_out: np.ndarray) -> np.ndarray:
    """What a network that never saw the held-out images says of them: float32 [M, 4 views, 4 rotations]."""
    path = run.workdir / _PROBABILITIES
    if path.exists():
        return np.load(path, allow_pickle=False)
    logging.info("%s: %d images held out", run.workdir.name, len(held_out))
    # Each fold begins as if it were the only one, whichever came before it in this process.
    keras.backend.clear_session()
    keras.utils.set_random_seed(run.config.seed)
    inputs = rotation_inputs(
        dataclasses.replace(images, valid=np.setdiff1d(images.valid, held_out)),
        dataclasses.replace(images, valid=held_out),
    )
    model = fit_probes(run, inputs, lambda synchronized: _rotnet(run.config, synchronized))
    logits = (
        probe_scores(run, inputs, model)[_HEAD].reshape(-1, NUM_ROTATIONS, NUM_ROTATIONS).astype("float64")
    )
    found = keras.ops.convert_to_numpy(keras.ops.softmax(logits)).astype("float32")
    with atomic_file(path) as file:
        np.save(file, found)
    return found


def _rotnet(config: ConfigDict, synchronized: bool):
    backbone = build_backbone(config, synchronized)
    initialize(config, backbone)
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


_SHOWN = 6  # images of either kind for each class


def ambiguity(probabilities: np.ndarray) -> np.ndarray:
    """How likely an image's three rotated views look upright, [N], the mean of columns 1 to 3 of [N, 4]."""
    return np.asarray(probabilities)[:, 1:].mean(axis=1)


def rotation_counts(probabilities: np.ndarray, valid: np.ndarray, gamma: float) -> np.ndarray:
    """Truly rotated examples of each rotation among the images `valid`, float64 [4]."""
    return effective_rotation_counts(rotation_instance_weights(probabilities[valid], gamma))


_ROWS = 65_536  # images of a row group


def write_parquet(path: str | os.PathLike, probabilities: np.ndarray, images: ImageSet) -> None:
    """One row for each view of each usable image: `index`, `file`, `view` (quarter turns), `probability`.

    Raises:
        ImportError: without pyarrow.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"index": pa.int64(), "file": pa.string(), "view": pa.int8(), "probability": pa.float32()}
    schema = pa.schema(list(types.items()))
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for first in range(0, len(images.valid), _ROWS):
            rows = images.valid[first : first + _ROWS]
            files = np.array(list(images.source.descriptions(rows)), object)
            columns = {
                "index": np.repeat(rows, NUM_ROTATIONS),
                "file": np.repeat(files, NUM_ROTATIONS),
                "view": np.tile(np.arange(NUM_ROTATIONS, dtype="int8"), len(rows)),
                "probability": np.asarray(probabilities[rows], "float32").ravel(),
            }
            writer.write_table(pa.table(columns, schema))


def draw_rotatability(path: Path, probabilities: np.ndarray, images: ImageSet) -> None:
    """Write a PNG: histogram of all probabilities, the most and the least rotatable images by class."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = _by_class(images)
    figure = Figure(figsize=(13, 3.2 + 1.1 * len(classes)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 1, height_ratios=[3.2, 1.1 * len(classes)])
    _draw_histogram(figure.add_subplot(grid[0]), probabilities[images.valid])
    scores = ambiguity(probabilities)
    inner = grid[1].subgridspec(len(classes), 2 * _SHOWN + 1)
    for line, (name, rows) in enumerate(classes.items()):
        ordered = rows[np.argsort(scores[rows], kind="stable")]
        count = min(_SHOWN, len(rows) // 2)
        shown = np.concatenate([ordered[:count], ordered[len(ordered) - count :]])
        title = figure.add_subplot(inner[line, _SHOWN])
        title.axis("off")
        title.text(0.5, 0.5, name[:16], ha="center", va="center")
        for position, image in enumerate(shown_images(images, shown)):
            column = position if position < count else position + 1 + 2 * (_SHOWN - count)
            axes = figure.add_subplot(inner[line, column])
            axes.imshow(image)
            axes.set_title(f"{scores[shown[position]]:.2f}", fontsize=8)
            axes.axis("off")
    figure.supxlabel(
        "left: the most rotatable of a class; right: the most rotation-ambiguous; above each the mean "
        "probability of its three rotated views",
        fontsize=9,
    )
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _by_class(images: ImageSet, most: int = 20) -> dict[str, np.ndarray]:
    """Usable images by the name of their class, of two images at least; the first classes where many."""
    source, valid = images.source, images.valid
    if source.labels is None:
        return {"all": valid}
    names = source.class_names or tuple(map(str, range(source.num_classes)))
    groups = zip(names, rows_by_class(source.labels[valid], len(names)), strict=True)
    return dict([(name, valid[places]) for name, places in groups if len(places) > 1][:most])


def _draw_histogram(axes, probabilities: np.ndarray) -> None:
    views = [probabilities[:, view] for view in range(NUM_ROTATIONS)]
    axes.hist(views, bins=20, range=(0, 1), label=[f"{90 * view} degrees" for view in range(NUM_ROTATIONS)])
    axes.set(
        title="How likely each view looks upright, out of sample",
        xlabel="probability",
        ylabel="views",
        yscale="log",
    )
    axes.legend()


def shown_images(images: ImageSet, rows: np.ndarray) -> np.ndarray:
    """The images at `rows` as the network sees them, [n, S, S, 3] in [0, 1]."""
    if not len(rows):
        return np.zeros((0, 1, 1, 3))
    batch = next(iter(data.evaluation_dataset(images.source, images.preprocessing, len(rows), rows)))
    features = batch[0] if isinstance(batch, tuple) else batch
    return np.clip(features["image"].numpy() * images.preprocessing.std + images.preprocessing.mean, 0, 1)
