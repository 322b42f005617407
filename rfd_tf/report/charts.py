"""What the page's templates draw: SVG geometry of charts and of the feature map, images as data URIs.

The charts are not drawn by matplotlib: its SVG looks as good, but is four times as large, and its colours,
fonts, ids and style sheet would have to be replaced in its text to follow the page, dark or light.
"""

import base64
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator
from PIL import Image

from rfd_tf.report.sections import MapSection

CHART_WIDTH, CHART_HEIGHT = 340, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 10, 40
_LOG_FROM = 30.0  # a range of so many times its lowest value is drawn on a logarithmic axis
_MARKED = 40  # lines of fewer points have dots


@dataclasses.dataclass(frozen=True)
class Series:
    """A line: its name, a value per x (NaN where there is none), colour (a CSS class), dashed or not."""

    name: str
    values: np.ndarray
    colour: str
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
    """A series drawn: SVG path data and dots."""

    series: Series
    path: str
    dots: list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class LineChart:
    """A chart in a box of `CHART_WIDTH` by `CHART_HEIGHT`; ticks are (place, text).

    Attributes:
        title, lines, x_ticks, y_ticks: as drawn.
        reference: (place, text) of a horizontal line, or None.
        log: whether the vertical axis is logarithmic.
        description: the chart in words.
        caption: what one sees.
    """

    title: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    reference: tuple[float, str] | None
    log: bool
    description: str
    caption: str


def line_chart(
    title: str,
    x: np.ndarray,
    series: Sequence[Series],
    caption: str = "",
    percent: bool = False,
    reference: tuple[float, str] | None = None,
) -> LineChart | None:
    """Lays out a chart; None where no series has a finite value.

    Args:
        title: its heading.
        x: [N], rising.
        series: each with N values.
        caption: what one sees.
        percent: values are shares, in [0, 1], on an axis from 0 to 100 %.
        reference: a value to draw a horizontal line at, and its name.
    """
    series = [s for s in series if np.isfinite(s.values).any()]
    if not series:
        return None
    known = np.concatenate([s.values[np.isfinite(s.values)] for s in series])
    low, high = (0.0, 1.0) if percent else (float(known.min()), float(known.max()))
    log = not percent and low > 0 and high / low > _LOG_FROM
    ticks = _ticks(low, high, log)
    low, high = min(low, *ticks), max(high, *ticks)
    whole = MaxNLocator(7, integer=True).tick_values(x[0], x[-1])
    across = _scale(float(x[0]), float(x[-1]), _LEFT, CHART_WIDTH - _RIGHT)
    up = _scale(low, high, CHART_HEIGHT - _BOTTOM, _TOP, log)
    return LineChart(
        title=title,
        lines=[_line(s, x, across, up) for s in series],
        x_ticks=[(across(tick), f"{tick:g}") for tick in whole if x[0] <= tick <= x[-1]],
        y_ticks=[(up(tick), text) for tick, text in zip(ticks, _texts(ticks, percent, log), strict=True)],
        reference=None if reference is None else (up(reference[0]), reference[1]),
        log=log,
        description=f"{title}. " + "; ".join(_in_words(s, percent) for s in series),
        caption=caption,
    )


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        ticks = LogLocator(numticks=6).tick_values(low, high)
        return [float(tick) for tick in ticks if low / 10 < tick < high * 10]
    if high - low < 1e-12 * max(abs(high), 1e-300):
        low, high = low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1)
    return [float(tick) for tick in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]


def _texts(ticks: list[float], percent: bool, log: bool) -> list[str]:
    """Ticks in words, all with as many decimals."""
    if percent:
        return [f"{100 * tick:g} %" for tick in ticks]
    short = [f"{tick:g}" for tick in ticks]
    if log or any("e" in text for text in short):
        return short
    digits = max(len(text.partition(".")[2]) for text in short)
    return [f"{tick:.{digits}f}" for tick in ticks]


def _scale(low: float, high: float, start: float, end: float, log: bool = False):
    """A function from [low, high] to [start, end]."""
    if log:
        low, high = np.log10(low), np.log10(high)
    span = high - low

    def place(value: float) -> float:
        value = np.log10(value) if log else value
        share = (value - low) / span if span else 0.5
        return round(float(start + share * (end - start)), 1)

    return place


