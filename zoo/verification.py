"""Does a network compute what its source computes? An independent forward pass tells, a report keeps it."""

import json
import platform
import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from rfd_tf.files import atomic_path, fits, parse_json
from rfd_tf.models.parity import TOLERANCE, Difference, compare, outputs, random_images
from zoo.errors import VerificationError
from zoo.registry import Entry, entry_names, info

_PACKAGES = ("rfd_tf", "keras", "tensorflow", "numpy", "torch", "protobuf", "h5py")
_BLOCKS = {"conv1": 0, "conv2": 2, "conv3": 4, "conv4": 5, "conv5": 6}
_GEOMETRY = {"conv1": (4, 2), "conv2": (1, 2), "conv3": (1, 1), "conv4": (1, 1), "conv5": (1, 1)}
_POOLS = {"conv1": "pool1", "conv2": "pool2", "conv5": "pool5"}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


@dataclass(frozen=True)
class Report:
    """What was converted from what, and how far apart the two are.

    Args:
        architecture: of the network.
        source_file: name of the file that was read, without its folder.
        source_sha256: of its bytes.
        compared_with: the independent forward pass.
        tolerance: that was kept.
        differences: per output.
        entry: the zoo entry, where there is one.
        left_out: source keys, or layers of a Caffe network, that were not wanted.
        unread: "place: class" of what is beside the weights in a PyTorch file; no code of a file is run.
        heads: outputs of the heads that were converted.
        heads_from: name and SHA-256 of the files that heads were read from, besides `source_file`.
        counters: PyTorch's `num_batches_tracked`, which Keras has no place for, kept for the way back.
        versions: of the packages.
        date: UTC, ISO 8601.
    """

    architecture: str
    source_file: str
    source_sha256: str
    compared_with: str
    tolerance: float
    differences: Mapping[str, Difference]
    entry: str | None = None
    left_out: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    heads_from: Mapping[str, str] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=_versions)
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def write_beside(self, path: str | Path) -> Path:
        """Write `PATH.json` and return its path."""
        target = report_path(path)
        with atomic_path(target) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        return target

    def lines(self) -> list[str]:
        """For people: one line per output, then what was left out or not read."""
        head = f"{self.architecture}: compared with {self.compared_with}, tolerance {self.tolerance:g}"
        rows = [
            f"  {name:16} max |difference| {d.max_abs_difference:.3g}   max |value| {d.max_abs_value:.3g}"
            for name, d in self.differences.items()
        ]
        notes = {"left out": self.left_out, "not read": self.unread}
        return [head, *rows, *(f"  {what}: {', '.join(names)}" for what, names in notes.items() if names)]


def report_path(path: str | Path) -> Path:
    """Where the report of a converted file lies."""
    path = Path(path)
    return path.with_name(path.name + ".json")


def recorded_counters(path: str | Path) -> dict[str, int]:
    """The counters in the report beside a converted file; empty without a readable report."""
    counters = _recorded(path, "counters")
    return counters if fits(counters, dict[str, int]) else {}


def recorded_entry(path: str | Path) -> Entry | None:
    """The zoo entry that a converted file is of, by the report beside it; None without one."""
    name = _recorded(path, "entry")
    return info(name) if name in entry_names() else None


