"""SGD as in PyTorch and Caffe, and rates that change at milestones."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import keras
from keras import ops

from rfd_tf.keras_internals import variable_index


@keras.saving.register_keras_serializable(package="rfd_tf")
class CoupledSGD(keras.optimizers.Optimizer):
    """SGD as PyTorch's: weight decay joins the gradient before the momentum, the rate scales the whole step.

    `g = gradient + coupled_weight_decay * w; v = momentum * v + g; w -= rate * (g + momentum * v)` with
    Nesterov, `w -= rate * v` without. `keras.optimizers.SGD` decays apart from the momentum and keeps the
    rate inside v, so that both differ as soon as there is momentum and a decay or a change of rate.

    Args:
        learning_rate: rate or Keras schedule.
        momentum: in [0, 1).
        nesterov: whether to look ahead.
        coupled_weight_decay: at least 0; applies to every variable, biases and batch norm included, unless
            `exclude_from_weight_decay` names it.
        without_decay: variables that do not decay, by position among those that it is built with, by path, or
            by a pattern that is found in their names. Once built, they are positions: a model that is loaded
            may give its variables other paths, but no other order.
        rate_factors: what the rate is multiplied by, for each of the variables that it is built with, in
            their order; None for 1. `scale_rates` sets them.

    Raises:
        ValueError: on an argument out of range, or one that does not fit the variables.

    Reference: `torch.optim.SGD`; Sutskever et al., ICML 2013.
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        coupled_weight_decay: float = 0.0,
        without_decay: Sequence[int | str] = (),
        rate_factors: Sequence[float] | None = None,
        name: str = "coupled_sgd",
        **kwargs,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: momentum={momentum}")
        if nesterov and momentum == 0:
            raise ValueError("`nesterov` needs a positive `momentum`")
        if not coupled_weight_decay >= 0:
            raise ValueError(f"`coupled_weight_decay` must be at least 0. Received: {coupled_weight_decay}")
        if rate_factors is not None and not all(factor > 0 for factor in rate_factors):
            raise ValueError(f"`rate_factors` must be positive. Received: rate_factors={rate_factors}")
        self.momentum = momentum
        self.nesterov = nesterov
        self.coupled_weight_decay = coupled_weight_decay
        self.without_decay = list(without_decay)
        self.rate_factors = None if rate_factors is None else [float(factor) for factor in rate_factors]

    def build(self, variables):
        if self.built:
            return
        if self.rate_factors is not None and len(self.rate_factors) != len(variables):
            raise ValueError(
                f"`rate_factors` must have one for each of the {len(variables)} variables. "
                f"Received: {len(self.rate_factors)}"
            )
        self.without_decay = _positions(self.without_decay, variables)
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity") if self.momentum else []

    def scale_rates(self, variables: Iterable[keras.Variable], factor: float) -> None:
        """Multiply the rate of some variables by `factor` > 0, once built. Saved with the optimizer."""
        if not factor > 0:
            raise ValueError(f"`factor` must be positive. Received: factor={factor}")
        if not self.built:
            raise ValueError("`scale_rates` is for an optimizer that is built: call `build` first")
        if self.rate_factors is None:
            self.rate_factors = [1.0] * len(self._trainable_variables)
        for variable in variables:
            self.rate_factors[variable_index(self, variable)] = float(factor)

    def exclude_from_weight_decay(self, var_list=None, var_names=None) -> None:
        """No weight decay for some variables, before or after `build`. Saved with the optimizer.

        Args:
            var_list: variables.
            var_names: regular expressions of variables' names, such as `"bias"`.
        """
        self.without_decay += [*(variable.path for variable in var_list or ()), *(var_names or ())]
        if self.built:
            self.without_decay = _positions(self.without_decay, self._trainable_variables)

    def _use_weight_decay(self, variable) -> bool:
        # Keras asks this, too. By position: under `tf.distribute` a step is given variables without a path.
        return variable_index(self, variable) not in self.without_decay

    def update_step(self, gradient, variable, learning_rate):
        index = variable_index(self, variable)
        factor = 1.0 if self.rate_factors is None else self.rate_factors[index]
        rate = ops.cast(learning_rate * factor, variable.dtype)
        step = ops.cast(gradient, variable.dtype)
        decay = self.coupled_weight_decay if self._use_weight_decay(variable) else 0.0
        if self.momentum and keras.backend.backend() == "tensorflow":
            self._update_in_place(variable, self.velocities[index], step, rate, decay)
            return
        if decay:
            step = ops.add(step, ops.multiply(variable, decay))
        if self.momentum:
            velocity = self.velocities[index]
            new_velocity = ops.add(ops.multiply(velocity, self.momentum), step)
            self.assign(velocity, new_velocity)
            step = ops.add(step, ops.multiply(new_velocity, self.momentum)) if self.nesterov else new_velocity
        self.assign_sub(variable, ops.multiply(step, rate))

    def _update_in_place(self, variable, velocity, gradient, rate, decay: float) -> None:
        """The same by TensorFlow's in-place operations, without a tensor of the variable's size in between.

        Decay and Nesterov's look-ahead become two steps before the plain momentum step, with r the rate and m
        the momentum: `w1 = w + r m v`, then `m v + decay w = m (1 - r decay) v + decay w1`, so that
        `v' = m (1 - r decay) (v + c w1) + g` with `c = decay / (m (1 - r decay))`, and
        `w' = w1 - r (1 + m) v'`.
        """
        import tensorflow as tf

        variable, velocity = (v.value if isinstance(v, keras.Variable) else v for v in (variable, velocity))
        add_scaled = tf.raw_ops.ResourceApplyGradientDescent  # subtracts alpha * delta
        momentum = tf.constant(self.momentum, variable.dtype)
        ahead = self.nesterov and decay
        if ahead:
            add_scaled(var=variable.handle, alpha=-rate * momentum, delta=tf.convert_to_tensor(velocity))
            momentum, rate = momentum * (1 - rate * decay), rate * (1 + momentum)
        if decay:
            add_scaled(var=velocity.handle, alpha=-decay / momentum, delta=tf.convert_to_tensor(variable))
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=velocity.handle,
            lr=rate,
            grad=tf.convert_to_tensor(gradient),
            momentum=momentum,
            use_nesterov=self.nesterov and not ahead,
        )

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "coupled_weight_decay": self.coupled_weight_decay,
            "without_decay": list(self.without_decay),
            "rate_factors": None if self.rate_factors is None else list(self.rate_factors),
        }


def _positions(entries: Sequence[int | str], variables: Sequence[keras.Variable]) -> list[int | str]:
    """Those of `variables` that `entries` mean."""
    found = {entry for entry in entries if isinstance(entry, int)}
    if beyond := found - set(range(len(variables))):
        raise ValueError(
            f"`without_decay` must be positions among {len(variables)} variables. Received: {min(beyond)}"
        )
    paths = [variable.path for variable in variables]
    for entry in entries:
        if isinstance(entry, int):
            continue
        if "/" not in entry:
            found |= {i for i, variable in enumerate(variables) if re.search(entry, variable.name)}
            continue
        # A loaded Sequential's paths lack the model's name.
        meant = [entry] if entry in paths else [path for path in paths if entry.endswith(f"/{path}")]
        if not meant:
            raise ValueError(f"`without_decay`: there is no variable {entry!r} among {', '.join(paths)}")
        found |= {i for i, path in enumerate(paths) if path in meant}
    return sorted(found)


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
