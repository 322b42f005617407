import itertools

import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.data import steps_per_epoch, training_indices
from rfd_tf.data.schedule import Schedule, shuffled, stream
from rfd_tf.distribution import Share


def permutations(count, epochs, seed=0):
    """[epochs, count]: the order of each epoch."""

    dataset = tf.data.Dataset.range(epochs * count)
    dataset = dataset.map(lambda n: shuffled(n % count, count, stream(seed, 0, n // count)))
    return next(dataset.batch(epochs * count).as_numpy_iterator()).reshape(epochs, count)


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 257])
def test_every_epoch_is_a_permutation(count):
    orders = permutations(count, 4)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(count), (4, 1)))


def test_images_come_to_every_place_alike():
    count, epochs = 12, 1500
    orders = permutations(count, epochs)
    table = np.stack([np.bincount(orders[:, place], minlength=count) for place in range(count)])
    expected = epochs / count
    assert ((table - expected) ** 2 / expected).sum() < 173.6  # 121 degrees of freedom, p = 0.001
    steps = np.bincount(((orders[:, 1:] - orders[:, :-1]) % count).ravel(), minlength=count)[1:]
    expected = steps.sum() / (count - 1)
    assert ((steps - expected) ** 2 / expected).sum() < 29.6  # 10 degrees of freedom, p = 0.001


def test_seeds_and_epochs_differ():
    orders = np.concatenate([permutations(200, 3, seed) for seed in (0, 1, -5, 2**62)])
    assert len(np.unique(orders, axis=0)) == 12
    assert np.abs(np.corrcoef(orders) - np.eye(12)).max() < 0.3


def test_streams_of_different_keys_differ():
    keys = list(itertools.product((0, 1, 2), range(3), (0, 1), (0, 1)))  # seed, stream, epoch, index
    assert len({tuple(stream(*key).numpy()) for key in keys}) == len(keys)


def test_an_epoch_drops_its_remainder_only():
    epochs = training_indices(10, batch_size=4, seed=1, start_step=0, num_steps=6).reshape(3, 8)
    assert all(len(set(epoch)) == 8 for epoch in epochs.tolist())
    assert len({frozenset(epoch) for epoch in epochs.tolist()}) > 1


def test_order_of_valid_indices_only():
    valid = np.array([3, 5, 6, 90])
    rows = training_indices(100, batch_size=2, seed=1, start_step=0, num_steps=4, valid_indices=valid)
    assert sorted(rows[:2].ravel()) == sorted(rows[2:].ravel()) == valid.tolist()


def test_start_in_the_middle():
    everything = training_indices(11, batch_size=3, seed=1, start_step=0, num_steps=9)
    np.testing.assert_array_equal(
        training_indices(11, batch_size=3, seed=1, start_step=4, num_steps=5), everything[4:]
    )


def test_a_large_schedule_costs_nothing():
    rows = training_indices(1_281_167, batch_size=192, seed=0, start_step=245 * 6672 - 3, num_steps=2)
    assert rows.shape == (2, 192)
    assert rows.max() < 1_281_167


def test_order_is_pinned():
    """Resuming after an upgrade needs the same order: a change here breaks every run in progress."""
    rows = training_indices(1000, batch_size=4, seed=42, start_step=300, num_steps=1)
    assert rows.tolist() == [[914, 132, 721, 623]]


def test_steps_per_epoch():
    assert steps_per_epoch(10, 3) == 3
    with pytest.raises(ValueError, match=r"10 usable images, fewer than one batch.*batch_size=11"):
        steps_per_epoch(10, 11)
    with pytest.raises(ValueError, match="batch_size=0"):
        steps_per_epoch(10, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"num_workers": 0}, "num_workers=0"),
        ({"num_workers": 2, "worker_index": 2}, "worker_index=2"),
        ({"num_workers": 2, "replicas_per_worker": 3}, "multiple of 6.*batch_size=4"),
        ({"start_step": 6}, r"`start_step` must be in \[0, 4\].*Received: start_step=6"),
        ({"start_step": -1}, "start_step=-1"),
    ],
)
def test_refused(options, message):
    def made():
        share = Share(**{name: options[name] for name in options if "worker" in name})
        rest = {name: value for name, value in options.items() if "worker" not in name}
        return Schedule(
            **{"valid": np.arange(10), "seed": 0, "batch_size": 4, "epochs": 2} | rest, share=share
        )

    with pytest.raises(ValueError, match=message):
        made()


def drawn(weights, steps, start_step=0, batch_size=10):
    return training_indices(
        len(weights),
        batch_size=batch_size,
        seed=1,
        start_step=start_step,
        num_steps=steps,
        sampling_weights=np.array(weights),
    )


def test_drawn_by_weight():
    weights = np.repeat([0.0, 1.0, 3.0], [2, 30, 10])
    counts = np.bincount(drawn(weights, 400).ravel(), minlength=42)
    assert not counts[:2].any()
    expected = 4000 * weights[2:] / weights.sum()
    assert ((counts[2:] - expected) ** 2 / expected).sum() < 72.1  # 39 degrees of freedom, p = 0.001


def test_draws_do_not_depend_on_the_start():
    weights = np.arange(1.0, 41)
    np.testing.assert_array_equal(drawn(weights, 9)[5:], drawn(weights, 4, start_step=5))


def test_valid_indices_are_drawn_by_their_own_weights():
    rows = training_indices(
        100,
        batch_size=2,
        seed=1,
        start_step=0,
        num_steps=50,
        valid_indices=np.array([3, 90]),
        sampling_weights=np.array([0, 2]),
    )
    assert set(rows.ravel()) == {90}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0] * 3, "one for each of the 4 images"),
        ([1, 1, 1, -1], "not negative"),
        ([1, 1, 1, np.nan], "finite"),
        ([0.0] * 4, "not all zero"),
    ],
)
def test_bad_sampling_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        Schedule(np.arange(4), 0, 2, 1, sampling_weights=np.array(weights))
