"""Does an exported file compute what the model computes?"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

BATCH = 16


class ParityError(ValueError):
    """An exported file does not compute what the model computes."""


@dataclasses.dataclass(frozen=True)
class Limit:
    """What is tolerated.

    Attributes:
        difference: largest difference of two values: absolute up to values of 1, relative to the output's
            largest beyond.
        cosine: least cosine between the two values of an output for any one picture.
    """

    difference: float
    cosine: float


LIMITS = {
    "float32": Limit(1e-4, 0.9999),
    "float16": Limit(2e-2, 0.999),
    "int8": Limit(float("inf"), 0.9),
}


@dataclasses.dataclass(frozen=True)
class OutputParity:
    """One output of one exported form beside the model's.

    Attributes:
        form: such as `saved_model jpeg`.
        output: its name.
        precision: of the form; a key of `LIMITS`.
        max_difference: largest absolute difference.
        max_value: the largest absolute value of the model's output.
        min_cosine: least cosine between the two values of one picture.
    """

    form: str
    output: str
    precision: str
    max_difference: float
    max_value: float
    min_cosine: float

    @property
    def within(self) -> bool:
        """Whether it is within the limit of its precision. NaN never is."""
        limit = LIMITS[self.precision]
        close = self.max_difference <= limit.difference * max(1.0, self.max_value)
        return bool(np.isfinite(self.max_difference) and close and self.min_cosine >= limit.cosine)


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to compute the outputs.

    Attributes:
        name: for reports.
        precision: a key of `LIMITS`.
        compute: from normalised images [B, S, S, 3] and the files' bytes [B] that they were made of.
        expected: the model's outputs for normalised images.
    """

    name: str
    precision: str
    compute: Callable[[np.ndarray, Sequence[bytes]], Mapping[str, np.ndarray]]
    expected: Callable[[np.ndarray], Mapping[str, np.ndarray]]


def measure_parity(
    forms: Iterable[Form], images: np.ndarray, files: Sequence[bytes], batch_size: int = BATCH
) -> list[OutputParity]:
    """Every output of every form beside the model's, on these images.

    Args:
        forms: the exported forms.
        images: float32 [N, S, S, 3], prepared as in evaluation.
        files: the bytes of the N pictures.
        batch_size: images in a batch.

    Raises:
        ParityError: if a form lacks an output, or gives it another shape.
    """
    found = []
    for form in forms:
        measured: dict[str, list[OutputParity]] = {}
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            expected = form.expected(images[rows])
            actual = form.compute(images[rows], files[rows])
            for output, values in expected.items():
                part = compared(form.name, output, form.precision, actual.get(output), values)
                measured.setdefault(output, []).append(part)
        found += [merged(parts) for parts in measured.values()]
    return found


def check_parity(parities: Sequence[OutputParity]) -> None:
    """Raises ParityError, naming output, form and difference, where one is not within its limit."""
    wrong = [parity for parity in parities if not parity.within]
    if wrong:
        listed = "; ".join(
            f"{parity.form}: {parity.output} by {parity.max_difference:.3g} of {parity.max_value:.3g} "
            f"(cosine {parity.min_cosine:.6f})"
            for parity in wrong
        )
        raise ParityError(f"The export does not compute what the model computes. {listed}")


def parity_table(parities: Sequence[OutputParity]) -> str:
    """The figures as text, one line for each output of each form."""
    lines = [f"{'form':<20}{'output':<26}{'difference':>12}{'of':>12}{'cosine':>12}{'limit':>9}"]
    for parity in parities:
        limit = LIMITS[parity.precision]
        shown = f"{limit.difference:.0e}" if np.isfinite(limit.difference) else f"cos {limit.cosine:g}"
        lines.append(
            f"{parity.form:<20}{parity.output:<26}{parity.max_difference:>12.2e}{parity.max_value:>12.3g}"
            f"{parity.min_cosine:>12.7f}{shown:>9}"
        )
    return "\n".join(lines)


def compared(
    form: str, output: str, precision: str, actual: np.ndarray | None, expected: np.ndarray
) -> OutputParity:
    """One output of a form beside the model's, [B, ...], row by row.

    Raises:
        ParityError: if it is lacking, or of another shape.
    """
    shape = None if actual is None else actual.shape
    if shape != expected.shape:
        raise ParityError(f"{form}: {output} has shape {shape}, the model's {expected.shape}")
    rows = len(expected), int(np.prod(expected.shape[1:]))
    first, second = (values.astype("float64").reshape(rows) for values in (actual, expected))
    return OutputParity(
        form,
        output,
        precision,
        float(np.abs(first - second).max(initial=0.0)),
        float(np.abs(second).max(initial=0.0)),
        float(_cosines(first, second).min(initial=1.0)),
    )


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of the rows; 1 for two zero vectors, 0 for a zero vector and another."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    both_zero = ~first.any(axis=1) & ~second.any(axis=1)
    products = np.einsum("ij,ij->i", first, second)
    return np.where(both_zero, 1.0, np.divide(products, norms, out=np.zeros_like(norms), where=norms != 0))


def merged(parts: Sequence[OutputParity]) -> OutputParity:
    """One output of one form in all batches; NaN wins."""
    return dataclasses.replace(
        parts[0],
        max_difference=float(np.max([part.max_difference for part in parts])),
        max_value=float(np.max([part.max_value for part in parts])),
        min_cosine=float(np.min([part.min_cosine for part in parts])),
    )
