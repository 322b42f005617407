"""Weights in other people's files."""

import argparse
import contextlib
import datetime
import io
import json
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np

from tests.faults.fuzzing import Reader
from tests.faults.mutations import mutated
from tests.faults.readers.samples import real
from tests.zoo.pickles import integer, legacy, mapping, numbers, tensor, text
from tests.zoo.released import save_torch
from zoo.errors import FormatError, ZooError

_STATE = {
    "network.0.weight": np.ones((2, 3), "float32"),
    "network.0.bias": np.arange(2.0, dtype="float64"),
    "network.1.num_batches_tracked": np.array(7),
}


class _Command:
    def __reduce__(self):
        import os

        return os.system, ("touch pwned",)


def _torch_seeds(folder: Path, legacy_format: bool) -> list[bytes]:
    path, seeds = folder / "seed.pth", []
    beside = {
        "args": argparse.Namespace(lr=0.1, command=_Command()),
        "best": np.float64(1),
        "date": datetime.datetime(2024, 5, 17),
        "pairs": {(1, 2): {3}, "device": [np.arange(3)]},
    }
    for nest, prefix, extras in (("network", "module.", {}), ("", "", {}), ("state_dict", "", beside)):
        save_torch(path, _STATE, legacy=legacy_format, nest=nest, prefix=prefix, beside=extras)
        seeds.append(path.read_bytes())
    return seeds


def _legacy_seeds(folder: Path) -> list[bytes]:
    made = [
        legacy(mapping({"x": tensor([2, 2])}), [("0", np.ones(4, "float32"))]),
        legacy(pickle.dumps({"network": _Command()}, 2)),
        legacy(b"\x80\x02}(" + b")" + b"q\x00h\x00\x86" * 60 + b"Nu."),
    ]
    return [*_torch_seeds(folder, True), *made, *real("weights/torch_legacy/*.th")]


def _zip_seeds(folder: Path) -> list[bytes]:
    return [*_torch_seeds(folder, False), _archive(pickle.dumps(_Command(), 2))]


def _archive(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x/data.pkl", content)
        file.writestr("x/data/0", bytes(16))
    return buffer.getvalue()


def _pickles(seeds: list[bytes]):
    """Programs of pickle's opcodes, of the known names and of forbidden ones, inside both kinds of file."""
    from hypothesis import strategies as st

    names = ("torch._utils _rebuild_tensor_v2", "torch FloatStorage", "collections OrderedDict", "torch Size")
    names += ("os system", "builtins eval", "torch._utils _rebuild_parameter", "torch BoolStorage")
    names += (
        "argparse Namespace",
        "copyreg _reconstructor",
        "numpy.core.multiarray scalar",
        "torch OddStorage",
    )
    opcodes = st.sampled_from(
        [b"(", b")", b"]", b"}", b"t", b"l", b"d", b"a", b"e", b"s", b"u", b"R", b"b", b"Q", b"N", b"0", b"1"]
        + [
            b"2",
            b"\x81",
            b"\x85",
            b"\x86",
            b"\x87",
            b"\x88",
            b"\x89",
            b"\x8f",
            b"\x90",
            b"\x91",
            b"\x94",
            b".",
        ]
        + [b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"K\x01", b"K\x04", b"\x93", b"i", b"o", b"\x82\x01"]
        + [b"ios\nsystem\n", b"\x92", b"\x96" + bytes(8), text("module")]
        + [b"c%s\n%s\n" % tuple(name.encode().split()) for name in names]
        + [text("storage"), text("0"), text("cpu"), text("x"), integer(2**60), integer(-1), numbers([2, 2])]
        + [
            tensor([2, 2]),
            tensor([0]),
            tensor([2], kind="HalfStorage"),
            b"I1\n",
            b"F1e999\n",
            b"\x95" + bytes(8),
        ]
    )
    programs = st.lists(opcodes, max_size=30).map(lambda parts: b"\x80\x02" + b"".join(parts) + b".")
    files = st.sampled_from([lambda p: legacy(p, [("0", np.ones(4, "float32"))]), _archive])
    return st.builds(lambda file, program: file(program), files, programs)


def _read_torch(path: Path):
    from zoo.torch_checkpoint import read_state_dict

    return {name: array.copy() for name, array in read_state_dict(path).items()}


def _caffe_seeds(folder: Path) -> list[bytes]:
    from zoo.caffe import LayerBlobs, write_caffemodel

    blobs = (np.ones((2, 3, 1, 1), "float32"), np.ones(2, "float32"))
    statistics = (blobs[1], blobs[1], np.ones(1, "float32"))
    layers = {"conv1": LayerBlobs("Convolution", blobs), "conv1_bn": LayerBlobs("BatchNorm", statistics)}
    write_caffemodel(folder / "seed.caffemodel", layers, "net")
    return [(folder / "seed.caffemodel").read_bytes(), *real("weights/*/*.caffemodel")[:1]]


def _hdf5_seeds(folder: Path) -> list[bytes]:
    import h5py

    with h5py.File(folder / "seed.h5", "w") as file:
        for layer in ("conv1", "ip1"):
            file[f"data/{layer}/0"] = np.ones((2, 3), "float32")
            file[f"data/{layer}/1"] = np.ones(2, "float64")
    with h5py.File(folder / "linked.h5", "w") as file:
        file["data/conv1/0"] = h5py.ExternalLink("/etc/passwd", "/x")
    return [(folder / name).read_bytes() for name in ("seed.h5", "linked.h5")] + real("weights/*/*.h5")


def _read_caffe(path: Path):
    from zoo.sources import read_source

    return read_source(path, "caffe").arrays()


def _keras_seeds(folder: Path) -> list[bytes]:
    import keras

    inputs = keras.Input((3,))
    model = keras.Model(inputs, {"features": keras.layers.Dense(2)(inputs)})
    model.save(folder / "seed.keras")
    lambda_model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x)])
    lambda_model.save(folder / "lambda.keras")
    with zipfile.ZipFile(folder / "seed.keras", "a") as archive:
        archive.writestr("facts.json", "{}")
    return [(folder / name).read_bytes() for name in ("seed.keras", "lambda.keras")]


