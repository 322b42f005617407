"""The page of made-up reports: drawn, escaped, looked at in a browser."""

import dataclasses
import datetime
import html.parser
import re

import numpy as np
import pytest

from rfd_tf.evaluation.results import MultiLabelFigures
from rfd_tf.report import charts
from rfd_tf.report.charts import CHART_HEIGHT, CHART_WIDTH, Series, filters_uri, image_uri, line_chart
from rfd_tf.report.page import report_page
from rfd_tf.report.sections import MapSection
from tests.report.looked_at import look_at
from tests.report.made_up import HOSTILE, made_up_report, made_up_result

MADE = datetime.datetime(2025, 6, 7, 8, 9, tzinfo=datetime.UTC)


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text, of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def page_of(report, command="rfd report"):
    return report_page(report, MADE, command)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_users_stays_text(text):
    names = [text, *HOSTILE[1:], *"abcdef"]
    page = Page(page_of(made_up_report(names, [200, 50, *[5] * 9], text=text), command=text))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        if tag == "img":
            assert attributes["src"].startswith("data:image/")
    assert page.text.count(text) > 10  # as text it is there, unchanged


def test_files_left_out_are_in_the_page():
    text = " ".join(Page(page_of(made_up_report(["a", "b"], [3, 4], text="x"))).text.split())
    assert "100 images of 2 classes (2 unreadable, left out) (other files, left out: 3 .heic, 1 x), x" in text


def test_undecodable_names_do_not_break_the_page():
    text = "caf\udce9"
    page_of(made_up_report([text, "b"], [3, 4], text=text)).encode("utf-8")


def test_nothing_comes_from_outside_and_the_file_is_small():
    rng = np.random.default_rng(0)
    report = made_up_report(
        [f"class {i}" for i in range(100)], rng.integers(1, 300, 100), images=1500, side=96
    )
    page = page_of(report)
    assert len(page.encode()) < 5e6
    for address in re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')\s>]+)', page):
        assert address.startswith(("data:", "#"))


def test_every_figure_of_every_evaluation_is_in_the_page():
    names, counts = ["cat", "dog"], [120, 10]
    results = {
        "linear": made_up_result("linear", ["conv1", "conv2"], names, counts),
        "linear_control": made_up_result("linear", ["conv1", "conv2"], names, counts, quality=0.1),
        "knn": made_up_result("knn", ["features, k=20"], names, counts, settings={}),
    }
    text = Page(page_of(made_up_report(names, counts, evaluations=results))).text
    for result in results.values():
        assert result.command in text
        for name, figures in result.figures.items():
            assert name in text
            assert f"{100 * figures.top1:.1f} %" in text
            assert f"{100 * figures.shot_groups['few']:.1f} %" in text
    assert "best epoch" in text
    assert "2025-05-06T07:08:09+00:00" in text
    assert "Some CPU" in text


def test_average_precisions_are_in_the_page():
    names, counts = ["cat", "dog"], [120, 10]
    made = made_up_result("voc_classification", ["pool5"], names, counts, notes=["3 of 9 boxes were clipped"])
    precisions = {"11_point": [0.611, None], "area": [0.622, 0.633]}
    extra = {"samples": 5, "area_map_std": 0.0421}
    figures = MultiLabelFigures({"11_point": 0.644, "area": 0.655}, precisions, extra)
    result = dataclasses.replace(made, figures={"pool5, k=1": figures})
    text = Page(page_of(made_up_report(names, counts, evaluations={"voc": result}))).text
    assert "3 of 9 boxes were clipped" in text
    for shown in ("pool5, k=1", "61.1 %", "64.4 %", "65.5 %", "4.2 %", "samples"):
        assert shown in text
    assert result.command in text


def test_bars_are_ordered_by_class_size():
    names = ["small", "large", "middle"]
    results = {"linear": made_up_result("linear", ["conv1"], names, [5, 500, 50])}
    page = page_of(made_up_report(names, [5, 500, 50], evaluations=results))
    bars = page[page.index('class="bars"') :]
    bars = bars[: bars.index("</table>")]
    assert bars.index("large") < bars.index("middle") < bars.index("small")
    assert re.findall(r'<div class="(\w+)" style="width', bars) == ["many", "medium", "few"]
    figures = results["linear"].figures["conv1"]
    widths = [float(width) for width in re.findall(r"width: ([\d.]+)%", bars)]
    np.testing.assert_allclose(widths, 100 * np.array(figures.per_class)[[1, 2, 0]], atol=0.06)


