"""Extraction on this machine: content, formats, bad images, resuming."""

import dataclasses
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest

from rfd_tf.data import BadImageError, FlatFolder, open_images
from rfd_tf.features import ExtractionError, KerasFeatureModel, load_features, open_feature_model
from rfd_tf.features.store import describe_extraction
from tests.data.images import write
from tests.extraction.tiny import OPTIONS, by_hand, opened, run_extract, shards, write_bad, write_run

NAMES = [f"{folder}/{i}.{ending}" for folder in "ac" for i, ending in enumerate(["jpg", "png", "bmp"] * 2)]


@pytest.fixture
def images(tmp_path):
    return write(tmp_path / "pictures", *NAMES)


@pytest.mark.parametrize(("format", "dtype"), [("parquet", "float32"), ("npz", "float16")])
def test_equal_to_the_feature_model_by_hand(run, images, tmp_path, format, dtype):
    assert run_extract(run, images, tmp_path / "out", format=format, dtype=dtype, shard_size=5) == []
    features, index, paths, labels = load_features(tmp_path / "out")
    source = open_images(images)
    assert shards(tmp_path / "out") == [f"features-0000{i}-of-00003.{format}" for i in range(3)]
    assert index.tolist() == list(range(12))
    assert paths == NAMES
    assert labels.tolist() == [0] * 6 + [1] * 6
    expected = by_hand(run, source, index)
    for name, shape in (("features", (12, 8)), ("block1", (12, 16, 16, 4))):
        assert features[name].shape == shape
        assert features[name].dtype == dtype
        np.testing.assert_allclose(features[name], expected[name], atol=1e-5 if dtype == "float32" else 5e-3)
    only, *_ = load_features(tmp_path / "out", ["features"])
    assert list(only) == ["features"]