def _recorded(path: str | Path, key: str) -> Any:
    """A field of the report; None without a readable report. Two fields need no library of schemas."""
    try:
        return parse_json(report_path(path).read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def verify(
    model: keras.Model,
    architecture: str,
    source: str,
    state: Mapping[str, np.ndarray],
    tolerance: float = TOLERANCE,
) -> tuple[dict[str, Difference], str]:
    """Compare `model` with an independent forward pass of its source's arrays on random images.

    Args:
        model: the converted network.
        architecture: its name in `zoo.architectures`.
        source: `torch` or `caffe`: the naming of `state`.
        state: the source's arrays.
        tolerance: absolute up to values of 1, relative beyond.

    Returns:
        The differences per output, and the name of what they were measured against.

    Raises:
        VerificationError: above the tolerance.
    """
    images = random_images(model)
    ops = reference_ops()
    actual = outputs(model, images)
    expected = reference_features(architecture, source, state, images, ops, heads=actual.keys())
    return compare(actual, expected, tolerance, VerificationError), ops.name


def reference_features(
    architecture: str,
    source: str,
    state: Mapping[str, np.ndarray],
    images: np.ndarray,
    ops,
    heads: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Every feature, and the outputs of the heads that are asked for and are there, channels last.

    Args:
        architecture: `alexnet`, `alexnet_no_bn` or `resnetDEPTH`.
        source: `torch` or `caffe`, which named the arrays.
        state: the file's arrays.
        images: [B, H, W, 3], normalised.
        ops: of `reference_ops`.
        heads: names of `rotation_logits`, `embedding` and `logits`; others count for nothing.
    """
    parameters = _Parameters(state, ops)
    x = ops.array(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
    if architecture.startswith("resnet"):
        features = _resnet(parameters, x, ops, heads)
    else:
        features = _alexnet(parameters, x, ops, source, architecture == "alexnet", heads)
    arrays = {name: ops.numpy(value) for name, value in features.items()}
    return {name: np.moveaxis(a, 1, -1) if a.ndim == 4 else a for name, a in arrays.items()}


class _Parameters:
    """Arrays of the source by their own names."""

    def __init__(self, state: Mapping[str, np.ndarray], ops):
        self._state, self._ops = state, ops

    def __contains__(self, key: str) -> bool:
        return key in self._state

    def __call__(self, *keys: str) -> list:
        return [self._ops.array(self._state[key]) if key in self._state else None for key in keys]


def _alexnet(parameters, x, ops, source: str, has_norm: bool, heads: Collection[str]) -> dict:
    features = {}
    for name, (stride, padding) in _GEOMETRY.items():
        kernel, norm = _alexnet_keys(source, name)
        x = ops.convolution(x, *parameters(*kernel), stride, padding)
        x = features[name] = ops.relu(ops.batch_norm(x, *parameters(*norm)) if has_norm else x)
        if name in _POOLS:
            x = features[_POOLS[name]] = ops.max_pool(x)
    x = ops.flatten(x)
    for name in ("fc6", "fc7"):
        kernel, norm = _alexnet_keys(source, name)
        x = ops.dense(x, *parameters(*kernel))
        x = ops.relu(ops.batch_norm(x, *parameters(*norm)) if has_norm else x)
    features["fc_block"] = x
    half = x.shape[1] // 2
    if "rotation_logits" in heads and "fc_classifier.0.weight" in parameters:
        weights = parameters("fc_classifier.0.weight", "fc_classifier.0.bias")
        features["rotation_logits"] = ops.dense(x[:, :half], *weights)
    if "embedding" in heads and "norm.0.weight" in parameters:
        projection = ops.dense(x[:, half:], *parameters("norm.0.weight", "norm.0.bias"))
        features["embedding"] = ops.unit_length(projection)
    return features


def _alexnet_keys(source: str, name: str) -> tuple[list[str], list[str]]:
    """(weight, bias), (scale, shift, mean, variance) as the source names them."""
    if source == "caffe":
        norm = [f"{name}_scale/0", f"{name}_scale/1", f"{name}_bn/0", f"{name}_bn/1"]
        return [f"{name}/0", f"{name}/1"], norm
    block, position = (_BLOCKS[name], 0) if name in _BLOCKS else (8, {"fc6": 1, "fc7": 4}[name])
    kernel = f"_feature_blocks.{block}.{position}."
    return [kernel + "weight", kernel + "bias"], _norm_keys(f"_feature_blocks.{block}.{position + 1}.")


def _norm_keys(prefix: str) -> list[str]:
    return [prefix + part for part in ("weight", "bias", "running_mean", "running_var")]


def _resnet(parameters, x, ops, heads: Collection[str]) -> dict:
    def convolution_norm(x, prefix, number, stride):
        x = ops.convolution(x, *parameters(f"{prefix}conv{number}.weight"), None, stride, 1)
        return ops.batch_norm(x, *parameters(*_norm_keys(f"{prefix}bn{number}.")))

    x = ops.relu(convolution_norm(x, "", 1, 1))
    features = {"conv1": x}
    for block in (1, 2, 3):
        unit = 0
        while f"layer{block}.{unit}.conv1.weight" in parameters:
            prefix = f"layer{block}.{unit}."
            stride = 2 if block > 1 and unit == 0 else 1
            y = ops.relu(convolution_norm(x, prefix, 1, stride))
            y = convolution_norm(y, prefix, 2, 1)
            x = ops.relu(y + (ops.shortcut(x, y.shape[1]) if stride == 2 else x))
            unit += 1
        features[f"block{block}"] = x
    x = features["pool"] = ops.spatial_mean(x)
    if "logits" in heads and "linear.weight" in parameters:
        weight, bias = parameters("linear.weight", "linear.bias")
        if bias is None:  # LDAM-DRW's cosine classifier, [features, classes]
            x, weight = ops.unit_length(x), ops.unit_length(weight.T)
        features["logits"] = ops.dense(x, weight, bias)
    return features


def reference_ops(backend: str | None = None):
    """`TorchOps` where PyTorch is installed, else `NumpyOps`; or the one asked for (`torch`, `numpy`)."""
    if backend == "numpy":
        return NumpyOps()
    try:
        return TorchOps()
    except ImportError:
        if backend == "torch":
            raise
        return NumpyOps()


class NumpyOps:
    """Layer functions on float32 arrays [B, C, H, W] or [B, C]."""

    name = f"NumPy {np.__version__}"

    def array(self, value: np.ndarray) -> np.ndarray:
        return np.asarray(value, "float32")

    def numpy(self, value: np.ndarray) -> np.ndarray:
        return value

    def convolution(self, x, weight, bias, stride: int, padding: int):
        x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        height, width = weight.shape[2:]
        windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), (2, 3))
        y = np.tensordot(windows[:, :, ::stride, ::stride], weight, ((1, 4, 5), (1, 2, 3)))
        y = np.moveaxis(y, -1, 1)
        return y if bias is None else y + bias[:, None, None]

    def dense(self, x, weight, bias):
        y = x @ weight.T
        return y if bias is None else y + bias

    def batch_norm(self, x, weight, bias, mean, variance):
        shape = (1, -1) + (1,) * (x.ndim - 2)
        mean, scale = mean.reshape(shape), (weight / np.sqrt(variance + 1e-5)).reshape(shape)
        return (x - mean) * scale + bias.reshape(shape)

    def relu(self, x):
        return np.maximum(x, 0)

    def max_pool(self, x):
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
        return windows[:, :, ::2, ::2].max((4, 5))

    def flatten(self, x):
        return x.reshape(len(x), -1)

    def spatial_mean(self, x):
        return x.mean((2, 3))

    def shortcut(self, x, channels: int):
        """Every second pixel, and zero channels on both sides."""
        extra = (channels - x.shape[1]) // 2
        return np.pad(x[:, :, ::2, ::2], ((0, 0), (extra, extra), (0, 0), (0, 0)))

    def unit_length(self, x):
        return x / np.maximum(np.sqrt((x * x).sum(-1, keepdims=True)), 1e-12)


class TorchOps:
    """The same by PyTorch, on tensors; ImportError where it is not installed."""

    def __init__(self):
        import torch

        self.torch, self.functional = torch, torch.nn.functional
        self.name = f"PyTorch {torch.__version__}"

    def array(self, value: np.ndarray):
        with warnings.catch_warnings():  # the file's arrays are read-only, and nothing writes to them
            warnings.simplefilter("ignore", UserWarning)
            return self.torch.from_numpy(np.require(value, "float32", "A"))

    def numpy(self, value) -> np.ndarray:
        return value.numpy()

    def convolution(self, x, weight, bias, stride: int, padding: int):
        return self.functional.conv2d(x, weight, bias, stride, padding)

    def dense(self, x, weight, bias):
        return self.functional.linear(x, weight, bias)

    def batch_norm(self, x, weight, bias, mean, variance):
        return self.functional.batch_norm(x, mean, variance, weight, bias, eps=1e-5)

    def relu(self, x):
        return self.functional.relu(x)

    def max_pool(self, x):
        return self.functional.max_pool2d(x, 3, 2)

    def flatten(self, x):
        return x.flatten(1)

    def spatial_mean(self, x):
        return x.mean((2, 3))

    def shortcut(self, x, channels: int):
        extra = (channels - x.shape[1]) // 2
        return self.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra, extra))

    def unit_length(self, x):
        return self.functional.normalize(x, dim=-1)
