"""Geometry of the feature map, which the page's template draws as SVG."""

import dataclasses

import numpy as np

from rfd_tf.report.contents import MapSection
from rfd_tf.report.image_data import picture_uri

WIDTH, HEIGHT = 800, 640
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
    """A picture on the map, by its upper left corner."""

    x: float
    y: float
    uri: str
    colour: int | None


def point_groups(section: MapSection) -> list[PointGroup]:
    """The points by class, the ten largest classes in colour, the others grey and first."""
    places = _places(section.points)
    if section.labels is None:
        return [_group("pictures", 0, places, 0)]
    coloured = _coloured(section)
    rest = places[~np.isin(section.labels, list(coloured))]
    groups = [_group("other classes", None, rest, 0)] if len(rest) else []
    for label, colour in coloured.items():
        groups.append(_group(section.class_names[label], colour, places[section.labels == label], colour))
    return groups


def placed_thumbnails(section: MapSection) -> list[PlacedThumbnail]:
    """On a grid, in every cell that holds points, the picture that is nearest to its centre."""
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
        placed.append(PlacedThumbnail(x, y, picture_uri(section.thumbnails[row], THUMBNAIL), colour))
    return placed


def _places(points: np.ndarray) -> np.ndarray:
    return _MARGIN + points * (np.array([WIDTH, HEIGHT]) - 2 * _MARGIN)


def _coloured(section: MapSection) -> dict[int, int]:
    """class -> colour of the classes with the most points, in the order of the classes."""
    counts = np.bincount(section.labels, minlength=len(section.class_names))
    largest = np.argsort(-counts, kind="stable")[:MAX_COLOURS]
    return {int(label): colour for colour, label in enumerate(sorted(largest)) if counts[label]}


def _group(name: str, colour: int | None, places: np.ndarray, shape: int) -> PointGroup:
    marker = _SHAPES[shape % len(_SHAPES)].format(r=_RADIUS, d=2 * _RADIUS)
    path = "".join(f"M{x:.1f} {y:.1f}{marker}" for x, y in places)
    return PointGroup(name, colour, path, f"M8 8{marker}", len(places))
