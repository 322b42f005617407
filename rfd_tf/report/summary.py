"""What a finished pretraining run has learned, beside an untrained control of the same architecture."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
from ml_collections import ConfigDict

from rfd_tf import data
from rfd_tf.evaluation.classifiers import logistic_scores
from rfd_tf.evaluation.evaluate import evaluation_batches, untrained_control
from rfd_tf.files import atomic_file
from rfd_tf.metrics import weighted_knn_predict
from rfd_tf.models import extract_features
from rfd_tf.models.keras_file import read_keras
from rfd_tf.runs.build import measured_feature
from rfd_tf.runs.images import ImageSet, open_run_images
from rfd_tf.runs.rotation_probabilities import ambiguity, shown_images
from rfd_tf.runs.workdir import read_history, read_run_config


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """Figures of a run.

    Attributes:
        history: the CSV history, a float column per name.
        accuracies: {"trained" or "untrained control": {"kNN" or "linear": accuracy in [0, 1]}}.
        ambiguous: up to 16 images [H, W, 3] in [0, 1] that the probability file calls most
            rotation-ambiguous, with their mean probabilities; None without a file.
    """

    history: dict[str, np.ndarray]
    accuracies: dict[str, dict[str, float]]
    ambiguous: tuple[np.ndarray, np.ndarray] | None


def summarize_run(workdir: Path) -> RunSummary:
    """Measure a finished run.

    The control has the config's initial weights, and batch-norm statistics of the training images, so that it
    differs by the training alone.

    Raises:
        FileNotFoundError: where the run has not finished.
        ValueError: where it is not a pretraining, or training or validation source has no labels.
    """
    if not (workdir / "backbone.keras").exists():
        raise FileNotFoundError(f"{workdir} holds no backbone.keras: the run has not finished")
    config = read_run_config(workdir)
    if config.kind != "pretrain":
        raise ValueError(f"{workdir} is a run on labels, not a pretraining: evaluation.json has its figures")
    training, test = open_run_images(config, workdir)
    if test is None:
        raise ValueError("The run has no validation source, so that there is nothing to measure on")
    if training.source.labels is None or test.source.labels is None:
        raise ValueError("Both the training and the validation source must be labelled to measure accuracies")

    backbones = {
        "trained": read_keras(workdir / "backbone.keras"),
        "untrained control": untrained_control(config, training),
    }
    accuracies = {}
    for name, backbone in backbones.items():
        accuracies[name] = _accuracies(backbone, training, test, config)
    return RunSummary(read_history(workdir / "history.csv"), accuracies, _most_ambiguous(config, training))


def _accuracies(
    backbone: keras.Model, training: ImageSet, test: ImageSet, config: ConfigDict
) -> dict[str, float]:
    reference, labels = _labelled_features(backbone, training, config)
    queries, expected = _labelled_features(backbone, test, config)
    neighbours = weighted_knn_predict(reference, labels, queries, config.knn.k, config.knn.temperature)
    scores, *_ = logistic_scores(reference, labels, queries, training.source.num_classes)
    return {
        "kNN": float(np.mean(neighbours == expected)),
        "linear": float(np.mean(scores.argmax(axis=1) == expected)),
    }


def _labelled_features(backbone, images: ImageSet, config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    features, index = extract_features(
        backbone, evaluation_batches(images, config.batch_size), measured_feature(config)
    )
    labels = images.source.labels
    assert labels is not None
    return features, labels[index]


def _most_ambiguous(config: ConfigDict, images: ImageSet, count: int = 16):
    path = config.rotation_probabilities.path
    if not path:
        return None
    probabilities = data.load_rotation_probabilities(path, len(images.source))
    ambiguous = ambiguity(probabilities)
    chosen = images.valid[np.argsort(-ambiguous[images.valid])[:count]]
    return shown_images(images, chosen), ambiguous[chosen]


def summary_table(summary: RunSummary) -> str:
    """The figures as text."""
    prefix = "val_" if "val_rotation_accuracy" in summary.history else ""
    images = "validation" if prefix else "training"
    lines = [f"{'after ' + str(len(summary.history['epoch'])) + ' epochs':<44}{'accuracy':>9}"]
    for half in ("rotation", "invariant"):
        column = f"{prefix}{'' if half == 'rotation' else 'invariant_'}rotation_accuracy"
        name = f"rotation from the {half} features ({images})"
        lines.append(f"{name:<44}{summary.history[column][-1]:>8.1%}")
    lines.append("")
    lines.append(f"{'classes, frozen features':<24}{'trained':>12}{'control':>12}{'gain':>9}")
    trained, control = summary.accuracies["trained"], summary.accuracies["untrained control"]
    for name in trained:
        gain = 100 * (trained[name] - control[name])
        lines.append(f"{name:<24}{trained[name]:>12.1%}{control[name]:>12.1%}{gain:>+9.1f}")
    if summary.ambiguous is not None:
        lines.append(
            f"\nmost rotation-ambiguous images: mean probability {summary.ambiguous[1][0]:.2f} and below"
        )
    return "\n".join(lines)


def draw_summary(summary: RunSummary, path: Path) -> None:
    """Write a PNG of a run: losses, decoupling, accuracies against the control, rotation-ambiguous images."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = 2 if summary.ambiguous else 1
    figure = Figure(figsize=(13, 3.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, 3)
    _draw_losses(figure.add_subplot(grid[0, 0]), summary.history)
    _draw_decoupling(figure.add_subplot(grid[0, 1]), summary.history)
    _draw_accuracies(figure.add_subplot(grid[0, 2]), summary.accuracies)
    if summary.ambiguous:
        _draw_ambiguous(figure, grid[1, :], *summary.ambiguous)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _draw_losses(axes, history) -> None:
    for name in ("rotation_loss", "invariance_loss", "instance_loss"):
        axes.plot(history["epoch"], history[name], label=name.replace("_", " "))
    axes.set(title="Training losses", xlabel="epoch", yscale="log")
    axes.legend(loc="lower left")


def _draw_decoupling(axes, history) -> None:
    prefix = "val_" if "val_rotation_accuracy" in history else ""
    axes.plot(history["epoch"], history[f"{prefix}rotation_accuracy"], label="from rotation features")
    axes.plot(
        history["epoch"], history[f"{prefix}invariant_rotation_accuracy"], label="from invariant features"
    )
    axes.axhline(0.25, color="grey", linewidth=1, linestyle=":", label="chance")
    source = "validation" if prefix else "training"
    axes.set(title=f"Rotation accuracy ({source})", xlabel="epoch", ylim=(0, 1))
    axes.legend()


def _draw_accuracies(axes, accuracies) -> None:
    width = 0.8 / len(accuracies)
    for position, (name, values) in enumerate(accuracies.items()):
        places = np.arange(len(values)) + position * width
        bars = axes.bar(places, list(values.values()), width, label=name)
        axes.bar_label(bars, fmt="%.2f")
    axes.set_xticks(np.arange(len(values)) + width * (len(accuracies) - 1) / 2, list(values))
    axes.set(title="Accuracy on the validation images", ylim=(0, 1.2))
    axes.legend(loc="upper left", ncols=len(accuracies))


def _draw_ambiguous(figure, place, images, probabilities) -> None:
    inner = place.subgridspec(2, 8)
    for position, (image, probability) in enumerate(zip(images, probabilities, strict=True)):
        axes = figure.add_subplot(inner[position // 8, position % 8])
        axes.imshow(image)
        axes.set_title(f"{probability:.2f}", fontsize=8)
        axes.axis("off")
