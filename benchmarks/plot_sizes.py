"""Draws a CSV file of `benchmarks.pretraining_jax` for several numbers of images.

python -m benchmarks.plot_sizes docs/results/pretraining_sizes.csv docs/results/pretraining_sizes.svg
"""

import csv
import sys

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PANELS = {
    "knn_pool": "kNN, pool",
    "knn_fc_block": "kNN, fc_block",
    "linear_pool": "linear, pool",
    "linear_fc_block": "linear, fc_block",
}
LINES = {"rfd": ("RFD", "#0b6e4f", "o"), "rotation": ("rotation alone", "#c45b12", "s")}


def main(table: str, out: str) -> None:
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    plt.rcParams["svg.hashsalt"] = "sizes"  # the same file from the same figures
    figure, axes = plt.subplots(1, len(PANELS), figsize=(12, 3.1), layout="constrained")
    for axis, (column, title) in zip(axes, PANELS.items(), strict=True):
        for variant, (label, color, marker) in LINES.items():
            points = [(int(r["images"]), float(r[column])) for r in rows if r["variant"] == variant]
            sizes = sorted({size for size, _ in points})
            means = [np.mean([value for size, value in points if size == of]) for of in sizes]
            axis.plot(sizes, means, color=color, label=label)
            axis.plot(*zip(*points, strict=True), marker, color=color, markersize=4, alpha=0.7)
        axis.set(title=title, xscale="log", xlabel="training images", xticks=sizes, xticklabels=sizes)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("top-1 in %")
    axes[0].legend(frameon=False)
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
