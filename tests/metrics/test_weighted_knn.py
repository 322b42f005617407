import numpy as np
import pytest

from rfd_tf.metrics import weighted_knn_predict


def oracle(reference, labels, queries, k, temperature, leave_one_out):
    reference = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    predicted = []
    for position, query in enumerate(queries):
        cosines = reference @ query
        if leave_one_out:
            cosines[position] = -np.inf
        nearest = np.argsort(-cosines)[:k]
        votes = np.zeros(labels.max() + 1)
        np.add.at(votes, labels[nearest], np.exp(cosines[nearest] / temperature))
        predicted.append(votes.argmax())
    return np.array(predicted)


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 1.0)])
def test_against_an_independent_computation(k, temperature, leave_one_out):
    rng = np.random.default_rng(0)
    reference, labels = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    queries = reference if leave_one_out else rng.normal(size=(25, 4))
    ours = weighted_knn_predict(reference, labels, None if leave_one_out else queries, k, temperature)
    np.testing.assert_array_equal(ours, oracle(reference, labels, queries, k, temperature, leave_one_out))


def test_few_references_and_low_temperature():
    reference = np.eye(3)
    assert weighted_knn_predict(reference, np.arange(3), reference, k=200, temperature=1e-4).tolist() == [
        0,
        1,
        2,
    ]


def test_bad_arguments():
    with pytest.raises(ValueError, match="k=0"):
        weighted_knn_predict(np.eye(2), [0, 1], k=0)
    with pytest.raises(ValueError, match="temperature=0"):
        weighted_knn_predict(np.eye(2), [0, 1], temperature=0)
