"""Draws the method: `python docs/images/method.py` writes method.svg beside this file."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import patches, transforms
from matplotlib import pyplot as plt

INK, GREY, PAPER = "#1d2733", "#6b7785", "#ffffff"
ROTATION, INVARIANT, SHARED = "#c45b12", "#0b6e4f", "#4a5f7f"
PALE = {ROTATION: "#fbe9dd", INVARIANT: "#dff1ea", SHARED: "#e6ebf3"}


def main() -> None:
    plt.rcParams.update({"svg.hashsalt": "method", "svg.fonttype": "path", "font.size": 10.5})
    figure = plt.figure(figsize=(11.2, 4.3), facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 112), ylim=(0, 43), aspect="equal")
    axes.axis("off")

    scene(axes, 8, 21.5, 11, 0)
    label(axes, 8, 13.0, "an image,\nno label", GREY)
    for quarter, height in enumerate((36, 26.5, 17, 7.5)):
        scene(axes, 27, height, 7.6, 90 * quarter)
        label(axes, 33.2, height, f"{90 * quarter}°", GREY)
        arrow(axes, (14.2, 21.5), (22.7, height), GREY)
        arrow(axes, (36.0, height), (41.2, 21.5 + (height - 21.5) * 0.25), GREY)

    box(axes, 41.6, 13, 12, 17, "backbone", SHARED)
    arrow(axes, (53.8, 21.5), (57.8, 21.5), SHARED)
    feature(axes, 58.4, 21.5, 3.4, 12.5, ROTATION)
    feature(axes, 58.4, 8.6, 3.4, 12.5, INVARIANT)
    label(axes, 60.1, 36.6, "features,\nin halves", GREY)

    arrow(axes, (62.2, 27.8), (68.4, 32.6), ROTATION)
    box(axes, 68.8, 28.6, 15.5, 8, "which rotation?", ROTATION)
    arrow(axes, (84.5, 32.6), (89.4, 32.6), ROTATION)
    label(axes, 90, 32.6, "0°, 90°, 180° or 270°:\ncross-entropy, or LDAM\n+ DRW", ROTATION, "left")

    arrow(axes, (62.2, 16.5), (68.4, 19.7), INVARIANT)
    box(axes, 68.8, 16.2, 15.5, 7, "same for all turns", INVARIANT)
    arrow(axes, (84.5, 19.7), (89.4, 19.7), INVARIANT)
    label(axes, 90, 19.7, "distance to the mean\nof the four views", INVARIANT, "left")

    arrow(axes, (62.2, 13.0), (68.4, 8.3), INVARIANT)
    box(axes, 68.8, 4.8, 15.5, 7, "which image?", INVARIANT)
    arrow(axes, (84.5, 8.3), (89.4, 8.3), INVARIANT)
    for row in range(5):
        axes.add_patch(
            patches.Rectangle(
                (90, 4.3 + 1.7 * row), 6.4, 1.3, facecolor=INVARIANT if row == 2 else PALE[INVARIANT]
            )
        )
    label(axes, 97.4, 8.3, "memory bank:\na row an image", INVARIANT, "left")
    figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None}, facecolor=PAPER)


def scene(axes, x: float, y: float, side: float, degrees: float) -> None:
    """A house, a tree and the sun, turned."""
    half = side / 2
    turn = transforms.Affine2D().scale(half).rotate_deg(degrees).translate(x, y) + axes.transData

    def add(patch):
        patch.set_transform(turn)
        axes.add_patch(patch)

    add(patches.Rectangle((-1, -1), 2, 2, facecolor="#cfe3f5"))
    add(patches.Rectangle((-1, -1), 2, 0.65, facecolor="#9cc27c"))
    add(patches.Rectangle((-0.62, -0.62), 0.86, 0.72, facecolor="#f4e3c3"))
    add(patches.Polygon([(-0.75, 0.1), (0.37, 0.1), (-0.19, 0.62)], facecolor="#b5523b"))
    add(patches.Rectangle((-0.3, -0.62), 0.24, 0.4, facecolor="#7a4a2b"))
    add(patches.Rectangle((0.56, -0.6), 0.12, 0.45, facecolor="#7a4a2b"))
    add(patches.Circle((0.62, 0.02), 0.28, facecolor="#3f7d4e"))
    add(patches.Circle((0.66, 0.68), 0.17, facecolor="#f5c242"))
    add(patches.Rectangle((-1, -1), 2, 2, facecolor="none", edgecolor=INK, linewidth=0.8))


def box(axes, x, y, width, height, text, color) -> None:
    axes.add_patch(
        patches.FancyBboxPatch(
            (x, y), width, height, "round,pad=0,rounding_size=1.2", facecolor=PALE[color], edgecolor=color
        )
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=INK)


def feature(axes, x, y, width, height, color) -> None:
    """Half of a feature, as a column of cells."""
    for cell in range(5):
        axes.add_patch(
            patches.Rectangle(
                (x, y + cell * height / 5 + 0.2),
                width,
                height / 5 - 0.4,
                facecolor=color,
                alpha=0.45 + 0.11 * ((cell * 2) % 5),
            )
        )


def arrow(axes, start, end, color) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.2})


def label(axes, x, y, text, color, ha="center") -> None:
    axes.text(x, y, text, ha=ha, va="center", color=color, fontsize=9.5, linespacing=1.25)


if __name__ == "__main__":
    main()
