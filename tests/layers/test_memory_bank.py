import keras
import numpy as np
import pytest

from rfd_tf.layers import MemoryBank
from tests.contract import check_config_round_trip, to_numpy

rng = np.random.default_rng(0)


def bank_of(num_instances=20, embedding_dim=6, **kwargs):
    bank = MemoryBank(num_instances, embedding_dim, **kwargs)
    bank.build()
    return bank


def unit(*shape):
    rows = rng.normal(size=shape).astype("float32")
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_first_rows_are_uniform_within_the_bound():
    rows = to_numpy(bank_of(2000, 48).rows)
    bound = 1 / np.sqrt(48 / 3)
    assert np.abs(rows).max() <= bound
    assert rows.var() == pytest.approx(bound**2 / 3, rel=0.02)


def test_similarities():
    bank = bank_of(temperature=0.2)
    z = unit(3, 6)
    index = rng.integers(0, 20, (3, 5))
    expected = np.einsum("brd,bd->br", to_numpy(bank.rows)[index], z) / 0.2
    np.testing.assert_allclose(to_numpy(bank(z, index)), expected, rtol=1e-5, atol=1e-5)


def test_similarities_with_the_whole_bank():
    bank = bank_of(temperature=0.2)
    z = unit(3, 6)
    np.testing.assert_allclose(to_numpy(bank(z)), z @ to_numpy(bank.rows).T / 0.2, rtol=1e-5, atol=1e-5)


def test_update_moves_the_named_rows_only():
    bank = bank_of(momentum=0.25)
    before = to_numpy(bank.rows)
    z = unit(2, 6)
    bank.update(z, np.array([7, 3]))
    after = to_numpy(bank.rows)
    mixed = 0.25 * before[[7, 3]] + 0.75 * z
    np.testing.assert_allclose(after[[7, 3]], mixed / np.linalg.norm(mixed, axis=1)[:, None], rtol=1e-5)
    untouched = np.setdiff1d(np.arange(20), [7, 3])
    np.testing.assert_array_equal(after[untouched], before[untouched])


def test_normalizer_is_set_once():
    bank = bank_of()
    similarities = rng.normal(size=(3, 5)).astype("float32")
    first = bank.normalizer_of(similarities)
    assert float(first) == pytest.approx(np.exp(similarities).mean() * 20, rel=1e-5)
    bank.normalizer.assign(first)
    assert float(bank.normalizer_of(similarities + 1)) == pytest.approx(float(first))


def test_normalizer_as_a_running_mean():
    bank = bank_of(normalizer_momentum=0.9)
    similarities = rng.normal(size=(3, 5)).astype("float32")
    own = np.exp(similarities).mean() * 20
    bank.normalizer.assign(bank.normalizer_of(similarities, update=True))  # the first is taken as it is
    assert float(bank.normalizer) == pytest.approx(own, rel=1e-5)
    blended = float(bank.normalizer_of(similarities + 1, update=True))
    assert blended == pytest.approx(own * (0.9 + 0.1 * np.e), rel=1e-5)
    assert float(bank.normalizer_of(similarities + 1)) == float(bank.normalizer)  # validation leaves it alone


def test_config_and_bad_arguments():
    check_config_round_trip(bank_of(temperature=0.1, momentum=0.9, normalizer_momentum=0.99))
    for arguments, message in [
        ({"num_instances": 0}, "num_instances=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"normalizer_momentum": 1.5}, "normalizer_momentum=1.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            bank_of(**arguments)


def test_update_in_a_graph_is_in_place():
    """The step neither reads nor copies the table: the ops on it are gathers and a scatter, of rows."""
    import tensorflow as tf

    assert keras.backend.backend() == "tensorflow"
    bank = bank_of(1000)
    z = unit(4, 6)

    @tf.function
    def step(index):
        similarities = bank(z, index)
        bank.update(z, index[:, 0])
        return similarities

    graph = step.get_concrete_function(tf.zeros((4, 3), tf.int32)).graph
    handle = bank.rows.value.handle
    captured = next(inner for outer, inner in graph.captures if outer is handle)
    kinds = {operation.type for operation in captured.consumers()}
    assert kinds == {"ResourceGather", "ResourceScatterUpdate"}
