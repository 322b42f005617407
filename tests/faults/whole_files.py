"""Is every file that bears a final name whole?"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np


def check_whole(folder: Path) -> int:
    """Read every file below `folder` but those of temporary names; how many. Raises on a partial one."""
    checked = 0
    for path in sorted(folder.rglob("*")) if folder.exists() else []:
        if path.is_file() and not _is_temporary(path.relative_to(folder)) and (check := _check_for(path)):
            try:
                check(path)
            except Exception as error:
                raise AssertionError(f"{path} is not whole: {error}") from error
            checked += 1
    return checked


def _is_temporary(path: Path) -> bool:
    return any(part.startswith((".", "partial-")) for part in path.parts) or "tensorboard" in path.parts


def _check_for(path: Path) -> Callable[[Path], object] | None:
    return next((check for ending, check in _CHECKS.items() if path.name.endswith(ending)), None)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def _parquet(path: Path) -> None:
    import pyarrow.parquet

    pyarrow.parquet.read_table(path)


def _hdf5(path: Path) -> None:
    import h5py

    with h5py.File(path) as file:
        file.visititems(lambda name, item: item[()] if isinstance(item, h5py.Dataset) else None)


def _saved_model(path: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    assert saved_model_pb2.SavedModel.FromString(path.read_bytes()).meta_graphs


def _onnx(path: Path) -> None:
    import onnx

    onnx.checker.check_model(str(path))


def _image(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.load()


def _page(path: Path) -> None:
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")


def _download(path: Path) -> None:
    from tests.faults.commands import PLAIN

    assert path.read_bytes() == PLAIN


_CHECKS: dict[str, Callable[[Path], object]] = {
    ".keras": _zip,
    ".npz": lambda path: [np.load(path)[name] for name in np.load(path).files],
    ".npy": lambda path: np.load(path),
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".parquet": _parquet,
    ".h5": _hdf5,
    "saved_model.pb": _saved_model,
    ".onnx": _onnx,
    ".png": _image,
    ".html": _page,
    "narrow.bin": _download,
}
