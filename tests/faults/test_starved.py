"""No room, or no right to write: one clear line, status 1, what was there stays, and with room it goes on."""

import contextlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS, PLAIN, make_world
from tests.faults.whole_files import check_whole
from tests.zoo.mega_server import MegaServer

# What each command has room for, too little for all that it writes.
ROOM = {
    "convert": "200k",
    "extract npz": "60k",
    "extract parquet": "60k",
    "propose": "20k",
    "evaluate": "40k",
    "find objects": "40k",
    "sweep": "32k",
}
FAST = ("convert", "extract npz")
NAMES = [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in COMMANDS]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with MegaServer(PLAIN) as server:
        yield make_world(tmp_path_factory.mktemp("world"), server)


@contextlib.contextmanager
def mounted(folder: Path, *options: str):
    """A file system of our own at `folder`; skips where that is not allowed."""
    done = subprocess.run(["mount", *options, folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def rfd(world, monkeypatch, capfd):
    """A command in this process where it is one of `rfd`: (status, its lines on standard error)."""
    monkeypatch.setenv("RFD_TF_MEGA_API", world.server.api)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())

    def run(name: str, out: Path) -> tuple[int, list[str]]:
        monkeypatch.setenv("RFD_TF_CACHE", str(out))
        kind, *arguments = map(str, COMMANDS[name].arguments(world, out))
        capfd.readouterr()
        if kind == "-m":
            module, *arguments = arguments
            program = "rfd" if module == "rfd_tf.cli" else "rfd train"
            status = importlib.import_module(module).main([program, *arguments])
        else:
            status = subprocess.run([sys.executable, kind, *arguments]).returncode
        return status, capfd.readouterr().err.splitlines()

    return run


def assert_clear(status: int, lines: list[str], out: Path) -> None:
    """One line of the program's own tells what is wrong, with the place."""
    assert status == 1, lines
    assert not any("Traceback" in line for line in lines), lines
    last = next(
        line for line in reversed(lines) if line.startswith(("rfd ", "propose: ", "  https://mega.nz"))
    )
    assert str(out) in last, lines
    assert len(last) < 500


@pytest.mark.parametrize("name", NAMES)
def test_read_only_folder(name, world, rfd, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "earlier").write_text("kept")
    COMMANDS[name].begin_with(world, out)
    before = sorted(out.rglob("*"))
    with mounted(out, "--bind", str(out)):
        subprocess.run(["mount", "-o", "remount,ro,bind", out], check=True)
        assert_clear(*rfd(name, out), out)
    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize("name", NAMES)
def test_full_disk(name, world, rfd, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with mounted(out, "-t", "tmpfs", "-o", f"size={ROOM.get(name, '200k')}", "tmpfs"):
        (out / "earlier").write_text("kept")
        COMMANDS[name].begin_with(world, out)
        assert_clear(*rfd(name, out), out)
        assert not (out / COMMANDS[name].result).is_file()
        check_whole(out)
        assert (out / "earlier").read_text() == "kept"
        subprocess.run(["mount", "-o", "remount,size=200m", out], check=True)
        status, lines = rfd(name, out)
        assert status == 0, lines
        assert (out / COMMANDS[name].result).exists()
        check_whole(out)
