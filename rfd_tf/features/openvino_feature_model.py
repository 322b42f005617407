"""Feature models computed by OpenVINO, which is fast on server processors, most of all in bfloat16."""

import collections
import dataclasses
import functools
import hashlib
import importlib.util
import itertools
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from rfd_tf.features.feature_model import (
    BFLOAT16,
    FLOAT32,
    INFO_KEY,
    FeatureModel,
    ModelInfo,
    check_feature_maps,
    processor_threads,
)
from rfd_tf.features.keras_feature_model import KerasFeatureModel, inference_function
from rfd_tf.terminal import only_errors_logged

_REQUESTS = 2  # in flight: one is computed while the next one's images are made ready


class OpenVinoFeatureModel(FeatureModel):
    """Features by OpenVINO on the processors of this machine.

    Args:
        model: an `openvino.Model` from `image` to outputs by name.
        info: its facts; `info.precision` is what it is computed in: with bfloat16 all arithmetic, where the
            processor has it (else float32).
        location: where it came from.
        threads: of the processor; 0 for as many as there are cores.
    """

    def __init__(self, model, info: ModelInfo, location: str, threads: int = 0):
        super().__init__(info, location)
        self.runtime = f"OpenVINO {_openvino(location).__version__.partition('-')[0]}"
        self._model = model
        self._threads = threads
        self._compiled = functools.cache(self._compile)
        self._own = threading.local()  # a thread's request by outputs: it cannot serve two at once

    def _extract(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        if (request := vars(self._own).get(repr(names))) is None:
            request = vars(self._own)[repr(names)] = self._request(names)
        request.start_async({"image": images})
        return _finished(names, None, request)[1]

    def in_order(
        self, batches: Iterable[tuple[Any, np.ndarray]], names: Sequence[str]
    ) -> Iterator[tuple[Any, dict[str, np.ndarray]]]:
        """As of `FeatureModel`; while a batch is computed, the next one is made ready by whoever gives it."""
        chosen = self.check_names(names)
        requests = itertools.cycle([self._request(chosen) for _ in range(_REQUESTS)])
        busy: collections.deque[tuple[Any, Any]] = collections.deque()
        for tag, images in batches:
            if len(busy) == _REQUESTS:
                yield _finished(chosen, *busy.popleft())
            request = next(requests) if len(images) else None
            if request is not None:
                request.start_async({"image": self._input(images)})  # copies them
            busy.append((tag, request))
        for begun in busy:
            yield _finished(chosen, *begun)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the facts, the operations and the weights."""
        digest = hashlib.sha256(self.info.to_json().encode())
        for operation in self._model.get_ordered_ops():
            digest.update(f"{operation.get_type_name()} {operation.get_attributes()}\n".encode())
            if operation.get_type_name() == "Constant":
                digest.update(np.ascontiguousarray(operation.data).tobytes())
        return digest.hexdigest()

    def in_precision(self, precision: str) -> "OpenVinoFeatureModel":
        """The same model computed in `"float32"` or `"bfloat16"`; ValueError for another."""
        info = _in_precision(self.info, precision, self.location)
        return OpenVinoFeatureModel(self._model, info, self.location, self._threads)

    def _request(self, names: tuple[str, ...]):
        return self._compiled(names).create_infer_request()

    def _compile(self, names: tuple[str, ...]):
        """Computes no more than `names` ask for."""
        openvino = _openvino(self.location)
        results = [self._model.output(name).get_node() for name in names]
        part = openvino.Model(results, self._model.get_parameters(), self.info.name)
        core = _core(self.location)
        native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        options: dict[str, Any] = {
            # Its own default is bfloat16 wherever there is some.
            "INFERENCE_PRECISION_HINT": "bf16" if native and self.info.precision == BFLOAT16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",  # all threads work on one batch: no more memory with more cores
        }
        if self._threads:
            options["INFERENCE_NUM_THREADS"] = self._threads
        return core.compile_model(part, "CPU", options)


def _finished(names: tuple[str, ...], tag: Any, request) -> tuple[Any, dict[str, np.ndarray]]:
    """What a request has found, once it has; a copy, since its memory is used again."""
    if request is None:
        return tag, {}
    request.wait()
    return tag, {name: np.array(request.get_tensor(name).data, "float32") for name in names}


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


def open_openvino(
    path: str | os.PathLike,
    feature_maps: Sequence[str] | None = None,
    precision: str | None = None,
    threads: int | None = None,
) -> OpenVinoFeatureModel:
    """Opens what `rfd export` wrote, with OpenVINO: its own files (`.xml` and, beside it, `.bin`), or ONNX.

    Args:
        path: the `.xml` or the `.onnx` file.
        feature_maps: feature maps that it must have; None for those it has.
        precision: `"float32"` or `"bfloat16"`, which the arithmetic is done in; None for what the file was
            exported for.
        threads: as of `open_onnx`.

    Raises:
        ImportError: without OpenVINO.
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, has no facts of ours, or lacks a map; on another precision.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No model at {path}")
    model = _read(str(path), str(path))
    place = next((place for place in ([INFO_KEY], ["framework", INFO_KEY]) if model.has_rt_info(place)), None)
    if place is None:
        raise ValueError(f"{path} has no metadata {INFO_KEY!r}: it was not exported by this package")
    info = ModelInfo.from_json(model.get_rt_info(place).astype(str), str(path))
    check_feature_maps(info, feature_maps, str(path))
    named = {name for output in model.outputs for name in output.names}
    if set(info.outputs) - named or [sorted(node.names) for node in model.inputs] != [["image"]]:
        raise ValueError(f"{path}: its inputs and outputs are not those that its metadata tell of")
    return OpenVinoFeatureModel(
        model, _in_precision(info, precision, str(path)), str(path), processor_threads(threads)
    )


def openvino_model(feature_model: KerasFeatureModel):
    """The same computation, as an `openvino.Model` with the facts inside: what `.xml` files are written of.

    Raises:
        ImportError: without OpenVINO.
        ValueError: if there is an operation that OpenVINO does not have.
    """
    _openvino(feature_model.location)
    _, infer = inference_function(feature_model)
    with tempfile.TemporaryDirectory() as folder:
        module = tf.Module()
        module.weights = [variable.value for variable in feature_model.model.variables]
        with only_errors_logged():
            tf.saved_model.save(module, folder, {"serving_default": infer})
        model = _read(folder, feature_model.location)
    info = feature_model.info
    model.set_rt_info(info.to_json(), [INFO_KEY])
    model.set_friendly_name(info.name)
    return model


def openvino_copy(feature_model: KerasFeatureModel, precision: str = FLOAT32) -> OpenVinoFeatureModel:
    """A Keras model computed by OpenVINO instead, in `"float32"` or `"bfloat16"`.

    Raises:
        ImportError: without OpenVINO.
        ValueError: on another precision, or an operation that OpenVINO does not have.
    """
    info = _in_precision(feature_model.info, precision, feature_model.location)
    return OpenVinoFeatureModel(
        openvino_model(feature_model), info, feature_model.location, processor_threads(None)
    )


def _in_precision(info: ModelInfo, precision: str | None, where: str) -> ModelInfo:
    if precision in (None, info.precision):
        return info
    if {precision, info.precision} != {FLOAT32, BFLOAT16}:
        raise ValueError(f"{where} computes in {info.precision}. Received: precision={precision!r}")
    return dataclasses.replace(info, precision=precision)


def _read(path: str, where: str):
    """An `openvino.Model` of what is at `path`; a ValueError begins with `where`."""
    try:
        return _core(where).read_model(path)
    except RuntimeError as error:  # of many lines, the last of which says why
        lines = [line for line in map(str.strip, str(error).splitlines()) if line]
        raise ValueError(f"{where}: OpenVINO cannot read it ({lines[-1] if lines else error})") from error


def check_openvino() -> None:
    """Raises ImportError, naming the extra to install, without OpenVINO."""
    _openvino("Exporting to OpenVINO")


_cores: list = []


def _core(what: str):
    """OpenVINO's core, one for the whole process: with the last one its plugins are unloaded.

    Threads of theirs may still be in that code then, and the process dies of it.
    """
    if not _cores:
        _cores.append(_openvino(what).Core())
    return _cores[0]


def _openvino(what: str):
    try:
        import openvino
    except ImportError as error:
        raise ImportError(f"{what}: needs OpenVINO (pip install 'rfd_tf[openvino]')") from error
    return openvino
