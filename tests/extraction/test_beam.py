"""Extraction and preparation on Apache Beam's local runner: the same as on this machine.

Run by `make test-beam`.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

beam = pytest.importorskip(
    "rfd_tf.beam",
    reason="no Apache Beam here; it needs an environment of its own: make test-beam",
    exc_type=ImportError,
)

from apache_beam.io.localfilesystem import LocalFileSystem  # noqa: E402

from rfd_tf import cli  # noqa: E402
from rfd_tf.beam import BeamStorage  # noqa: E402
from rfd_tf.data import FlatFolder, PreparedSource, open_images, prepared  # noqa: E402
from rfd_tf.features import load_features  # noqa: E402
from tests.data.images import write  # noqa: E402
from tests.extraction.tiny import run_extract, shards, write_bad  # noqa: E402
from tests.training.processes import LIMIT, ROOT  # noqa: E402

IN_PROCESSES = ["--", "--direct_num_workers=2", "--direct_running_mode=multi_processing"]


def extract(run, images, out, *flags) -> int:
    flags = (f"--model={run}", f"--images={images}", f"--out={out}", "--outputs=features,block1", *flags)
    return cli.main(["rfd", "extract", *flags])


def assert_same(out, other):
    (features, *rest), (features_of_other, *rest_of_other) = load_features(out), load_features(other)
    for name, values in features_of_other.items():
        np.testing.assert_allclose(features[name], values, atol=1e-6)
    for mine, theirs in zip(rest, rest_of_other, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (out, other)]
    for key in ("pictures", "extracted", "skipped", "shards", "outputs"):
        assert manifests[0][key] == manifests[1][key], key


class BucketFileSystem(LocalFileSystem):
    """`bucket://PATH` is `ROOT/PATH`: an address of another file system than the local one."""

    root = ""

    @classmethod
    def scheme(cls):
        return "bucket"

    def _local(self, path):
        return path.replace("bucket://", f"{self.root}/")

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        return tuple(path.rsplit("/", 1))

    def mkdirs(self, path):
        super().mkdirs(self._local(path))

    def match(self, patterns, limits=None):
        found = super().match([self._local(pattern) for pattern in patterns], limits)
        for result in found:
            for metadata in result.metadata_list:
                metadata.path = metadata.path.replace(f"{self.root}/", "bucket://")
        return found

    def create(self, path, *args, **options):
        return super().create(self._local(path), *args, **options)

    def open(self, path, *args, **options):
        return super().open(self._local(path), *args, **options)

    def exists(self, path):
        return super().exists(self._local(path))

    def rename(self, sources, targets):
        super().rename([self._local(path) for path in sources], [self._local(path) for path in targets])

    def delete(self, paths):
        for path in paths:
            os.remove(self._local(path))


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(BucketFileSystem, "root", str(tmp_path / "bucket"))
    return tmp_path / "bucket"


def test_photographs_as_on_this_machine(run, test_data, tmp_path, capsys, caplog):
    folder = tmp_path / "photos"
    for path in sorted((test_data / "photos" / "val").glob("*/*"))[::50]:
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    corrupt = sorted(folder.glob("*/*"))[3]
    corrupt.write_bytes(corrupt.read_bytes()[:2000])
    for runner, out in (([], "here"), (["--runner=DirectRunner"], "beam")):
        flags = ["--shard_size=7", "--batch_size=3", *runner]
        assert extract(run, folder, tmp_path / out, *flags) == 0
        printed = capsys.readouterr()
        assert f"Skipped images: 1 (the first is {corrupt.relative_to(folder)}: " in printed.out
    assert "Counted: images 19, shards 3, skipped 1" in caplog.text
    assert_same(tmp_path / "beam", tmp_path / "here")
    assert sorted(set(os.listdir(tmp_path / "here")) - {".lock"}) == sorted(os.listdir(tmp_path / "beam"))


def test_bad_images_formats_and_continuing(run, tmp_path):
    folder = write(tmp_path / "p", "a1.jpg", "a2.jpg", "b-good.jpg", "c.jpg")
    bad = write_bad(folder)
    options = {"format": "npz", "dtype": "float16", "shard_size": 4}
    flags = ["--format=npz", "--dtype=float16", "--shard_size=4", "--max_pixels=10000"]
    for name in ("phone.HEIC", "other.heic", ".hidden"):
        (folder / name).write_bytes(b"x")
    run_extract(run, folder, tmp_path / "here", **options)
    out = tmp_path / "beam"
    assert extract(run, folder, out, *flags, "--runner=DirectRunner") == 0
    assert_same(out, tmp_path / "here")
    manifest = json.loads((out / "manifest.json").read_text())
    assert {image["path"] for image in manifest["skipped"]} == set(bad)
    assert manifest["left_out"] == {".heic": 2, "hidden": 1}
    before = {name: os.stat(out / name).st_mtime_ns for name in shards(out)}
    os.remove(out / "features-00002-of-00004.npz")
    assert extract(run, folder, out, *flags) == 0  # what Beam began, this machine finishes
    os.remove(out / "features-00001-of-00004.npz")
    assert extract(run, folder, out, *flags, "--runner=DirectRunner") == 0
    assert_same(out, tmp_path / "here")
    for number in (0, 3):
        name = f"features-0000{number}-of-00004.npz"
        assert os.stat(out / name).st_mtime_ns == before[name]


def test_other_file_systems(run, bucket, tmp_path):
    write(bucket / "p", "b/2.jpg", "b/1.jpg", "a/deep/1.jpg", "a/1.png")
    shutil.copytree(run, bucket / "model")
    flags = ["--runner=DirectRunner", "--shard_size=3"]
    assert extract("bucket://model", "bucket://p", "bucket://out", *flags) == 0
    run_extract(run, bucket / "p", tmp_path / "here", shard_size=3)
    assert_same(bucket / "out", tmp_path / "here")
    assert load_features(bucket / "out")[2] == ["a/1.png", "a/deep/1.jpg", "b/1.jpg", "b/2.jpg"]
    assert not [name for name in os.listdir(bucket / "out") if name.startswith(".")]

    (bucket / "p" / "list.txt").write_text("b/2.jpg 1\na/1.png 0\n")
    assert extract("bucket://model", "bucket://p/list.txt", "bucket://listed", *flags) == 0
    run_extract(run, bucket / "p" / "list.txt", tmp_path / "listed", shard_size=3)
    assert_same(bucket / "listed", tmp_path / "listed")


def test_listing_as_folders(bucket):
    write(bucket / "flat", "z.jpg", "b/1.jpg", "a/1.png")
    write(bucket / "classes", "b/x/2.jpg", "b/y.jpg", "b/x-1/1.jpg", "a/1.png", "a/notes.JPEG")
    (bucket / "flat" / "notes.txt").write_text("no image")
    for name in ("flat", "classes"):
        found, expected = beam.open_beam_files(f"bucket://{name}"), open_images(bucket / name)
        assert found.files == expected.files
        assert found.class_names == expected.class_names
        np.testing.assert_array_equal(found.labels, expected.labels)
    with pytest.raises(FileNotFoundError, match="bucket://none holds no image"):
        beam.open_beam_files("bucket://none")
    with pytest.raises(FileNotFoundError, match=r"bucket://none\.txt; No such file"):
        beam.open_beam_files("bucket://none.txt")


def test_refused_in_one_clear_line(run, bucket, tmp_path, capsys):
    folder = write(tmp_path / "p", "1.jpg", "2.jpg")
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 16, 16, 3), "uint8"))
    (folder / "3.jpg").write_bytes(b"nothing")
    out = tmp_path / "out"
    for model, images, message, *flags in (
        (run, tmp_path / "a.npz", "the images must be files"),
        (run, folder, "3.jpg: it is no JPEG", "--on_error=raise"),
        (run, folder, "NoRunner", "--runner=NoRunner"),
        ("bucket://none", folder, "bucket://none"),
        (run, "bucket://none", "holds no image"),
    ):
        assert extract(model, images, out, "--runner=DirectRunner", *flags) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("rfd extract: ")
        assert message in error


def test_storage_writes_whole_or_nothing(tmp_path):
    storage = BeamStorage(str(tmp_path / "new" / "folder"))
    storage.write_text("a", "first")
    with pytest.raises(TypeError), storage.write("a") as file:
        file.write("text where bytes belong")
    assert storage.read("a") == b"first"
    storage.write_text("a", "second")
    assert storage.read("a") == b"second"
    assert os.listdir(tmp_path / "new" / "folder") == ["a"]
    assert storage.names() == {"a"}
    with pytest.raises(FileNotFoundError):
        storage.open("b")


@pytest.mark.parametrize("mode", ["multi_threading", "multi_processing"])
def test_two_workers(run, tmp_path, mode):
    """Flags after `--` go to Beam: threads, or processes that open the model on their own."""
    folder = write(tmp_path / "p", *[f"{i}.jpg" for i in range(6)])
    flags = ["--runner=DirectRunner", "--shard_size=1", "--", "--direct_num_workers=2"]
    assert extract(run, folder, tmp_path / "beam", *flags, f"--direct_running_mode={mode}") == 0
    run_extract(run, folder, tmp_path / "here", shard_size=1)
    assert_same(tmp_path / "beam", tmp_path / "here")
    assert FlatFolder(folder).files == tuple(load_features(tmp_path / "beam")[2])


def children(process: int) -> list[int]:
    """The processes that it started, and those that they did."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, parent = int(path.parent.name), int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it has ended
            continue
        if parent == process:
            found += [number, *children(number)]
    return found


