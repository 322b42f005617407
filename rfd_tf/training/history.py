"""The CSV history of a run."""

import csv
from pathlib import Path

import numpy as np


def read_history(path: Path) -> dict[str, np.ndarray]:
    """The columns of a CSV history as floats; what is not a number is NaN."""
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        try:
            reader = csv.DictReader(file)
            names, rows = reader.fieldnames, list(reader)
        except csv.Error as error:
            raise ValueError(f"{path} is no CSV table ({error})") from error
    if not rows:
        raise ValueError(f"{path} has no rows")
    return {name: np.array([_number(row[name]) for row in rows]) for name in names}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")