def _keras_files(seeds: list[bytes]):
    """Archives whose parts are changed, not the packing."""
    from hypothesis import strategies as st

    members = st.sampled_from(["config.json", "model.weights.h5", "metadata.json"])
    return st.builds(_with_changed_member, st.sampled_from(seeds), members, st.integers(0, 2**32))


def _with_changed_member(archive: bytes, member: str, number: int) -> bytes:
    tokens = (b'"Lambda"', b'"keras.utils"', b'"os"', b'"system"', b'"builtins"', b'"eval"', b'"__lambda__"')
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(
                name, mutated([content], tokens, random.Random(number)) if name == member else content
            )
    return out.getvalue()


def _read_keras(path: Path):
    from rfd_tf.models.keras_file import facts_inside
    from zoo.sources import read_keras

    with contextlib.suppress(ValueError):
        facts_inside(path, "facts.json")
    return read_keras(path)


def _report_seeds(folder: Path) -> list[bytes]:
    return [json.dumps({"counters": {"bn1.num_batches_tracked": 7}}).encode()]


def _read_report(path: Path):
    from zoo.verification import recorded_counters

    return recorded_counters(path.with_name(path.name.removesuffix(".json")))


_TORCH_TOKENS = (b"cos\nsystem\n", b"cbuiltins\neval\n", b"R.", b"\x93", b"ctorch\nload\n")
READERS = {
    "torch_legacy": Reader(_legacy_seeds, _read_torch, (FormatError,), ".pth", _TORCH_TOKENS, _pickles),
    "torch_zip": Reader(_zip_seeds, _read_torch, (FormatError,), ".pth", _TORCH_TOKENS, _pickles),
    "caffemodel": Reader(_caffe_seeds, _read_caffe, (FormatError,), ".caffemodel"),
    "caffemodel_h5": Reader(_hdf5_seeds, _read_caffe, (FormatError,), ".caffemodel.h5"),
    "keras": Reader(_keras_seeds, _read_keras, (FormatError,), ".keras", (), _keras_files, True),
    "zoo_report": Reader(_report_seeds, _read_report, (ZooError,), ".keras.json"),
}
