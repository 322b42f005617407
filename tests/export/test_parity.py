"""Figures and limits of the parity report."""

import numpy as np
import pytest

from rfd_tf.exporting.parity import (
    Form,
    OutputParity,
    ParityError,
    check_parity,
    measure_parity,
    parity_table,
)


def measured(actual, expected, precision="float32", batch_size=2):
    form = Form(
        "copy", precision, lambda rows: {"features": actual[rows]}, lambda rows: {"features": expected[rows]}
    )
    starts = range(0, len(expected), batch_size)
    return measure_parity([form], [slice(start, start + batch_size) for start in starts])[0]


def values(count=5):
    return np.random.default_rng(0).normal(size=(count, 4)).astype("float32")


def test_figures_over_all_batches():
    expected = values()
    actual = expected.copy()
    actual[4, 1] += 0.25
    actual[0, 0] -= 0.125
    found = measured(actual, expected)
    assert found.max_difference == pytest.approx(0.25)
    assert found.max_value == pytest.approx(np.abs(expected).max())
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(actual, expected, strict=True)]
    assert found.min_cosine == pytest.approx(min(cosines))


@pytest.mark.parametrize(
    ("difference", "value", "within"),
    [(0.9e-4, 1, True), (1.1e-4, 1, False), (0.9e-4, 0.01, True), (0.9e-2, 100, True), (1.1e-2, 100, False)],
)
def test_limit_is_absolute_up_to_one_and_relative_beyond(difference, value, within):
    parity = OutputParity("onnx", "features", "float32", difference, value, 1.0)
    assert parity.within == within


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_values_that_are_not_finite_fail(broken, precision):
    for place in ("actual", "expected", "both"):
        actual, expected = values(), values()
        if place != "expected":
            actual[1, 2] = broken
        if place != "actual":
            expected[1, 2] = broken
        with np.errstate(invalid="ignore"):
            assert not measured(actual, expected, precision).within, place


def test_zero_vectors():
    nothing, something = np.zeros((1, 4), "float32"), values(1)
    assert measured(nothing, nothing).min_cosine == 1
    assert measured(nothing, something).min_cosine == 0
    assert not measured(nothing, something, "int8").within


def test_int8_is_judged_by_its_direction():
    assert measured(1.2 * values(), values(), "int8").within
    assert not measured(1.2 * values(), values(), "float16").within
    assert not measured(-values(), values(), "int8").within


def test_errors_name_output_form_and_difference():
    with pytest.raises(ParityError, match=r"copy: features by 0\.5 of .*cosine"):
        check_parity([measured(values() + 0.5, values())])
    with pytest.raises(ParityError, match=r"copy: features has shape \(2, 3\), the model's \(2, 4\)"):
        measured(values()[:, :3], values())
    check_parity([measured(values(), values())])


def test_table_has_a_line_for_each():
    lines = parity_table([measured(values(), values()), measured(values(), values(), "int8")]).splitlines()
    assert len(lines) == 3
    assert (
        lines[1].split() == ["copy", "features", "0.00e+00", "2.4", "1.0000000", "1e-04"]
        or "copy" in lines[1]
    )
