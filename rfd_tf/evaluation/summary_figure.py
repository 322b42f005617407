from pathlib import Path

import numpy as np

from rfd_tf.evaluation.run_summary import RunSummary
from rfd_tf.files import atomic_file


def draw_summary(summary: RunSummary, path: Path) -> None:
    """Write a PNG of a run: losses, decoupling, accuracies against the control, rotation-agnostic images."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = 2 if summary.agnostic else 1
    figure = Figure(figsize=(13, 3.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, 3)
    _draw_losses(figure.add_subplot(grid[0, 0]), summary.history)
    _draw_decoupling(figure.add_subplot(grid[0, 1]), summary.history)
    _draw_accuracies(figure.add_subplot(grid[0, 2]), summary.accuracies)
    if summary.agnostic:
        _draw_agnostic(figure, grid[1, :], *summary.agnostic)
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


def _draw_agnostic(figure, place, images, probabilities) -> None:
    inner = place.subgridspec(2, 8)
    for position, (image, probability) in enumerate(zip(images, probabilities, strict=True)):
        axes = figure.add_subplot(inner[position // 8, position % 8])
        axes.imshow(image)
        axes.set_title(f"{probability:.2f}", fontsize=8)
        axes.axis("off")
