"""Geometry of line charts, which the page's template draws as SVG."""

import dataclasses
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 340, 230
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
    """A chart in a box of `WIDTH` by `HEIGHT`; ticks are (place, text).

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
    across = _scale(float(x[0]), float(x[-1]), _LEFT, WIDTH - _RIGHT)
    up = _scale(low, high, HEIGHT - _BOTTOM, _TOP, log)
    return LineChart(
        title=title,
        lines=[_line(s, x, across, up) for s in series],
        x_ticks=[(across(tick), f"{tick:g}") for tick in _whole_ticks(float(x[0]), float(x[-1]))],
        y_ticks=[(up(tick), text) for tick, text in zip(ticks, _texts(ticks, percent, log), strict=True)],
        reference=None if reference is None else (up(reference[0]), reference[1]),
        log=log,
        description=f"{title}. " + "; ".join(_in_words(s, percent) for s in series),
        caption=caption,
    )


def _ticks(low: float, high: float, log: bool) -> list[float]:
    from matplotlib.ticker import LogLocator, MaxNLocator

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


def _whole_ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(7, integer=True).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


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