def _line(series: Series, x: np.ndarray, across, up) -> Line:
    """Values that are missing are passed over: the line joins those measured."""
    points = [(across(a), up(b)) for a, b in zip(x, series.values, strict=True) if np.isfinite(b)]
    path = "M" + "L".join(f"{a:g} {b:g}" for a, b in points)
    return Line(series, path, points if len(points) <= _MARKED else [])


def _in_words(series: Series, percent: bool) -> str:
    known = series.values[np.isfinite(series.values)]
    shown = [f"{100 * value:.1f} %" if percent else f"{value:.3g}" for value in (known[0], known[-1])]
    return f"{series.name}: from {shown[0]} to {shown[1]}"


def history_charts(history: dict[str, np.ndarray]) -> list[LineChart]:
    """Charts of what a run's history holds, over epochs counted from 1."""

    def series(column: str, name: str, colour: str = "blue", dashed: bool = False) -> list[Series]:
        return [Series(name, history[column], colour, dashed)] if column in history else []

    def both(column: str, name: str = "", colour: str = "blue") -> list[Series]:
        return [
            *series(column, f"{name}training", colour, dashed=True),
            *series(f"val_{column}", f"{name}validation", colour),
        ]

    epochs = np.arange(1, len(next(iter(history.values()))) + 1)
    epochs = history["epoch"] + 1 if "epoch" in history else epochs
    charts = [
        line_chart(
            "Rotation accuracy",
            epochs,
            both("rotation_accuracy", "rotation features, ")
            + both("invariant_rotation_accuracy", "invariant features, ", "orange"),
            "How often the rotation of an image is told rightly. From the rotation features it should rise; "
            "from the invariant features it should stay at chance, 25 %.",
            percent=True,
            reference=(0.25, "chance"),
        ),
        line_chart(
            "kNN accuracy",
            epochs,
            series("knn_accuracy", "validation, leave one out"),
            "Share of validation images whose class their nearest neighbours among the others tell.",
            percent=True,
        ),
        line_chart(
            "Rotation loss",
            epochs,
            both("rotation_loss"),
            "How badly the rotation is told from the rotation features.",
        ),
        line_chart(
            "Invariance loss",
            epochs,
            both("invariance_loss"),
            "How much the invariant features change when the image is turned. Their size counts too, so a "
            "fall alone is not proof of invariance.",
        ),
        line_chart(
            "Instance loss",
            epochs,
            both("instance_loss"),
            "How badly an image is told from others by its invariant features. Validation images have no "
            "place in the memory bank and are compared with themselves, turned: the two lines are not the "
            "same quantity.",
        ),
        line_chart(
            "How alike images have become",
            epochs,
            series("bank_cosine", "two embeddings, mean cosine")
            + series("dead_features", "features", "orange"),
            "The mean cosine between the embeddings of two training images, and the share of the features "
            "that are the same for every image. Both should stay near 0; where they rise to 100 %, the "
            "features have collapsed.",
            percent=True,
        ),
    ]
    return [chart for chart in charts if chart is not None]


MAP_WIDTH, MAP_HEIGHT = 800, 640
MAX_COLOURS = 10
THUMBNAIL = 36
_CELL = 40
_MARGIN = 26
_RADIUS = 5
# Relative SVG path data of a marker around the point; shapes help where colours do not.
_SHAPES = (
    "m-{r} 0a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z",
    "m-{r} -{r}h{d}v{d}h-{d}z",
    "m0 -{r}l{r} {d}h-{d}z",
    "m0 -{r}l{r} {r}l-{r} {r}l-{r} -{r}z",
    "m0 {r}l{r} -{d}h-{d}z",
)


@dataclasses.dataclass(frozen=True)
class PointGroup:
    """Points of one class: name, colour (0 to 9, None for grey), SVG path data, that of a legend marker."""

    name: str
    colour: int | None
    path: str
    marker: str
    count: int


@dataclasses.dataclass(frozen=True)
class PlacedThumbnail:
    """An image on the map, by its upper left corner."""

    x: float
    y: float
    uri: str
    colour: int | None


