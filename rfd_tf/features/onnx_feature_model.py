import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rfd_tf.features.feature_model import FeatureModel, ModelInfo, check_feature_maps

INFO_KEY = "rfd_tf_model"  # of the file's metadata_props
THREADS_VARIABLE = "RFD_TF_ONNX_THREADS"
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")  # by preference


class OnnxFeatureModel(FeatureModel):
    """Features by ONNX Runtime, in this process.

    Args:
        session: an `onnxruntime.InferenceSession`.
        info: the model's facts.
        location: where it came from.
    """

    def __init__(self, session, info: ModelInfo, location: str):
        super().__init__(info, location)
        self._session = session

    def _extract(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        values = self._session.run(list(names), {"image": images})
        return dict(zip(names, values, strict=True))


def open_onnx(
    path: str | os.PathLike, feature_maps: Sequence[str] | None = None, threads: int | None = None
) -> OnnxFeatureModel:
    """Opens an ONNX file that `rfd export` wrote; on a GPU where onnxruntime-gpu is installed.

    Args:
        path: the file.
        feature_maps: feature maps that it must have; None for those it has.
        threads: processor threads for one operation; by default `$RFD_TF_ONNX_THREADS`, else as many as
            there are cores.

    Raises:
        ImportError: without onnxruntime.
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, has no facts of ours, or lacks a map; on `threads` below 1.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No model at {path}")
    session = _session(path, _threads(threads))
    facts = session.get_modelmeta().custom_metadata_map.get(INFO_KEY)
    if facts is None:
        raise ValueError(f"{path} has no metadata {INFO_KEY!r}: it was not exported by this package")
    info = ModelInfo.from_json(facts, str(path))
    check_feature_maps(info, feature_maps, str(path))
    missing = set(info.outputs) - {output.name for output in session.get_outputs()}
    if missing or [node.name for node in session.get_inputs()] != ["image"]:
        raise ValueError(f"{path}: its inputs and outputs are not those that its metadata tell of")
    return OnnxFeatureModel(session, info, str(path))


def _session(path: Path, threads: int):
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{path}: needs onnxruntime (pip install 'rfd_tf[onnx]')") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    available = onnxruntime.get_available_providers()
    providers = [provider for provider in _PROVIDERS if provider in available]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # a class of its own for each status
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path}: ONNX Runtime cannot read it ({reason})") from error


def _threads(threads: int | None) -> int:
    """0 lets ONNX Runtime choose."""
    given = os.environ.get(THREADS_VARIABLE, "") if threads is None else str(threads)
    if not given:
        return 0
    if not given.isdigit() or int(given) < 1:
        name = THREADS_VARIABLE if threads is None else "threads"
        raise ValueError(f"`{name}` must be a whole number from 1 on. Received: {name}={given}")
    return int(given)