def test_line_chart_places_values():
    x, values = np.arange(1.0, 6), np.array([0, np.nan, 0.5, 1, 0.25])
    chart = line_chart("t", x, [Series("s", values, "blue")], percent=True, reference=(0.25, "chance"))
    points = np.array(chart.lines[0].dots)
    assert len(points) == 4  # the missing one is passed over
    low, high = chart.y_ticks[0][0], chart.y_ticks[-1][0]
    assert (chart.y_ticks[0][1], chart.y_ticks[-1][1]) == ("0 %", "100 %")
    known = values[np.isfinite(values)]
    np.testing.assert_allclose(points[:, 1], low + known * (high - low), atol=0.06)
    np.testing.assert_allclose(
        np.diff(points[:, 0]), np.diff([1, 3, 4, 5]) * (points[-1, 0] - points[0, 0]) / 4
    )
    assert chart.reference[0] == points[-1, 1]
    assert chart.description == "t. s: from 0.0 % to 25.0 %"


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0], [0.0, 0.0], [1e-5, 100.0], [-1.0, 1.0], [1e-9, 1e-8]])
def test_line_chart_of_any_range_fits_its_box(values):
    chart = line_chart("t", np.arange(1.0, len(values) + 1), [Series("s", np.array(values), "blue")])
    for x, y in chart.lines[0].dots:
        assert 0 <= x <= CHART_WIDTH
        assert 0 <= y <= CHART_HEIGHT
    assert 2 <= len(chart.y_ticks) <= 9
    assert len({text for _, text in chart.y_ticks}) == len(chart.y_ticks)
    assert chart.log == (values == [1e-5, 100.0])


def test_line_chart_of_nothing():
    assert line_chart("t", np.arange(2.0), [Series("s", np.full(2, np.nan), "blue")]) is None


def test_filters_keep_their_colours():
    filters = np.zeros((2, 2, 3, 5), "float32")
    filters[:, :, 0, 3] = 4.0  # red
    filters[:, :, :, 4] = -0.1  # black
    uri, width, height = filters_uri(filters)
    image = decode(uri)
    assert image.shape == (height, width, 4)
    columns = 3
    tile = (width + 1) // columns
    centres = [image[i // columns * tile + 9, i % columns * tile + 9] for i in range(5)]
    np.testing.assert_array_equal(centres[0], [128, 128, 128, 255])
    np.testing.assert_array_equal(centres[3], [255, 128, 128, 255])
    np.testing.assert_array_equal(centres[4], [0, 0, 0, 255])
    assert image[-1, -1, 3] == 0  # the place of the sixth


def test_small_images_are_kept_exactly_and_large_ones_nearly():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (16, 16, 3)).astype("uint8")
    np.testing.assert_array_equal(decode(image_uri(small)), small)
    large = np.full((96, 96, 3), (200, 100, 50), "uint8")
    np.testing.assert_allclose(decode(image_uri(large)).astype(int), large, atol=4)


def test_map_of_many_classes_colours_the_largest():
    labels = np.repeat(np.arange(14), np.arange(1, 15))
    names = [f"class {i}" for i in range(14)]
    points = np.random.default_rng(0).random((len(labels), 2))
    thumbnails = np.zeros((len(labels), 8, 8, 3), "uint8")
    section = MapSection(points, labels, names, thumbnails, "validation", "")
    groups = charts.point_groups(section)
    assert [group.name for group in groups] == ["other classes", *names[4:]]
    assert [group.count for group in groups] == [1 + 2 + 3 + 4, *range(5, 15)]
    assert [group.colour for group in groups] == [None, *range(10)]
    placed = charts.placed_thumbnails(section)
    assert len({(image.x, image.y) for image in placed}) == len(placed)


def test_in_a_browser_nothing_of_users_runs(chromium, tmp_path):
    """Hostile names everywhere, and more classes than a table can show."""
    names = HOSTILE * 8
    report = made_up_report(names, np.arange(40) * 4 + 1, text=HOSTILE[1] + "w" * 300)
    path = tmp_path / "page.html"
    path.write_text(page_of(report, command=HOSTILE[0]), encoding="utf-8")
    for width in (1280, 360):
        look_at(chromium, path, width)


def decode(uri):
    import base64
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