def point_groups(section: MapSection) -> list[PointGroup]:
    """The points by class, the ten largest classes in colour, the others grey and first."""
    places = _places(section.points)
    if section.labels is None:
        return [_group("images", 0, places, 0)]
    coloured, names = _coloured(section), section.class_names or []
    rest = places[~np.isin(section.labels, list(coloured))]
    groups = [_group("other classes", None, rest, 0)] if len(rest) else []
    for label, colour in coloured.items():
        groups.append(_group(names[label], colour, places[section.labels == label], colour))
    return groups


def placed_thumbnails(section: MapSection) -> list[PlacedThumbnail]:
    """On a grid, in every cell that holds points, the image that is nearest to its centre."""
    places = _places(section.points)
    coloured = {} if section.labels is None else _coloured(section)
    cells = (places // _CELL).astype("int64")
    corners = cells * _CELL + (_CELL - THUMBNAIL) / 2
    distances = np.linalg.norm(places - corners - THUMBNAIL / 2, axis=1)
    nearest: dict[tuple[int, int], int] = {}
    for row in np.argsort(distances, kind="stable"):
        nearest.setdefault(tuple(cells[row].tolist()), int(row))
    placed = []
    for row in nearest.values():
        colour = None if section.labels is None else coloured.get(int(section.labels[row]))
        x, y = corners[row].tolist()
        placed.append(PlacedThumbnail(x, y, image_uri(section.thumbnails[row], THUMBNAIL), colour))
    return placed


def _places(points: np.ndarray) -> np.ndarray:
    return _MARGIN + points * (np.array([MAP_WIDTH, MAP_HEIGHT]) - 2 * _MARGIN)


def _coloured(section: MapSection) -> dict[int, int]:
    """class -> colour of the classes with the most points, in the order of the classes."""
    labels = np.asarray(section.labels, "int64")
    counts = np.bincount(labels, minlength=len(section.class_names or ()))
    largest = np.argsort(-counts, kind="stable")[:MAX_COLOURS]
    return {int(label): colour for colour, label in enumerate(sorted(largest)) if counts[label]}


def _group(name: str, colour: int | None, places: np.ndarray, shape: int) -> PointGroup:
    marker = _SHAPES[shape % len(_SHAPES)].format(r=_RADIUS, d=2 * _RADIUS)
    path = "".join(f"M{x:.1f} {y:.1f}{marker}" for x, y in places)
    return PointGroup(name, colour, path, f"M8 8{marker}", len(places))


_FILTERS_WIDTH = 480  # pixels that a grid of filters is enlarged to, about
_LOSSLESS_BELOW = 48  # pixels; JPEG would blur images smaller than that


def image_uri(pixels: np.ndarray, size: int | None = None) -> str:
    """A data URI of uint8 [H, W, 3], JPEG, or PNG where it is small; shrunk to `size` pixels if larger."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    kind = "PNG" if image.width < _LOSSLESS_BELOW else "JPEG"
    if size is not None and image.width > size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return _uri(image, kind)


def filters_uri(filters: np.ndarray) -> tuple[str, int, int]:
    """A grid of filters [kh, kw, in, out] as (data URI, width, height).

    Each filter is scaled for itself, zero in the middle of the range; gaps are transparent. Inputs other than
    three channels are averaged to grey.
    """
    height, width, channels, count = filters.shape
    if channels != 3:
        filters = np.repeat(filters.mean(axis=2, keepdims=True), 3, axis=2)
    columns = int(np.ceil(np.sqrt(count * 1.6)))
    scale = max(1, round(_FILTERS_WIDTH / (columns * (width + 1))))
    limit = np.maximum(np.abs(filters).max(axis=(0, 1, 2)), 1e-12)
    tiles = np.rint(127.5 + 127.5 * filters / limit).astype("uint8").transpose(3, 0, 1, 2)
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    gap = max(2, scale // 2)
    step_y, step_x = height * scale + gap, width * scale + gap
    rows = -(-count // columns)
    grid = np.zeros((rows * step_y - gap, columns * step_x - gap, 4), dtype="uint8")
    for position, tile in enumerate(tiles):
        top, left = position // columns * step_y, position % columns * step_x
        grid[top : top + height * scale, left : left + width * scale, :3] = tile
        grid[top : top + height * scale, left : left + width * scale, 3] = 255
    return _uri(Image.fromarray(grid), "PNG"), grid.shape[1], grid.shape[0]


def _uri(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 82, "optimize": True} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
