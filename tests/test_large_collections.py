"""What is linear in the images: passes and memory, where thousands of classes or long paths multiplied it."""

import importlib
import tracemalloc

import numpy as np
import pyarrow.parquet as pq
import pytest

from rfd_tf import imbalance
from rfd_tf.data import ArraySource, Preprocessing, long_tailed, source
from rfd_tf.data.image_folder import ImageFiles
from rfd_tf.features import ModelInfo, load_features, store
from rfd_tf.files import LocalStorage
from rfd_tf.metrics import weighted_knn_predict
from rfd_tf.runs import rotation_probabilities
from rfd_tf.runs.images import ImageSet


def peak_bytes(action):
    """(what `action()` returns, the most memory that Python and NumPy held beyond what they did before)."""
    tracemalloc.start()
    try:
        result = action()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_rows_by_class():
    labels = np.random.default_rng(0).integers(0, 7, 200)
    labels[labels == 3] = 4
    found = imbalance.rows_by_class(labels, 9)
    assert [rows.tolist() for rows in found] == [
        np.flatnonzero(labels == label).tolist() for label in range(9)
    ]
    with pytest.raises(ValueError, match=r"\[0, 2\). Received: "):
        imbalance.rows_by_class(labels, 2)


@pytest.mark.parametrize(
    ("counts", "ratio", "most"), [([100_000, 50], 4, 203), ([300_000, 200_000, 3], 2, 7), ([5, 5], 1, 5)]
)
def test_the_largest_long_tail_is_found_in_a_few_tries(counts, ratio, most, monkeypatch):
    labels = np.repeat(np.arange(len(counts)), counts)
    images = ArraySource(np.zeros((len(labels), 1, 1, 3), "uint8"), labels)
    tries = []
    counted = imbalance.long_tailed_counts
    monkeypatch.setattr(source, "long_tailed_counts", lambda *args: tries.append(args) or counted(*args))
    assert np.bincount(long_tailed(images, ratio).labels)[0] == most
    assert len(tries) < 25


def test_predictions_hold_no_score_of_every_class(monkeypatch):
    monkeypatch.setattr(importlib.import_module("rfd_tf.metrics.knn"), "_BLOCK", 500)
    reference, queries = np.random.default_rng(0).normal(size=(2, 20_000, 2)).astype("float32")
    labels = np.arange(20_000) % 2_000
    predicted, peak = peak_bytes(lambda: weighted_knn_predict(reference[:2_000], labels[:2_000], queries, 3))
    assert predicted.shape == (20_000,)
    assert peak < 60 * 2**20  # 153 MiB are 20,000 x 2,000 float32


def test_features_are_loaded_once(tmp_path):
    """For a moment a shard is held beside them, not all shards."""
    info = ModelInfo("made_up", Preprocessing(8, train="resize"), {"features": (256,)})
    settings = store.Settings(
        *("model", info, info.outputs, {"features": [1.0]}, "images", 10_000, "digest", False, None),
        *("npz", "float32", 1_000, 100),
    )
    storage = LocalStorage(tmp_path)
    for number in range(settings.num_shards):
        rows = np.array(settings.rows(number))[1:]  # the first is bad
        values = np.full((999, 256), number, "float32")
        bad = [store.Skipped(int(rows[0]) - 1, "bad", "damaged")]
        shard = store.Shard(rows, [f"{row}.jpg" for row in rows], None, {"features": values}, bad)
        store.write_shard(storage, settings, number, shard)
    store.write_manifest(storage, settings)
    (features, index, paths, labels), peak = peak_bytes(lambda: load_features(tmp_path))
    np.testing.assert_array_equal(
        features["features"], np.repeat(np.arange(10.0), 999)[:, None] + np.zeros(256)
    )
    assert index.tolist() == [row for row in range(10_000) if row % 1_000]
    assert (len(paths), labels) == (9_990, None)
    assert peak < 1.5 * features["features"].nbytes


def test_the_table_of_probabilities_is_written_by_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(rotation_probabilities, "_ROWS", 700)
    files = [f"{'folder/' * 20}{number}.jpg" for number in range(5_000)]
    images = ImageSet(ImageFiles(tmp_path, files, None, None), Preprocessing(8), np.arange(0, 5_000, 2), [])
    probabilities = np.random.default_rng(0).uniform(size=(5_000, 4)).astype("float32")
    path = tmp_path / "table.parquet"
    _, peak = peak_bytes(lambda: rotation_probabilities.write_parquet(path, probabilities, images))
    table = pq.read_table(path)
    assert [str(field.type) for field in table.schema] == ["int64", "string", "int8", "float"]
    assert table["file"].to_pylist() == [f"{tmp_path}/{file}" for file in files[::2] for _ in range(4)]
    assert table["index"].to_pylist() == np.repeat(images.valid, 4).tolist()
    np.testing.assert_array_equal(table["probability"], probabilities[::2].ravel())
    assert peak < 2 * 2**20  # 10,000 rows of the longest path's width are 7 MiB


def test_descriptions_are_those_of_each(tmp_path):
    for files in (["a/1.jpg", "b.jpg"], ["a//1.jpg", "./b.jpg", "c/./d.jpg"]):
        for root in (tmp_path, type(tmp_path)(".")):
            images = ImageFiles(root, files, None, None)
            rows = np.arange(len(files))[::-1]
            assert list(images.descriptions(rows)) == [images.describe(row) for row in rows.tolist()]