def test_parquet_for_others(run, images, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    run_extract(run, images, tmp_path / "out", shard_size=12, dtype="float16")
    table = pq.read_table(tmp_path / "out" / "features-00000-of-00001.parquet")
    assert {name: str(table.schema.field(name).type) for name in table.column_names} == {
        "index": "int64",
        "path": "string",
        "label": "int64",
        "features": "fixed_size_list<element: halffloat>[8]",
        "block1": "fixed_size_list<element: halffloat>[1024]",
    }
    assert json.loads(table.schema.field("block1").metadata[b"shape"]) == [16, 16, 4]
    info = json.loads(table.schema.metadata[b"rfd_tf"])["settings"]["info"]
    assert info["preprocessing"]["resize"] == 18
    rows = table.to_pylist()
    assert rows[7]["path"] == NAMES[7]
    expected = by_hand(run, open_images(images), [7])
    np.testing.assert_allclose(rows[7]["block1"], expected["block1"].ravel(), atol=5e-3)


def test_npz_for_others(run, images, tmp_path):
    (images / "beside.jpg").write_bytes((images / NAMES[0]).read_bytes())  # no class folders, then
    run_extract(run, images, tmp_path / "out", shard_size=20, format="npz")
    with np.load(tmp_path / "out" / "features-00000-of-00001.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {"index", "path", "features", "block1", "metadata"}  # no label
        assert arrays["path"].tolist() == [*NAMES[:6], "beside.jpg", *NAMES[6:]]
        assert arrays["block1"].shape == (13, 16, 16, 4)
        assert json.loads(str(arrays["metadata"]))["skipped"] == []
    assert load_features(tmp_path / "out")[3] is None


def test_bad_images_are_named_and_skipped(run, tmp_path):
    folder = write(tmp_path / "p", "a1.jpg", "a2.jpg", "b-good.jpg", "c.jpg")
    reasons = write_bad(folder)
    for name in ("phone.HEIC", "other.heic", "film.gif", ".hidden"):
        (folder / name).write_bytes(b"x")
    skipped = run_extract(run, folder, tmp_path / "out", shard_size=4)  # of the shards, one is all bad
    found = {image.path: image.reason for image in skipped}
    assert found.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert re.search(reason, found[name]), found[name]
        assert "\n" not in found[name]
    features, index, paths, _ = load_features(tmp_path / "out")
    assert paths == ["a1.jpg", "a2.jpg", "b-good.jpg", "c.jpg"]
    source = open_images(folder)
    assert [source.files[row] for row in index] == paths
    np.testing.assert_allclose(
        features["features"], by_hand(run, FlatFolder(folder, "skip"), index)["features"], atol=1e-5
    )
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["extracted"] == 4
    assert manifest["left_out"] == {".heic": 2, ".gif": 1, "hidden": 1}
    assert {entry["path"] for entry in manifest["skipped"]} == reasons.keys()
    assert sorted(shard["rows"] for shard in manifest["shards"]) == [0, 1, 1, 2]
    # Continued with on_error="raise", what was skipped counts.
    with pytest.raises(BadImageError, match="skipped earlier"):
        run_extract(run, folder, tmp_path / "out", on_error="raise")


def test_on_error_raise(run, tmp_path):
    folder = write(tmp_path / "p", "a.jpg", "c.jpg")
    (folder / "b.jpg").write_bytes(b"nothing")
    with pytest.raises(BadImageError, match=r"p/b\.jpg: it is no JPEG"):
        run_extract(run, folder, tmp_path / "out", on_error="raise")
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(FileNotFoundError, match="has not finished"):
        load_features(tmp_path / "out")
    assert len(run_extract(run, folder, tmp_path / "out")) == 1  # it may go on by skipping


def test_no_good_image(run, tmp_path):
    (tmp_path / "p").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "p" / name).write_bytes(b"nothing")
    with pytest.raises(BadImageError, match=r"None of the 2 images .* a\.jpg: it is no JPEG"):
        run_extract(run, tmp_path / "p", tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_only_missing_shards_are_made(run, images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run_extract(run, images, out)
    before = load_features(out)
    kept = {name: os.stat(out / name).st_mtime_ns for name in shards(out)}
    os.remove(out / "features-00001-of-00003.parquet")
    seen, original = [], KerasFeatureModel._extract

    def counting(self, images, names):
        seen.append(len(images))
        return original(self, images, names)

    monkeypatch.setattr(KerasFeatureModel, "_extract", counting)
    run_extract(run, images, out)
    assert sum(seen) == 4 + 1  # the shard, and the plain image by which the weights are known
    after = {name: os.stat(out / name).st_mtime_ns for name in shards(out)}
    assert {name for name in kept if kept[name] == after[name]} == {
        "features-00000-of-00003.parquet",
        "features-00002-of-00003.parquet",
    }
    again = load_features(out)
    for name, values in before[0].items():
        np.testing.assert_array_equal(again[0][name], values)
    assert again[2] == before[2]


def test_other_settings_are_refused(run, images, tmp_path):
    out = tmp_path / "out"
    run_extract(run, images, out)
    for changed, message in (
        ({"dtype": "float16"}, "dtype: 'float32' there, 'float16' now"),
        ({"shard_size": 3}, "shard_size: 4 there, 3 now"),
        ({"outputs": ("features",)}, "outputs.block1"),
        ({"format": "npz"}, "format: 'parquet' there, 'npz' now"),
    ):
        with pytest.raises(ExtractionError, match=f"features of other settings.*{message}"):
            run_extract(run, images, out, **changed)
    write(images, "c/more.jpg")
    with pytest.raises(ExtractionError, match="num_images: 12 there, 13 now"):
        run_extract(run, images, out)


def test_other_weights_and_shards_of_others_are_refused(run, images, tmp_path):
    other = open_feature_model(write_run(tmp_path / "model", seed=1), ["block1"])
    run_extract(run, images, tmp_path / "out")
    with pytest.raises(ExtractionError, match="the model's weights"):
        run_extract(other, images, tmp_path / "out")
    run_extract(other, images, tmp_path / "other")
    name = "features-00000-of-00003.parquet"
    shutil.copy(tmp_path / "out" / name, tmp_path / "other" / name)
    with pytest.raises(ExtractionError, match=f"{name} is of other settings. the model's weights"):
        run_extract(other, images, tmp_path / "other")


@pytest.mark.parametrize("format", ["parquet", "npz"])
def test_damaged_files_are_named(run, images, tmp_path, format):
    out = tmp_path / "out"
    run_extract(run, images, out, format=format)
    path = out / f"features-00001-of-00003.{format}"
    path.write_bytes(path.read_bytes()[:-100])
    for action in (lambda: run_extract(run, images, out, format=format), lambda: load_features(out)):
        with pytest.raises(ExtractionError, match=rf"{path.name} is damaged \(.*\): delete it"):
            action()
    (out / "manifest.json").write_text("[]")
    with pytest.raises(ExtractionError, match=r"manifest\.json: not written by"):
        load_features(out)
    (out / "settings.json").write_text("nothing")
    with pytest.raises(ExtractionError, match=r"settings\.json: not written by"):
        run_extract(run, images, out, format=format)


def test_refused_before_anything_is_written(run, images, tmp_path):
    for options, error, message in (
        ({"shard_size": 0}, ValueError, "shard_size"),
        ({"shard_size": 10**9, "outputs": ("nothing",)}, ValueError, "no output 'nothing'"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"on_error": "ignore"}, ValueError, "on_error"),
        ({"dtype": "int8"}, ValueError, "dtype"),
        ({"format": "csv"}, ValueError, "format"),
    ):
        with pytest.raises(error, match=message):
            run_extract(run, images, tmp_path / "out", **options)
        assert not (tmp_path / "out" / "settings.json").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ExtractionError, match=r"holds 'notes\.txt' and no settings\.json"):
        run_extract(run, images, tmp_path / "mine")


def test_float16_that_overflows(run, images, tmp_path):
    class Scaled(type(opened(run))):
        def _extract(self, images, names):
            return {name: np.asarray(value) * 1e6 for name, value in super()._extract(images, names).items()}

    scaled = Scaled(opened(run).model, opened(run).info, "scaled")
    with pytest.raises(ValueError, match=r"'(features|block1)' has the value .*, which float16 cannot hold"):
        run_extract(scaled, images, tmp_path / "out", dtype="float16")


def test_what_no_shard_can_hold(run, images):
    source = open_images(images)
    options = OPTIONS | {"shard_size": 10**6}
    settings = describe_extraction(opened(run), "run", source, "p", ["block1"], **options)
    with pytest.raises(ValueError, match=r"3\.8 GiB.*`shard_size` of at most 262144"):
        dataclasses.replace(settings, num_images=10**6)
    with pytest.raises(ValueError, match="cannot be named 'label'"):
        dataclasses.replace(settings, outputs={"label": (4,)})


def test_parquet_without_its_package(run, images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"rfd_tf\[parquet\]"):
        run_extract(run, images, tmp_path / "out")
    assert not (tmp_path / "out" / "settings.json").exists()
