"""Learning rates that change at epochs."""

from collections.abc import Sequence
from itertools import pairwise

import keras

Milestones = Sequence[tuple[float, float]]


def rates_by_epoch(milestones: Milestones, warmup_epochs: int = 0) -> list[tuple[float, float]]:
    """`milestones` with a linear warm-up spelled out as milestones of one epoch each.

    In epoch e < `warmup_epochs` the rate is the first milestone's times (e + 1) / warmup_epochs.

    Raises:
        ValueError: if there is no milestone, epochs do not rise, a rate is not positive, or the warm-up is
            longer than the first milestone.
    """
    pairs = [(float(until), float(rate)) for until, rate in milestones]
    if not pairs:
        raise ValueError("`milestones` is empty: give (until epoch, rate) pairs")
    epochs = [until for until, _ in pairs]
    if epochs[0] <= 0 or any(later <= earlier for earlier, later in pairwise(epochs)):
        raise ValueError(f"The epochs of `milestones` must be positive and rise. Received: {epochs}")
    if bad := [rate for _, rate in pairs if not rate > 0]:
        raise ValueError(f"The rates of `milestones` must be positive. Received: {bad[0]}")
    if not 0 <= warmup_epochs <= epochs[0]:
        raise ValueError(
            f"`warmup_epochs` must be in [0, {epochs[0]:g}], the first milestone. Received: {warmup_epochs}"
        )
    first_rate = pairs[0][1]
    warmup = [(epoch + 1.0, first_rate * (epoch + 1) / warmup_epochs) for epoch in range(int(warmup_epochs))]
    return warmup + [pair for pair in pairs if not warmup or pair[0] > warmup_epochs]


def milestone_schedule(
    milestones: Milestones, steps_per_epoch: int, warmup_epochs: int = 0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Piecewise constant learning rate by epoch, as a Keras schedule over optimizer steps.

    Args:
        milestones: (until epoch, rate) pairs: `((90, 1e-2), (130, 1e-3))` is 1e-2 in epochs 0 to 89, then
            1e-3 (after the last milestone too).
        steps_per_epoch: optimizer steps of an epoch, at least 1.
        warmup_epochs: length of a linear warm-up, one constant rate per epoch (LDAM's: 1/5, 2/5 ... 5/5).

    Raises:
        ValueError: on arguments out of range (see `rates_by_epoch`).
    """
    if steps_per_epoch < 1:
        raise ValueError(f"`steps_per_epoch` must be at least 1. Received: {steps_per_epoch}")
    pairs = rates_by_epoch(milestones, warmup_epochs)
    if len(pairs) == 1:
        pairs *= 2  # Keras's schedule fails without a boundary
    # Keras still applies values[i] at step == boundaries[i]; epoch e begins at step e * steps_per_epoch.
    boundaries = [round(until * steps_per_epoch) - 1 for until, _ in pairs[:-1]]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, [rate for _, rate in pairs])
