"""Whether exported forms compute what the model computes, on real images."""

import contextlib
import dataclasses
import importlib.metadata
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from rfd_tf import data
from rfd_tf.data.bad_images import unusable_image
from rfd_tf.features import FeatureModel
from rfd_tf.files import parse_json
from rfd_tf.models.parity import Difference, ParityError
from rfd_tf.runs.provenance import now

NamedImage = tuple[str, bytes]  # where it is from, and an image file's bytes
_CROP = 240  # pixels of the bundled photographs' crops


def images_at(path: Path, count: int) -> list[NamedImage]:
    """Up to `count` images of a folder, evenly spread, or the one at `path`; unusable ones are logged.

    Raises:
        FileNotFoundError: if there is no image.
        ValueError: if none can be used.
    """
    if path.is_dir():
        return _usable(data.FlatFolder(path), count, str(path))
    if not path.is_file():
        raise FileNotFoundError(f"No image or folder of images at {path}")
    content = path.read_bytes()
    if reason := unusable_image(content):
        raise ValueError(f"{path}: {reason}")
    return [(str(path), content)]


def images_of_run(workdir: Path, count: int) -> list[NamedImage]:
    """Up to `count` training images of a run, by its config; none if they are no longer there."""
    try:
        config = parse_json((workdir / "config.json").read_text(encoding="utf-8"))["data"]
        options = {"name": config["name"]} if config.get("name") else {}
        if config["source"] == "tfds":
            options["cache_dir"] = workdir / "cache"
        if config["source"] in ("image_folder", "flat_folder"):
            options["on_error"] = "skip"
        source = data.open_source(config["source"], config["root"], config["split"] or "train", **options)
        return _usable(source, count, str(workdir))
    except (OSError, ValueError, KeyError, ImportError) as error:
        logging.info("The images of %s cannot be used (%s)", workdir, error)
        return []


def bundled_images(count: int) -> list[NamedImage]:
    """`count` crops of scikit-learn's two sample photographs, as PNG."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    samples = load_sample_images()
    rng = np.random.default_rng(0)
    crops = []
    for number in range(count):
        which = number % len(samples.images)
        photograph = samples.images[which]
        top, left = (int(rng.integers(side - _CROP + 1)) for side in photograph.shape[:2])
        file = io.BytesIO()
        Image.fromarray(photograph[top : top + _CROP, left : left + _CROP]).save(file, "PNG")
        crops.append((f"scikit-learn {Path(samples.filenames[which]).name} +{left}+{top}", file.getvalue()))
    return crops


def _usable(source: data.Source, count: int, where: str) -> list[NamedImage]:
    found = []
    for row in np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype("int64")):
        fetched = source.fetch(tf.constant(row))
        content = (fetched if source.encoded else tf.io.encode_png(fetched)).numpy()
        name = source.describe(int(row))
        if reason := unusable_image(content):
            logging.warning("Not compared on %s: %s", name, reason)
        else:
            found.append((name, content))
    if not found:
        raise ValueError(f"{where}: none of the images tried can be used")
    return found


@dataclasses.dataclass(frozen=True)
class Limit:
    """What is tolerated.

    Attributes:
        difference: largest difference of two values: absolute up to values of 1, relative to the output's
            largest beyond.
        cosine: least cosine between the two values of an output for any one image.
    """

    difference: float
    cosine: float


LIMITS = {
    "float32": Limit(1e-4, 0.9999),
    "float16": Limit(2e-2, 0.999),
    "bfloat16": Limit(5e-2, 0.999),
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
        min_cosine: least cosine between the two values of one image.
    """

    form: str
    output: str
    precision: str
    max_difference: float
    max_value: float
    min_cosine: float

    @property
    def within(self) -> bool:
        """Whether it is within the limit of its precision; NaN never is."""
        limit = LIMITS[self.precision]
        close = Difference(self.max_difference, self.max_value).within(limit.difference)
        return bool(np.isfinite(self.max_difference) and close and self.min_cosine >= limit.cosine)


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to compute the outputs.

    Attributes:
        name: for reports.
        precision: a key of `LIMITS`.
        compute: from a batch, whatever the caller takes for one, to outputs by name, [B, ...] each.
        expected: the model's outputs for the same batch.
    """

    name: str
    precision: str
    compute: Callable[[Any], Mapping[str, np.ndarray]]
    expected: Callable[[Any], Mapping[str, np.ndarray]]


def measure_parity(forms: Sequence[Form], batches: Sequence) -> list[OutputParity]:
    """Every output of every form compared with the model's, over all batches.

    Raises:
        ParityError: if a form lacks an output, or its shape differs.
    """
    found = []
    for form in forms:
        measured: dict[str, list[OutputParity]] = {}
        for batch in batches:
            actual = form.compute(batch)
            for output, values in form.expected(batch).items():
                measured.setdefault(output, []).append(_compared(form, output, actual.get(output), values))
        found += [
            dataclasses.replace(  # NaN wins
                parts[0],
                max_difference=float(np.max([part.max_difference for part in parts])),
                max_value=float(np.max([part.max_value for part in parts])),
                min_cosine=float(np.min([part.min_cosine for part in parts])),
            )
            for parts in measured.values()
        ]
    return found


def _compared(form: Form, output: str, actual: np.ndarray | None, expected: np.ndarray) -> OutputParity:
    shape = None if actual is None else actual.shape
    if actual is None or shape != expected.shape:
        raise ParityError(f"{form.name}: {output} has shape {shape}, the model's {expected.shape}")
    rows = len(expected), int(np.prod(expected.shape[1:]))
    first, second = (values.astype("float64").reshape(rows) for values in (actual, expected))
    return OutputParity(
        form.name,
        output,
        form.precision,
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


def check_bfloat16(feature_model: FeatureModel, exact: FeatureModel, count: int = 8) -> None:
    """Raises ParityError where a model in bfloat16 is not close to the `exact` one, on bundled images."""
    prepare = exact.info.preprocessing.eval_image
    images = np.stack([prepare(tf.constant(content)).numpy() for _, content in bundled_images(count)])
    name = f"{feature_model.runtime} in bfloat16"
    check_parity(measure_parity([Form(name, "bfloat16", feature_model, exact)], [images]))


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


_PACKAGES = ("tensorflow", "keras", "onnx", "onnxruntime", "tf2onnx", "openvino", "nncf")


def parity_entry(
    parities: Sequence[OutputParity], images: Sequence[str], staging: Path, *, source: str, **facts
) -> dict:
    """The figures by form and output, with their limits and how they came about.

    Args:
        parities: the figures.
        images: names of those that were compared on.
        staging: the folder of what was written.
        source: where the model came from.
        **facts: other facts of the export.
    """
    figures: dict[str, dict] = {}
    for parity in parities:
        values = dataclasses.asdict(parity)
        form, output, precision = (values.pop(key) for key in ("form", "output", "precision"))
        limit = dataclasses.asdict(LIMITS[precision])
        limit = {name: value for name, value in limit.items() if np.isfinite(value)}
        figures.setdefault(form, {"limit": limit, "outputs": {}})["outputs"][output] = values
    packages = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    return {
        "source": source,
        "date": now(),
        **facts,
        "files": sorted(path.name for path in staging.iterdir()),
        "pictures": list(images),
        "forms": figures,
        "packages": packages,
    }
