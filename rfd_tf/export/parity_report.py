"""What `parity.json` tells of one version of an export."""

import dataclasses
import datetime
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rfd_tf.export.parity import LIMITS, OutputParity

_PACKAGES = ("tensorflow", "keras", "onnx", "onnxruntime", "tf2onnx")


def parity_entry(
    parities: Sequence[OutputParity], pictures: Sequence[str], staging: Path, *, source: str, **facts
) -> dict:
    """The figures by form and output, with their limits and how they came about.

    Args:
        parities: the figures.
        pictures: names of those that were compared on.
        staging: the folder with what was written.
        source: where the model came from.
        **facts: of the export, besides.
    """
    figures: dict[str, dict] = {}
    for parity in parities:
        values = dataclasses.asdict(parity)
        form, output, precision = (values.pop(key) for key in ("form", "output", "precision"))
        limit = {
            key: value for key, value in dataclasses.asdict(LIMITS[precision]).items() if np.isfinite(value)
        }
        figures.setdefault(form, {"limit": limit, "outputs": {}})["outputs"][output] = values
    return {
        "source": source,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **facts,
        "files": sorted(path.name for path in staging.iterdir()),
        "pictures": list(pictures),
        "forms": figures,
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
