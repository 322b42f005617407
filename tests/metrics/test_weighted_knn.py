import importlib

import numpy as np
import pytest

from rfd_tf.metrics import nearest_neighbours, weighted_knn_predict, weighted_votes

_MODULES = ("rfd_tf.metrics.knn", "rfd_tf.metrics.knn")


def oracle_votes(reference, labels, queries, k, temperature, leave_one_out):
    reference = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    votes = np.zeros((len(queries), labels.max() + 1))
    for position, query in enumerate(queries):
        cosines = reference @ query
        if leave_one_out:
            cosines[position] = -np.inf
        nearest = np.argsort(-cosines)[:k]
        np.add.at(votes[position], labels[nearest], np.exp(cosines[nearest] / temperature))
    return votes


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 1.0)])
def test_against_an_independent_computation(k, temperature, leave_one_out, monkeypatch):
    """In blocks that divide neither the references nor the queries, nor hold k of them."""
    neighbours, votes = map(importlib.import_module, _MODULES)
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", 11 * 4 * 4)
    monkeypatch.setattr(votes, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    reference, labels = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    queries = None if leave_one_out else rng.normal(size=(25, 4))
    expected = oracle_votes(
        reference, labels, reference if leave_one_out else queries, k, temperature, leave_one_out
    )
    predicted = weighted_knn_predict(reference, labels, queries, k, temperature)
    np.testing.assert_array_equal(predicted, expected.argmax(axis=1))
    cosines, indices = nearest_neighbours(reference, queries, k)
    assert (np.diff(cosines, axis=1) <= 0).all()
    votes = weighted_votes(cosines, labels[indices], 3, temperature)
    np.testing.assert_allclose(votes * np.exp(cosines[:, :1] / temperature), expected, rtol=1e-4)


def test_neighbours_equal_scikit_learn():
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(1)
    reference, queries = rng.normal(size=(300, 8)), rng.normal(size=(40, 8))
    distances, indices = NearestNeighbors(n_neighbors=9, metric="cosine").fit(reference).kneighbors(queries)
    ours = nearest_neighbours(reference, queries, 9)
    np.testing.assert_array_equal(ours[1], indices)
    np.testing.assert_allclose(ours[0], 1 - distances, atol=1e-6)


def test_few_references_low_temperature_and_zero_vectors():
    reference = np.eye(3)
    assert weighted_knn_predict(reference, np.arange(3), reference, k=200, temperature=1e-4).tolist() == [
        0,
        1,
        2,
    ]
    for reference, queries in [
        (np.eye(3), np.zeros((1, 3))),
        (np.zeros((2, 3)), np.eye(3)[:1]),
        (np.zeros((2, 3)), np.zeros((1, 3))),
    ]:
        np.testing.assert_allclose(nearest_neighbours(reference, queries, 2)[0], [[0, 0]], atol=1e-6)


def test_equal_vectors_are_neighbours_of_each_other_but_not_of_themselves():
    cosines, indices = nearest_neighbours(np.ones((6, 2)), None, 3)
    assert (indices != np.arange(6)[:, None]).all()
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


def test_memory_maps_are_read_by_blocks(tmp_path):
    features = np.random.default_rng(0).normal(size=(50, 6)).astype("float32")
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    np.testing.assert_array_equal(
        nearest_neighbours(mapped, None, 3)[1], nearest_neighbours(features, None, 3)[1]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k=0"),
        ({"temperature": 0}, "temperature=0"),
        ({"queries": np.eye(3)}, r"\(2, 2\) and \(3, 3\)"),
        ({"queries": np.full((1, 2), np.nan)}, "`queries` holds values that are not finite"),
        ({"reference": np.eye(1), "labels": [0]}, "no reference"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        weighted_knn_predict(**{"reference": np.eye(2), "labels": [0, 1], **arguments})
