"""What rotation probabilities say about a data set: figures, tables, pictures."""

import os
from pathlib import Path

import numpy as np

from rfd_tf import data
from rfd_tf.files import atomic_file, atomic_path
from rfd_tf.imbalance import effective_rotation_counts, rotation_instance_weights
from rfd_tf.rotations import NUM_ROTATIONS
from rfd_tf.runs.images import Pictures

_SHOWN = 6  # images of either kind for each class


def agnosticness(probabilities: np.ndarray) -> np.ndarray:
    """How likely an image's three rotated views look upright, [N], the mean of columns 1 to 3 of [N, 4]."""
    return np.asarray(probabilities)[:, 1:].mean(axis=1)


def rotation_counts(probabilities: np.ndarray, valid: np.ndarray, gamma: float) -> np.ndarray:
    """Truly rotated examples of each rotation among the images `valid`, float64 [4]."""
    return effective_rotation_counts(rotation_instance_weights(probabilities[valid], gamma))


def write_parquet(path: str | os.PathLike, probabilities: np.ndarray, pictures: Pictures) -> None:
    """One row for each view of each usable image: `index`, `file`, `view` (quarter turns), `probability`.

    Raises:
        ImportError: without pyarrow.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pictures.valid
    columns = {
        "index": np.repeat(rows, NUM_ROTATIONS),
        "file": np.repeat([pictures.source.describe(int(row)) for row in rows], NUM_ROTATIONS),
        "view": np.tile(np.arange(NUM_ROTATIONS, dtype="int8"), len(rows)),
        "probability": np.asarray(probabilities, "float32")[rows].ravel(),
    }
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def draw(path: Path, probabilities: np.ndarray, pictures: Pictures) -> None:
    """Write a PNG: histogram of all probabilities, the most and the least rotatable images by class."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = _by_class(pictures)
    figure = Figure(figsize=(13, 3.2 + 1.1 * len(classes)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 1, height_ratios=[3.2, 1.1 * len(classes)])
    _draw_histogram(figure.add_subplot(grid[0]), probabilities[pictures.valid])
    scores = agnosticness(probabilities)
    inner = grid[1].subgridspec(len(classes), 2 * _SHOWN + 1)
    for line, (name, rows) in enumerate(classes.items()):
        ordered = rows[np.argsort(scores[rows], kind="stable")]
        count = min(_SHOWN, len(rows) // 2)
        shown = np.concatenate([ordered[:count], ordered[len(ordered) - count :]])
        title = figure.add_subplot(inner[line, _SHOWN])
        title.axis("off")
        title.text(0.5, 0.5, name[:16], ha="center", va="center")
        for position, image in enumerate(shown_images(pictures, shown)):
            column = position if position < count else position + 1 + 2 * (_SHOWN - count)
            axes = figure.add_subplot(inner[line, column])
            axes.imshow(image)
            axes.set_title(f"{scores[shown[position]]:.2f}", fontsize=8)
            axes.axis("off")
    figure.supxlabel(
        "left: the most rotatable of a class; right: the most rotation-agnostic; above each the mean "
        "probability of its three rotated views",
        fontsize=9,
    )
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _by_class(pictures: Pictures, most: int = 20) -> dict[str, np.ndarray]:
    """Usable images by the name of their class, of two images at least; the first classes where many."""
    source, valid = pictures.source, pictures.valid
    if source.labels is None:
        return {"all": valid}
    names = source.class_names or tuple(map(str, range(source.num_classes)))
    groups = {name: valid[source.labels[valid] == label] for label, name in enumerate(names)}
    return dict([(name, rows) for name, rows in groups.items() if len(rows) > 1][:most])


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


def shown_images(pictures: Pictures, rows: np.ndarray) -> np.ndarray:
    """The images at `rows` as the network sees them, [n, S, S, 3] in [0, 1]."""
    if not len(rows):
        return np.zeros((0, 1, 1, 3))
    batch = next(iter(data.evaluation_dataset(pictures.source, pictures.preprocessing, len(rows), rows)))
    features = batch[0] if isinstance(batch, tuple) else batch
    return np.clip(features["image"].numpy() * pictures.preprocessing.std + pictures.preprocessing.mean, 0, 1)
