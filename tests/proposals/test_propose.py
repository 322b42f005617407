"""Selective search on real and made-up images, in real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rfd_tf.detection.proposals import ProposalError, SelectiveSearch, load_proposals, propose
from rfd_tf.metrics import inclusive_iou

ROOT = Path(__file__).parents[2]
SQUARE = (30, 20, 69, 59)


def image(path, seed=0):
    """A square on a ground of noise."""
    noise = np.random.default_rng(seed).integers(90, 110, (80, 120, 3), dtype="uint8")
    image = Image.fromarray(noise)
    ImageDraw.Draw(image).rectangle(SQUARE, fill=(250, 40, 40))
    image.save(path)
    return path


def test_finds_a_square_and_gives_the_same_again(tmp_path):
    search = SelectiveSearch("single")
    path = image(tmp_path / "a.png")
    boxes = search(path)
    assert boxes.dtype == np.float32
    assert inclusive_iou(boxes, [SQUARE]).max() == 1
    assert boxes.min() >= 0
    assert (boxes[:, 2:] >= boxes[:, :2]).all()
    assert (boxes[:, 2:].max(axis=0) <= (119, 79)).all()
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    np.testing.assert_array_equal(search(path), boxes)
    large = SelectiveSearch("single", min_side=25)(path)
    kept = (boxes[:, 2:] - boxes[:, :2] + 1 >= 25).all(axis=1)
    np.testing.assert_array_equal(large, boxes[kept])


def test_settings_have_names_of_their_own():
    settings = [
        SelectiveSearch(),
        SelectiveSearch("single"),
        SelectiveSearch(min_side=9),
        SelectiveSearch(seed=1),
    ]
    assert len({search.fingerprint() for search in settings}) == 4
    for arguments in ({"mode": "slow"}, {"min_side": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            SelectiveSearch(**arguments)


def test_many_images_go_on_where_they_stopped(tmp_path, capfd):
    paths = [image(tmp_path / f"{seed}.png", seed) for seed in range(4)]
    search = SelectiveSearch("single")
    folder = propose(paths[:2], tmp_path / "out", search, processes=2)
    before = {file: file.stat().st_mtime_ns for file in folder.glob("*.npy")}
    assert len(before) == 2
    assert propose(paths, tmp_path / "out", search, processes=2) == folder
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert "4/4" in capfd.readouterr().err
    for path in paths:
        np.testing.assert_array_equal(load_proposals(folder, path.stem), search(path))
    assert not [file.name for file in folder.iterdir() if file.suffix not in (".npy", ".json")]


def test_a_image_that_cannot_be_decoded_is_named_and_the_rest_stays(tmp_path):
    paths = [image(tmp_path / "a.png"), tmp_path / "b.png"]
    paths[1].write_bytes(paths[0].read_bytes()[:60])
    with pytest.raises(ProposalError, match=r"b\.png cannot be decoded"):
        propose(paths, tmp_path / "out", SelectiveSearch("single"), processes=1)
    folder = tmp_path / "out" / SelectiveSearch("single").fingerprint()
    assert [file.name for file in folder.glob("*.npy")] == ["a.npy"]
    with pytest.raises(FileNotFoundError, match=r"b\.npy"):
        load_proposals(folder, "b")
    for content in (b"", b"\x93NUMPY broken"):
        (folder / "a.npy").write_bytes(content)
        with pytest.raises(ProposalError, match=r"a\.npy"):
            load_proposals(folder, "a")
    np.save(folder / "a.npy", np.zeros(3))
    with pytest.raises(ProposalError, match=r"float64 of shape \(3,\)"):
        load_proposals(folder, "a")


def test_two_images_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'a'"):
        propose([tmp_path / "x" / "a.jpg", tmp_path / "y" / "a.jpg"], tmp_path / "out")


@pytest.fixture
def search(tmp_path):
    """A search of 40 images that has found the first one's proposals, and the folder of its files."""
    for seed in range(40):
        image(tmp_path / f"{seed}.png", seed)
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, pathlib\n"
        "from rfd_tf.detection.proposals import ProposalsStopped, SelectiveSearch, propose\n"
        "if __name__ == '__main__':\n"
        "    folder = pathlib.Path(sys.argv[1])\n"
        "    try:\n"
        "        propose(sorted(folder.glob('*.png')), folder / 'out', SelectiveSearch('quality'), 1)\n"
        "    except ProposalsStopped as stop:\n"
        "        print(stop)\n"
        "        sys.exit(128 + stop.signal_number)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "out" / SelectiveSearch("quality").fingerprint()
    deadline = time.monotonic() + 300
    while not list(folder.glob("*.npy")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process, folder
    process.kill()
    process.wait()


def test_sigterm_finishes_the_image_at_hand(search):
    process, folder = search
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    done = len(list(folder.glob("*.npy")))
    assert 0 < done < 40
    assert f"Stopped by SIGTERM: {done} of 40 images have proposals." in output
    assert not [file.name for file in folder.iterdir() if file.suffix not in (".npy", ".json")]


def test_a_killed_search_leaves_no_process_behind(search):
    process, _ = search
    process.kill()
    process.communicate(timeout=120)  # until all that write to its output have ended
