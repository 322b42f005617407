import re

import numpy as np
import pytest

from rfd_tf.data import load_rotation_probabilities, save_rotation_probabilities


def test_layout(tmp_path):
    path = tmp_path / "prob.dat"
    path.write_text("1\n0.5\n.25\n1e-3\n0\n0.1\n0.2\n0.3\n")
    loaded = load_rotation_probabilities(path, 2)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, np.float32([[1, 0.5, 0.25, 1e-3], [0, 0.1, 0.2, 0.3]]))


def test_round_trip_is_exact(tmp_path):
    values = np.random.default_rng(0).random((500, 4), dtype="float32")
    values[0] = [0, 1, np.finfo("float32").tiny, np.nextafter(np.float32(1), np.float32(0))]
    path = tmp_path / "new/prob.dat"
    save_rotation_probabilities(path, values)
    np.testing.assert_array_equal(load_rotation_probabilities(path, 500), values)
    assert [p.name for p in path.parent.iterdir()] == ["prob.dat"]


@pytest.mark.parametrize("bad", ["x", "", "nan", "inf", "1.5", "-0.1", "0.1 0.2", "\x00\xff", "é"])
def test_bad_line_is_named(tmp_path, bad):
    path = tmp_path / "prob.dat"
    path.write_text("0.5\n" * 16 + f"{bad}\n" + "0.5\n" * 3)
    shown = re.escape(f"{path}:17: expected a probability in [0, 1]. Received: ")
    with pytest.raises(ValueError, match=shown):
        load_rotation_probabilities(path, 5)


@pytest.mark.parametrize("lines", [0, 7, 9, 12])
def test_wrong_length(tmp_path, lines):
    path = tmp_path / "prob.dat"
    path.write_text("0.5\n" * lines)
    with pytest.raises(
        ValueError, match=rf"prob\.dat:{min(lines, 8) + 1}: expected 8 lines .*2 images.*, found {lines}\."
    ):
        load_rotation_probabilities(path, 2)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prob\.dat"):
        load_rotation_probabilities(tmp_path / "prob.dat", 2)


@pytest.mark.parametrize(
    "values", [np.zeros((3, 3)), np.zeros(4), np.full((2, 4), np.nan), np.full((2, 4), 2.0)]
)
def test_nothing_wrong_is_written(tmp_path, values):
    with pytest.raises(ValueError, match="probabilities"):
        save_rotation_probabilities(tmp_path / "prob.dat", values)
    assert not list(tmp_path.iterdir())
