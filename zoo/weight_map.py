"""Declarative weight maps, and their strict application in both directions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from zoo.errors import WeightError
from zoo.transforms import IDENTITY, Transform


@dataclass(frozen=True)
class Rule:
    """One array of the source is one variable of the Keras model."""

    source: str
    variable: str
    transform: Transform = IDENTITY


@dataclass(frozen=True)
class WeightMap:
    """All rules between a file's arrays and a model's variables.

    Args:
        rules: one for every variable.
        counters: source keys that hold no weight (`num_batches_tracked`): they may be absent, are dropped on
            the way in, and written as they were, or as zero, on the way out.
        left_out: source keys that may be there and are not wanted (the heads, when only the backbone is).
    """

    rules: tuple[Rule, ...]
    counters: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def load(self, state: Mapping[str, np.ndarray], model) -> None:
        """Set every variable of `model` from `state`; nothing is set unless everything fits.

        Args:
            state: source key -> array.
            model: a Keras model.

        Raises:
            WeightError: as `check`.
        """
        variables = self.check(state, model)
        for rule in self.rules:
            array = np.asarray(state[rule.source], "float32")
            variables[rule.variable].assign(rule.transform.to_keras(array))

    def check(self, state: Mapping[str, np.ndarray], model) -> dict:
        """The variables of `model` by their paths, for each of which `state` has the array that it needs.

        Raises:
            WeightError: on a missing or unused source key, a variable without a rule, another shape, an
                array that is not of floating point, or a value that is not finite.
        """
        variables = self._variables(model)
        sources = {rule.source for rule in self.rules}
        _refuse("The file lacks", sources - state.keys())
        _refuse(
            f"The network {model.name!r} has no place for",
            state.keys() - sources - {*self.counters, *self.left_out},
        )
        for rule in self.rules:
            _check(rule, state[rule.source], variables[rule.variable].shape)
        self.counts(state)
        return variables

    def counts(self, state: Mapping[str, np.ndarray]) -> dict[str, int]:
        """The values of those counters that `state` has; WeightError where one is no whole number."""
        arrays = {key: state[key] for key in self.counters if key in state}
        for key, array in arrays.items():
            if array.shape != () or array.dtype.kind not in "iu":
                raise WeightError(f"{key!r} must be one integer. Received: {array.dtype} {array.shape}")
        return {key: int(array) for key, array in arrays.items()}

    def state(self, model, counters: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
        """The source's state of `model`: the inverse of `load`.

        Args:
            model: a Keras model.
            counters: values of `counters`, where they are known.

        Raises:
            WeightError: if rules and variables do not match.
        """
        variables = self._variables(model)
        state = {}
        for rule in self.rules:
            array = np.asarray(variables[rule.variable].numpy(), "float32")
            state[rule.source] = np.ascontiguousarray(rule.transform.to_source(array))
        counters = counters or {}
        state.update({key: np.array(counters.get(key, 0), "int64") for key in self.counters})
        return state

    def _variables(self, model) -> dict:
        variables = {variable.path: variable for variable in model.weights}
        named = {rule.variable for rule in self.rules}
        _refuse("The weight map has no rule for the variables", variables.keys() - named)
        _refuse(f"The network {model.name!r} has no variables", named - variables.keys())
        return variables


def _refuse(what: str, names: Iterable[str]) -> None:
    if names := sorted(names):
        listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        raise WeightError(f"{what} ({len(names)}): {listed}")


def _check(rule: Rule, array: np.ndarray, wanted: tuple[int, ...]) -> None:
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise WeightError(f"{rule.source!r} is of type {array.dtype}; weights are floating point numbers")
    source_shape = rule.transform.to_source(np.empty(wanted, "bool")).shape
    if array.shape != source_shape:
        raise WeightError(f"{rule.source!r} has shape {array.shape}, the network needs {source_shape}")
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.asarray(array, "float32")).all()
    if not finite:
        raise WeightError(f"{rule.source!r} has values that are NaN, infinite or beyond float32")
