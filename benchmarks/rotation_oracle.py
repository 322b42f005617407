"""The digits' rotation probabilities against an oracle that knows no network: nearest neighbours of pixels.

    rfd rotations --config=digits_lt --config.data.long_tail.profile= --out=prob.dat [FLAGS]
    python benchmarks/rotation_oracle.py prob.dat OUT

A view looks upright to the oracle as far as it is nearer to the upright images than to the other images
turned as it is: with the distances u and t to the nearest of each (the image itself left out), t / (u + t),
above one half where an upright one is the nearest. Writes OUT.csv, a row for each image, and OUT.png, and
prints rank correlations and the classes' means.
"""

import sys

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from rfd_tf import data
from rfd_tf.files import atomic_file
from rfd_tf.rotations import NUM_ROTATIONS


def looks_upright(pixels: np.ndarray) -> np.ndarray:
    """The oracle's score of each view, [N, 4] in [0, 1], of images [N, S, S]; 1/2 for upright views."""
    flat = pixels.reshape(len(pixels), -1)
    scores = np.full((len(pixels), NUM_ROTATIONS), 0.5)
    for view in range(1, NUM_ROTATIONS):
        turned = np.rot90(pixels, view, axes=(1, 2)).reshape(len(pixels), -1)
        upright, alike = (_nearest(turned, others) for others in (flat, turned))
        scores[:, view] = alike / (upright + alike)
    return scores


def _nearest(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    distances = cdist(images, others)
    np.fill_diagonal(distances, np.inf)  # the image itself
    return distances.min(axis=1)


def draw(path: str, oracle: np.ndarray, network: np.ndarray, labels: np.ndarray) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    points, bars = figure.subplots(1, 2)
    classes = np.unique(labels)
    for label in classes:
        chosen = labels == label
        points.plot(oracle[chosen], network[chosen], "o", ms=3.5, color=f"C{label}", label=str(label))
    points.set(
        xlabel="oracle: t / (u + t)", ylabel="network, out of sample", title="View at 180 degrees, by digit"
    )
    points.legend(ncols=2, fontsize=8)
    means = [[scores[labels == label].mean() for label in classes] for scores in (oracle, network)]
    bars.bar(classes - 0.2, means[0], 0.4, label="oracle")
    bars.bar(classes + 0.2, means[1], 0.4, label="network")
    bars.set(xticks=classes, xlabel="digit", title="Means of the classes")
    bars.legend()
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=90)


def main(probabilities_path: str, out: str) -> None:
    source = data.digits()
    pixels = np.stack([source.fetch(index).numpy()[:, :, 0] for index in range(len(source))]).astype(
        "float64"
    )
    network = data.load_rotation_probabilities(probabilities_path, len(source))
    oracle = looks_upright(pixels)

    for view in range(1, NUM_ROTATIONS):
        found = spearmanr(oracle[:, view], network[:, view])
        print(f"{90 * view} degrees: rank correlation {found.statistic:.3f} (p {found.pvalue:.1e})")
    means = [
        [scores[source.labels == label, 2].mean() for label in range(10)] for scores in (oracle, network)
    ]
    print(f"180 degrees, means of the digits: rank correlation {spearmanr(*means).statistic:.3f}")
    print("\n| digit | images | oracle, 180 degrees | network, 180 degrees | nearest to an upright one |")
    print("|---|---:|---:|---:|---:|")
    for label in np.unique(source.labels):
        chosen = source.labels == label
        nearer = (oracle[chosen, 2] > 0.5).mean()
        means = oracle[chosen, 2].mean(), network[chosen, 2].mean()
        print(f"| {label} | {chosen.sum()} | {means[0]:.3f} | {means[1]:.3f} | {100 * nearer:.0f} % |")

    with atomic_file(f"{out}.csv") as file:
        text = [
            ["index", "digit", *(f"{who}_{90 * v}" for who in ("oracle", "network") for v in range(1, 4))]
        ]
        rows = zip(source.labels, oracle[:, 1:], network[:, 1:], strict=True)
        for index, (label, ours, theirs) in enumerate(rows):
            text.append([index, label, *(f"{value:.4f}" for value in (*ours, *theirs))])
        file.write("".join(",".join(map(str, row)) + "\n" for row in text).encode())
    draw(f"{out}.png", oracle[:, 2], network[:, 2], source.labels)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
