"""A report as one HTML page."""

import datetime
from collections.abc import Iterator

import numpy as np

from rfd_tf.imbalance import shot_groups
from rfd_tf.report import charts
from rfd_tf.report.charts import filters_uri, history_charts, image_uri
from rfd_tf.report.collect import RunReport
from rfd_tf.report.figures import ClassifierSection, most_confused

MATRIX_CLASSES = 30  # larger confusion matrices are drawn as an image
_SHOTS = {"many": "more than 100", "medium": "20 to 100", "few": "fewer than 20"}


def report_page(report: RunReport, made: datetime.datetime, command: str) -> str:
    """The report as one HTML page without scripts or anything from outside.

    Every text is escaped by the template engine, and a content security policy in the page forbids scripts
    and connections besides.

    Args:
        report: what it says.
        made: when.
        command: the command line that made it.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rfd_tf.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": _percent,
        "count": _count,
        "image": image_uri,
        "plain": _plain,
        "fields": _fields,
    }
    page = environment.get_template("report.html").render(
        report=report,
        made=made,
        command=command,
        charts=[] if report.history is None else history_charts(report.history),
        chart_size=(charts.CHART_WIDTH, charts.CHART_HEIGHT),
        map_size=(charts.MAP_WIDTH, charts.MAP_HEIGHT, charts.THUMBNAIL),
        filters=None if report.filters is None else filters_uri(report.filters),
        point_groups=_of(report.feature_map, charts.point_groups),
        thumbnails=_of(report.feature_map, charts.placed_thumbnails),
        confusion=_of(report.classifier, _confusion),
        bars=_of(report.classifier, _bars),
        shots=_SHOTS,
    )
    # File names that are not text have surrogates, which UTF-8 cannot hold.
    return page.encode("utf-8", "replace").decode("utf-8")


def _of(part, make):
    return None if part is None else make(part)


def _confusion(section: ClassifierSection) -> dict:
    """Shares of each row, with an image instead of cells where there are many classes."""
    counts = np.asarray(section.figures.confusion, dtype="float64")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    found = {"counts": section.figures.confusion, "shares": shares.tolist(), "uri": None}
    if len(counts) > MATRIX_CLASSES:
        shade = np.rint(255 * (1 - shares)).astype("uint8")
        pixels = np.stack([shade, 255 - (255 - shade) // 2, np.full_like(shade, 255)], axis=2)
        scale = max(1, 600 // len(counts))
        found["uri"] = image_uri(pixels.repeat(scale, axis=0).repeat(scale, axis=1))
    return found | {"pairs": most_confused(section)}


def _bars(section: ClassifierSection) -> list[dict]:
    """A bar for each class, the largest class first."""
    groups = {int(label): name for name, ids in shot_groups(section.class_counts).items() for label in ids}
    order = np.argsort(-np.asarray(section.class_counts), kind="stable")
    return [
        {
            "name": section.class_names[label],
            "images": section.class_counts[label],
            "group": groups[int(label)],
            "accuracy": section.figures.per_class[label],
        }
        for label in order
    ]


def _percent(value: float | None, digits: int = 1) -> str:
    return "\N{EN DASH}" if value is None else f"{100 * value:.{digits}f} %"


def _count(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")  # a narrow space


def _plain(value) -> str:
    """A figure of any kind as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _fields(config: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value) of every field."""
    for name, value in sorted(config.items()):
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", repr(value) if value == "" else str(value)
