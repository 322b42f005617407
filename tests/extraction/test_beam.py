"""Extraction on Apache Beam's local runner: the same as on this machine. Run by `make test-beam`."""

import json
import os
import shutil

import numpy as np
import pytest

beam = pytest.importorskip(
    "rfd_tf.features.beam",
    reason="no Apache Beam here; it needs an environment of its own: make test-beam",
    exc_type=ImportError,
)

from apache_beam.io.localfilesystem import LocalFileSystem  # noqa: E402

from rfd_tf import cli  # noqa: E402
from rfd_tf.data import FlatFolder, open_images  # noqa: E402
from rfd_tf.features import load_features  # noqa: E402
from rfd_tf.features.beam import BeamStorage  # noqa: E402
from tests.data.images import write  # noqa: E402
from tests.extraction.tiny import run_extract, shards, write_bad  # noqa: E402


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


def test_flags_go_to_beam(run, tmp_path):
    folder = write(tmp_path / "p", *[f"{i}.jpg" for i in range(6)])
    workers = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    flags = ["--runner=DirectRunner", "--shard_size=1", "--", *workers]
    assert extract(run, folder, tmp_path / "beam", *flags) == 0
    run_extract(run, folder, tmp_path / "here", shard_size=1)
    assert_same(tmp_path / "beam", tmp_path / "here")
    assert FlatFolder(folder).files == tuple(load_features(tmp_path / "beam")[2])
