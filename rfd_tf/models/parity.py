"""Do two networks compute the same? The rule that conversion, folding and exports go by."""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from rfd_tf.precision import computing_in_float32

TOLERANCE = 1e-4


class ParityError(ValueError):
    """A network does not compute what another one computes."""


@dataclass(frozen=True)
class Difference:
    """Of one feature: the largest absolute difference, and the reference's largest absolute value."""

    max_abs_difference: float
    max_abs_value: float

    def within(self, tolerance: float) -> bool:
        """Absolute up to values of 1, relative to the largest value beyond. NaN is never within."""
        return self.max_abs_difference <= tolerance * max(1.0, self.max_abs_value)


def random_images(model: keras.Model, count: int = 2, seed: int = 0) -> np.ndarray:
    """Unit-normal images of the model's input shape, float32 [count, H, W, C]; unknown sizes become 96."""
    shape = [size or 96 for size in model.inputs[0].shape[1:]]
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype("float32")


def outputs(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """The model's outputs by name, in inference and in float32, also those of a mixed-precision model."""
    with computing_in_float32(model):
        results = model(images, training=False)
    if not isinstance(results, Mapping):
        results = {"output": results}
    return {name: np.asarray(keras.ops.convert_to_numpy(value)) for name, value in results.items()}


def compare(
    actual: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    tolerance: float = TOLERANCE,
    error: type[ValueError] = ParityError,
) -> dict[str, Difference]:
    """The differences per name, for every name of `actual`.

    Raises:
        ParityError: or another `error`, if a name or shape is not as expected, or a difference is above the
            tolerance.
    """
    differences = {}
    for name, array in actual.items():
        if name not in expected:
            raise error(f"The source has nothing to compare the output {name!r} with")
        reference = expected[name]
        if array.shape != reference.shape:
            raise error(f"{name!r} has shape {array.shape}, its source {reference.shape}")
        gap = np.max(np.abs(array.astype("float64") - reference))
        differences[name] = Difference(float(gap), float(np.max(np.abs(reference))))
    wrong = {name: d for name, d in differences.items() if not d.within(tolerance)}
    if wrong:
        listed = ", ".join(
            f"{name} by {d.max_abs_difference:.3g} of {d.max_abs_value:.3g}" for name, d in wrong.items()
        )
        raise error(f"The network differs from its source by more than {tolerance:g}: {listed}")
    return differences
