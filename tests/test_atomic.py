import os
import signal
import subprocess
import sys
import tempfile

import pytest

from rfd_tf.files import atomic_file, own_temporary_folder


def test_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "deep/file"
    with atomic_file(path) as file:
        file.write(b"old")
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.writelines([b"half", None])
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


_WRITES_A_FILE_AND = """
import sys, tempfile
from rfd_tf.files import own_temporary_folder
with own_temporary_folder():
    tempfile.NamedTemporaryFile(delete=False).close()
    print(tempfile.gettempdir(), flush=True)
    sys.stdin.readline()
"""


def _enter(tmp_path):
    """A process within `own_temporary_folder`, and its folder, which holds a file."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITES_A_FILE_AND],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    folder = process.stdout.readline().strip()
    assert os.path.dirname(folder) == str(tmp_path)
    assert len(os.listdir(folder)) == 1
    return process, folder


def test_the_temporary_files_of_killed_processes_are_removed_by_the_next_one(tmp_path):
    killed, left = _enter(tmp_path)
    living, kept = _enter(tmp_path)
    assert os.path.exists(left)  # that process lives
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    killed.communicate()
    assert os.path.exists(left)
    third, folder = _enter(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {os.path.basename(path) for path in (kept, folder)}
    for process in (living, third):
        process.communicate("end\n")
        assert process.returncode == 0
    assert not list(tmp_path.iterdir())


def test_links_and_files_named_like_a_folder_for_temporary_files_stay(tmp_path):
    (tmp_path / "rfd_tf-file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "rfd_tf-link").symlink_to(tmp_path / "other")
    process, _ = _enter(tmp_path)
    process.communicate("end\n")
    assert {path.name for path in tmp_path.iterdir()} == {"rfd_tf-file", "other", "rfd_tf-link"}


def test_temporary_files_go_where_they_would_if_no_folder_can_be_made(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with own_temporary_folder():
        assert tempfile.gettempdir() == str(tmp_path / "absent")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with own_temporary_folder():
        assert os.path.dirname(tempfile.gettempdir()) == str(tmp_path)
    assert tempfile.gettempdir() == str(tmp_path)
