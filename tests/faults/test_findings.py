"""Inputs that once ended the process, hung, asked for terabytes, or raised what nobody was told of."""

import contextlib
import io
import json
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest

from tests.faults.readers import READERS
from tests.faults.readers.images import png
from tests.zoo.pickles import MAGIC, SYSTEM, legacy, mapping, text
from zoo.caffe import message_class

_DEEP = b"[" * 100_000
_DOUBLED = b")" + b"q\x00h\x00\x86" * 60  # a tuple of 2^60 tuples: printing it takes for ever


def _names_of_storages() -> bytes:
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1001, SYSTEM))
    return head + mapping({}) + b"\x80\x02]" + _DOUBLED + b"a."


def _mat(kind: int) -> bytes:
    """A MATLAB file whose numbers are of a kind that there is not."""
    flags = struct.pack("<4I", 6, 8, 6, 0)
    shape = struct.pack("<2I2i", 5, 8, 1, 4)
    name = struct.pack("<2I8s", 1, 5, b"boxes")
    numbers = struct.pack("<2I", kind, 32) + bytes(32)
    matrix = flags + shape + name + numbers
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s2I", 0x100, b"IM", 14, len(matrix)) + matrix


def _layer_without_a_name() -> bytes:
    layer = message_class("LayerParameter")()
    layer.blobs.add().data.extend([1.0, 2.0])
    content = b"\x0a\x04\xff\xfe\xfd\xfc" + layer.SerializeToString()  # the name, no UTF-8
    return b"\xa2\x06" + bytes([len(content)]) + content


def _npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(48)


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, np.zeros((3, 4), "float32"))
    return file.getvalue()


def _archive_of_the_future() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", "{}")
    return file.getvalue().replace(b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\x7f")


def _info(size: str, shape: str) -> bytes:
    recipe = f'{{"image_size": {size}, "train": "resize", "mean": [0, 0, 0], "std": [1, 1, 1]}}'
    return f'{{"format": 1, "name": "x", "preprocessing": {recipe}, "outputs": {{"x": {shape}}}}}'.encode()


def _tensor(**fields) -> bytes:
    from tensorflow.core.framework import tensor_pb2
    from tensorflow_serving.apis import predict_pb2

    tensor = tensor_pb2.TensorProto(dtype=fields.get("dtype", 1), float_val=[1.0])
    tensor.tensor_shape.dim.add(size=fields.get("size", 1))
    answer = predict_pb2.PredictResponse()
    answer.outputs["features"].CopyFrom(tensor)
    return answer.SerializeToString()


def _archive(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", content)
    return file.getvalue()


FINDINGS = [
    ("torch_legacy", legacy(b"\x80\x02" + _DOUBLED + text("x") + b"\x93.")),
    ("torch_legacy", _names_of_storages()),
    ("caffemodel", _layer_without_a_name()),
    ("zoo_report", b'{"counters": {"a": 1e999}}'),
    ("keras", b"\x89HDF\r\n\x1a\n" + bytes(100)),
    ("keras", _archive(bytes(10_000_000))),
    ("mat", _mat(0x109)),
    ("mat", _mat(200)),
    ("proposals_npy", _npz()),
    ("proposals_npy", _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 4)}\n")),
    ("proposals_npy", _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (((\n")),
    ("image_opencv", png(65_000, 65_000)),
    ("image_calibration", png(65_000, 65_000)),
    ("voc_results", b"000005 0.5 1 2 3 1e39\n"),
    ("history_csv", b"epoch,loss\n0,1,2\n"),
    ("history_csv", b"epoch,loss\n0,1\x00\n"),
    ("run_config", b"null"),
    ("run_config", b'{"epochs": 1, "data": 5}'),
    ("run_config", _DEEP),
    ("model_info", _DEEP),
    ("extraction_manifest", b'{"format": 1, "settings": null}'),
    ("feature_cache", b'{"key": null, "done": 2}'),
    ("feature_cache", b'{"key": {"model": "a", "outputs": ["x"]}, "done": 1e999}'),
    ("bad_pictures_json", b"[]"),
    ("bad_pictures_json", json.dumps({"listing": "0" * 64, "bad": [[[], "b", "damaged"]]}).encode()),
    ("training_checkpoint", b"\x89HDF\r\n\x1a\n" + bytes(200)),
    ("mega_answer", _DEEP),
    ("mega_answer", b'[{"s": false, "at": "AAAA", "g": "http://gfs.example/dl/x"}]'),
    ("mega_answer", b"9" * 5000),
    ("keras", _archive_of_the_future()),
    ("model_info", _info("NaN", "[8]")),
    ("model_info", _info("16", "[8, -1]")),
    ("http_head", b"302\nLocation: http:\x00\x80\xff/\n\n"),
    ("http_head", b"200\nContent-Length: \xb2\n\n"),
    ("http_head", b"200\nContent-Length: " + b"9" * 5000 + b"\n\n"),
    ("serving_rest", _DEEP),
    ("serving_rest", b'{"predictions": [' + b"9" * 400 + b"]}"),
    ("serving_rest", b'{"model_version_status": [{"version": Infinity, "state": "x"}]}'),
    ("serving_rest", json.dumps({"error": "assertion failed: [" * 500_000}).encode()),
    ("serving_grpc", _tensor(size=2**40)),
    ("serving_grpc", _tensor(dtype=77)),
]


@pytest.mark.parametrize(
    ("name", "content"), FINDINGS, ids=[f"{i}-{name}" for i, (name, _) in enumerate(FINDINGS)]
)
def test_it_is_refused_or_read_in_no_time(name, content, tmp_path, monkeypatch):
    import requests

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", requests.adapters.HTTPAdapter.send)  # put back
    reader = READERS[name]
    reader.seeds(tmp_path)
    path = tmp_path / f"input{reader.ending}"
    path.write_bytes(content)
    begun = time.process_time()
    with contextlib.suppress(*reader.expected):
        reader.read(path)
    assert time.process_time() - begun < 20


def test_a_result_of_other_types_is_no_result(tmp_path):
    reader = READERS["evaluation_json"]
    good = json.loads(reader.seeds(tmp_path)[0])
    figures = good["figures"]["conv5"]
    changes = [
        {"model": None},
        {"class_names": ["a"]},
        {"test_images": "4"},
        {"figures": {"a": figures | {"top1": []}}},
    ]
    changes += [{"figures": {"a": figures | {"confusion": [[1, None], [0, 2]]}}}, {"seconds": 10**400}]
    for change in changes:
        (tmp_path / "x.json").write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=r"x\.json: no result of an evaluation"):
            reader.read(tmp_path / "x.json")