def kill_a_worker(command: list[str], out: Path, pattern: str) -> int:
    """SIGKILL one of the workers once a shard is there; the command's exit status, which must come."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rfd_tf.cli", *command], cwd=ROOT, start_new_session=True
    )
    end = time.monotonic() + LIMIT
    try:
        while not list(out.glob(pattern)):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        workers = [child for child in children(process.pid) if b"sdk_worker" in command_of(child)]
        assert len(workers) >= 2
        os.kill(workers[-1], signal.SIGKILL)
        return process.wait(timeout=LIMIT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
def test_a_worker_process_is_killed(run, tmp_path):
    """The command ends, and says so; started again it makes what is missing, and nothing twice."""
    folder = write(tmp_path / "p", *[f"{i:03}.jpg" for i in range(24)])
    out = tmp_path / "beam"
    flags = [f"--model={run}", f"--images={folder}", f"--out={out}", "--outputs=features,block1"]
    command = ["extract", *flags, "--runner=DirectRunner", "--shard_size=1", *IN_PROCESSES]
    assert kill_a_worker(command, out, "features-*") == 1
    before = {name: os.stat(out / name).st_mtime_ns for name in shards(out)}
    assert 0 < len(before) < 24
    assert cli.main(["rfd", *command]) == 0
    assert all(os.stat(out / name).st_mtime_ns == changed for name, changed in before.items())
    run_extract(run, folder, tmp_path / "here", shard_size=1)
    assert_same(out, tmp_path / "here")
    index = load_features(out)[1]
    assert index.tolist() == list(range(24))
    assert not [name for name in os.listdir(out) if name.startswith(".")]


@pytest.fixture
def job_server(tmp_path):
    """Flags for a job server and a pool of workers, processes of their own as Flink and Spark have them."""
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    job, pool = (each.getsockname()[1] for each in sockets)
    for each in sockets:
        each.close()
    commands = [
        ["apache_beam.runners.portability.local_job_service_main", f"--port={job}"],
        ["apache_beam.runners.worker.worker_pool_main", f"--service_port={pool}"],
    ]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    with open(tmp_path / "log", "wb") as log:
        servers = [
            subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env={**os.environ, "PATH": path},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            for command in commands
        ]
    try:
        yield [
            "--runner=PortableRunner",
            "--",
            f"--job_endpoint=127.0.0.1:{job}",
            "--environment_type=EXTERNAL",
            f"--environment_config=127.0.0.1:{pool}",
        ]
    finally:
        for server in servers:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@pytest.mark.slow
def test_over_the_network(run, job_server, tmp_path):
    folder = write(tmp_path / "p", *[f"{i}.jpg" for i in range(6)])
    assert extract(run, folder, tmp_path / "out", "--shard_size=2", *job_server) == 0
    run_extract(run, folder, tmp_path / "here", shard_size=2)
    assert_same(tmp_path / "out", tmp_path / "here")
    assert prepare(folder, tmp_path / "prepared", "--shard_size=2", *job_server) == 0
    assert prepare(folder, tmp_path / "prepared-here", "--shard_size=2") == 0
    assert_prepared_alike(tmp_path / "prepared", tmp_path / "prepared-here")


class Again(beam.ExtractShards):
    """Each shard three times: a retry of what is done, and by a worker that saw no file yet."""

    def process(self, number):
        path = Path(self._out, self._settings.shard_file(number))
        super().process(number)
        content = path.read_bytes()
        super().process(number)
        path.unlink()
        super().process(number)
        Path(f"{self._out}-again-{number}").write_text(str(path.read_bytes() == content))


def test_a_retry_makes_nothing_twice(run, tmp_path, monkeypatch):
    """A runner may run a shard again, also while another worker is still at it."""
    folder = write(tmp_path / "p", *[f"{i}.jpg" for i in range(5)])
    monkeypatch.setattr(beam, "ExtractShards", Again)
    assert extract(run, folder, tmp_path / "out", "--runner=DirectRunner", "--shard_size=2") == 0
    assert [path.read_text() for path in tmp_path.glob("out-again-*")] == ["True"] * 3
    run_extract(run, folder, tmp_path / "here", shard_size=2)
    assert_same(tmp_path / "out", tmp_path / "here")


def prepare(root, out, *flags) -> int:
    return cli.main(["rfd", "prepare", f"--root={root}", f"--out={out}", "--short_side=20", *flags])


def assert_prepared_alike(out, other):
    """The same files with the same records, by their digests, and the same index; nothing else is there."""
    listed = [sorted(set(os.listdir(folder)) - {".lock"}) for folder in (out, other)]
    assert listed[0] == listed[1]
    settings = [json.loads((folder / "prepared.json").read_text()) for folder in (out, other)]
    for fields in settings:
        del fields["made_from"]  # which every shard repeats
        for shard in fields["shards"]:
            assert shard.pop("bytes") > 0
    assert settings[0] == settings[1]
    with np.load(out / "index.npz") as mine, np.load(other / "index.npz") as theirs:
        assert mine.files == theirs.files
        assert all(np.array_equal(mine[key], theirs[key]) for key in mine.files)
    opened = [PreparedSource(folder, on_error="skip") for folder in (out, other)]
    for index in set(range(len(opened[0]))) - set(opened[0].skipped):
        np.testing.assert_array_equal(*(source.fetch(index).numpy() for source in opened))


@pytest.mark.parametrize("form", ["jpeg", "raw"])
def test_prepared_as_on_this_machine(tmp_path, capsys, caplog, form):
    folder = write(tmp_path / "p", *(f"{i % 2}/{i:02}.jpg" for i in range(11)))
    (folder / "1" / "bad.jpg").write_bytes(b"nothing")
    flags = [f"--format={form}", "--shard_size=4", "--on_error=skip"]
    assert prepare(folder, tmp_path / "here", *flags) == 0
    assert prepare(folder, tmp_path / "beam", *flags, "--runner=DirectRunner") == 0
    assert_prepared_alike(tmp_path / "beam", tmp_path / "here")
    assert "Skipped images: 1" in capsys.readouterr().out
    assert "Counted: images 11, shards 3, skipped 1" in caplog.text
    opened = PreparedSource(tmp_path / "beam", on_error="skip")
    assert (len(opened), list(opened.skipped)) == (12, [11])

    shard = tmp_path / "beam" / "images-00001-of-00003.array_record"
    before = {path: path.stat().st_mtime_ns for path in shard.parent.glob("images-*") if path != shard}
    shard.unlink()
    for runner in (["--runner=DirectRunner"], []):  # what is there is kept, and all is there now
        assert prepare(folder, tmp_path / "beam", *flags, *runner) == 0
        assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
        assert_prepared_alike(tmp_path / "beam", tmp_path / "here")


def test_prepared_in_another_file_system(bucket, tmp_path):
    write(bucket / "p", "b/2.jpg", "b/1.jpg", "a/deep/1.jpg", "a/1.png")
    flags = ["--runner=DirectRunner", "--shard_size=3"]
    assert prepare("bucket://p", "bucket://out", *flags) == 0
    assert prepare(bucket / "p", tmp_path / "here", "--shard_size=3") == 0
    assert_prepared_alike(bucket / "out", tmp_path / "here")
    (bucket / "p" / "list.txt").write_text("b/2.jpg 1\na/1.png 0\n")
    assert prepare("bucket://p/list.txt", "bucket://listed", *flags) == 0
    opened = PreparedSource(bucket / "listed")
    assert (opened.original_names, opened.labels.tolist()) == (("b/2.jpg", "a/1.png"), [1, 0])


@pytest.mark.slow
def test_a_preparing_worker_is_killed(tmp_path):
    folder = write(tmp_path / "p", *[f"{i:03}.jpg" for i in range(24)])
    out = tmp_path / "beam"
    flags = [f"--root={folder}", f"--out={out}", "--short_side=20", "--shard_size=1"]
    command = ["prepare", *flags, "--runner=DirectRunner", *IN_PROCESSES]
    assert kill_a_worker(command, out, "images-*") == 1
    before = {path: path.stat().st_mtime_ns for path in out.glob("images-*")}
    assert 0 < len(before) < 24
    with pytest.raises(ValueError, match="not whole"):
        PreparedSource(out)
    assert cli.main(["rfd", *command]) == 0
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    assert prepare(folder, tmp_path / "here", "--shard_size=1") == 0
    assert_prepared_alike(out, tmp_path / "here")


def test_prepare_refused_in_one_clear_line(tmp_path, capsys):
    folder = write(tmp_path / "p", "1.jpg", "2.jpg")
    np.savez(tmp_path / "a.npz", train_images=np.zeros((2, 16, 16, 3), "uint8"))
    out = tmp_path / "out"
    assert prepare(folder, out, "--runner=DirectRunner", "--shard_size=1") == 0
    shutil.copytree(out, tmp_path / "damaged")
    (tmp_path / "damaged" / "images-00000-of-00002.array_record").write_bytes(b"x")
    (tmp_path / "damaged" / prepared.INDEX_FILE).unlink()
    (folder / "3.jpg").write_bytes(b"nothing")
    for root, target, message, *flags in (
        (tmp_path / "a.npz", tmp_path / "new", "the images must be files"),
        (folder, tmp_path / "new", "3.jpg: Unknown image file format"),
        (folder, out, "images: 2 there, 3 now"),
        (folder, tmp_path / "new", "NoRunner", "--runner=NoRunner", "--on_error=skip"),
        ("bucket://none", tmp_path / "new", "bucket://none"),
        ("bucket://none", tmp_path / "new", "takes no --source", "--source=image_list"),
    ):
        assert prepare(root, target, "--runner=DirectRunner", *flags) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("rfd prepare: ")
        assert message in error
    (folder / "3.jpg").unlink()
    assert prepare(folder, tmp_path / "damaged", "--runner=DirectRunner", "--shard_size=1") == 1
    assert "images-00000-of-00002.array_record is damaged" in capsys.readouterr().err
    assert cli.main(["rfd", "prepare", "--root=x", "--out=y", "--", "--flag"]) == 2
    assert "'--flag' after `--` is for Beam, which needs --runner" in capsys.readouterr().err
