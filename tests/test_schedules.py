import numpy as np
import pytest

from rfd_tf.optimizers.sgd import milestone_schedule, rates_by_epoch


def by_epoch(milestones, epoch):
    return next((rate for until, rate in milestones if epoch < until), milestones[-1][1])


def test_every_step_has_the_rate_of_its_epoch():
    milestones = ((2, 1e-2), (3, 1e-3), (7, 1e-4))
    schedule = milestone_schedule(milestones, steps_per_epoch=3)
    for step in range(30):
        assert float(schedule(step)) == pytest.approx(by_epoch(milestones, step // 3)), step


def test_one_milestone_is_one_rate():
    schedule = milestone_schedule(((4, 0.1),), steps_per_epoch=3)
    assert [float(schedule(step)) for step in (0, 11, 12, 100)] == pytest.approx([0.1] * 4)


def test_the_cifar_recipe_of_ldam():
    """lr 0.1; warm-up over 5 epochs; x0.01 after 160; x0.0001 after 180."""
    schedule = milestone_schedule(((160, 0.1), (180, 1e-3), (200, 1e-5)), 2, warmup_epochs=5)
    rates = [float(schedule(2 * epoch + 1)) for epoch in range(200)]
    expected = [0.02, 0.04, 0.06, 0.08, 0.1] + [0.1] * 155 + [1e-3] * 20 + [1e-5] * 20
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("milestones", "warmup", "message"),
    [
        ((), 0, "empty"),
        (((0, 0.1),), 0, "positive and rise"),
        (((5, 0.1), (5, 0.01)), 0, "positive and rise"),
        (((5, 0.1), (6, 0.0)), 0, "rates"),
        (((5, 0.1),), 6, "warmup_epochs"),
    ],
)
def test_bad_milestones(milestones, warmup, message):
    with pytest.raises(ValueError, match=message):
        rates_by_epoch(milestones, warmup)
