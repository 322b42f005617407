import re
from collections.abc import Iterable, Mapping, Sequence

import keras
from keras import ops


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
        without_decay: paths of variables that do not decay.
        rate_factors: path of a variable -> what its rate is multiplied by.

    Raises:
        ValueError: on an argument out of range.

    Reference: `torch.optim.SGD`; Sutskever et al., ICML 2013.
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        coupled_weight_decay: float = 0.0,
        without_decay: Sequence[str] = (),
        rate_factors: Mapping[str, float] | None = None,
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
        self.momentum = momentum
        self.nesterov = nesterov
        self.coupled_weight_decay = coupled_weight_decay
        self.without_decay = set(without_decay)
        self.rate_factors = dict(rate_factors or {})
        self._names_without_decay: list[str] = []

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._look_up(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity") if self.momentum else []

    def _look_up(self, variables: Iterable[keras.Variable]) -> None:
        """Decays and rates by index: under `tf.distribute` a step is given variables without a path."""
        for name in self._names_without_decay:
            self.without_decay |= {v.path for v in variables if re.search(name, v.name)}
        self._without_decay, self._factors = set(), {}
        for variable in variables:
            place = self._get_variable_index(variable)
            if any(_same(variable.path, path) for path in self.without_decay):
                self._without_decay.add(place)
            for path, factor in self.rate_factors.items():
                if _same(variable.path, path):
                    self._factors[place] = factor

    def scale_rates(self, variables: Iterable[keras.Variable], factor: float) -> None:
        """Multiply the rate of some variables by `factor` > 0. Saved with the optimizer, by path."""
        if not factor > 0:
            raise ValueError(f"`factor` must be positive. Received: factor={factor}")
        self.rate_factors |= {variable.path: float(factor) for variable in variables}
        if self.built:
            self._look_up(self._trainable_variables)

    def exclude_from_weight_decay(self, var_list=None, var_names=None) -> None:
        """No weight decay for some variables, before or after `build`. Saved with the optimizer, by path.

        Args:
            var_list: variables.
            var_names: regular expressions of variables' names, such as `"bias"`.
        """
        self.without_decay |= {variable.path for variable in var_list or ()}
        self._names_without_decay += list(var_names or ())
        if self.built:
            self._look_up(self._trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate * self._factors.get(index, 1.0), variable.dtype)
        step = ops.cast(gradient, variable.dtype)
        decay = 0.0 if index in self._without_decay else self.coupled_weight_decay
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
            "without_decay": sorted(self.without_decay),
            "rate_factors": dict(self.rate_factors),
        }


def _same(path: str, other: str) -> bool:
    """Whether two paths may be one variable's: a loaded model can lack the name of the one that was saved."""
    return path == other or path.endswith(f"/{other}") or other.endswith(f"/{path}")
