"""What servers answer: MEGA, web sites, TensorFlow Serving."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np

from tests.faults.fuzzing import Reader
from tests.faults.readers.json_documents import changed_documents

_LINK = "https://mega.nz/file/Wmh3TEST#" + "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"


def _zoo_errors() -> tuple[type[Exception], ...]:
    from zoo.errors import DownloadError

    return (DownloadError,)


def _links(folder: Path) -> list[bytes]:
    from tests.zoo.mega_server import MegaServer, _base64

    server = MegaServer(b"content")
    return [server.link(new=True).encode(), server.link().encode(), _base64(server.attributes).encode()]


def _link(path: Path):
    """A link, or a file's encrypted attributes."""
    from tests.zoo.mega_server import MegaServer
    from zoo.mega import MegaLink, file_name

    text = path.read_bytes().decode("utf-8", "replace")
    if "/" in text:
        return MegaLink.parse(text)
    return file_name(MegaLink.parse(MegaServer(b"content").link()), text)


def _mega_seeds(folder: Path) -> list[bytes]:
    answers = [[{"s": 100, "at": "AAAA", "g": "http://gfs.example/dl/x"}], [-9], -3, [{"e": -17}], {"e": -4}]
    return [json.dumps(answer).encode() for answer in answers]


def _mega(path: Path):
    """The API's answer, and a request to the address in it."""
    import requests

    from zoo.mega import MegaLink, locate

    _answer_with(200, path.read_bytes(), {})
    found = locate(MegaLink.parse(_LINK), "http://127.0.0.1/cs", timeout=1)
    assert type(found.size) is int
    requests.Request("GET", found.url)


def _answer_with(status: int, body: bytes, headers: dict[str, str]) -> None:
    """From now on every request of this process gets this answer; none leaves it."""
    import requests
    import urllib3

    def send(self, request, **_):
        raw = urllib3.HTTPResponse(io.BytesIO(body), headers, status, preload_content=False)
        return self.build_response(request, raw)

    requests.adapters.HTTPAdapter.send = send


def _head_seeds(folder: Path) -> list[bytes]:
    heads = [
        '200\nContent-Length: 4\nETag: "v1"\n\nabcd',
        "206\nContent-Range: bytes 4-7/8\nContent-Length: 4\nLast-Modified: x\n\nabcd",
        "200\nTransfer-Encoding: chunked\n\nabcd",
        "302\nLocation: http://127.0.0.1/y\n\n",
        "416\n\n",
    ]
    return [head.encode() for head in heads]


def _download(path: Path):
    """Status and headers of a web site, for a download that has begun."""
    from zoo.downloader import Network, stream_to

    head, _, body = path.read_bytes().decode("latin-1").partition("\n\n")
    status, *lines = head.split("\n")
    headers = dict(line.partition(": ")[::2] for line in lines if line)
    code = int(status) if status.isascii() and status.isdecimal() and len(status) == 3 else 200
    _answer_with(code, body.encode("latin-1"), headers)
    part = path.with_name("part")
    part.write_bytes(b"1234")
    stream_to(part, "http://127.0.0.1/x", Network(progress=False), validator_file=path.with_name("validator"))


def _rest_seeds(folder: Path) -> list[bytes]:
    info = {"preprocessing": {"image_size": 4}, "outputs": {"features": [3]}, "input": "normalized"}
    answers = [
        {"predictions": [json.dumps(info)]},
        {"predictions": [[0.5, 1.0, 2.0]]},
        {"predictions": [{"features": [1, 2, 3], "json": json.dumps(info)}]},
        {"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {}}]},
        {"error": "assertion failed: [image 0: damaged] [[{{node x}}]]"},
    ]
    return [json.dumps(answer).encode() for answer in answers]


def _rest(path: Path):
    """Every question of a client, all answered with the same bytes, as success and as an error."""
    from rfd_tf.serving import ServingClient, ServingError

    if not hasattr(_rest, "client"):
        _rest.client = ServingClient("http://127.0.0.1:1/m", retries=0)
    _answer_with(400, path.read_bytes(), {})
    with contextlib.suppress(ServingError):
        _rest.client.status()
        raise AssertionError("HTTP 400 is an error")
    _answer_with(200, path.read_bytes(), {})
    return _ask_everything(_rest.client) or _fail()


def _ask_everything(client) -> list:
    """The answers to those questions that did not end in a ServingError."""
    from rfd_tf.serving import ServingError
    from rfd_tf.serving.client import ServedModel

    client._model, answers = None, []
    for ask in (
        client.about,
        client.status,
        lambda: client.features(_IMAGES),
        lambda: client.ready() or _fail(),
    ):
        with contextlib.suppress(ServingError):
            answers.append(ask())
        client._model = ServedModel({"json": np.array(json.dumps(_FACTS))}, "here")
    return answers


def _fail():
    from rfd_tf.serving import ServingError

    raise ServingError("nothing was answered")


_FACTS = {"preprocessing": {"image_size": 4}, "outputs": {"features": [3]}, "input": "normalized"}
_IMAGES = np.zeros((1, 4, 4, 3), "float32")


def _grpc_seeds(folder: Path) -> list[bytes]:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    seeds = []
    for name, value in (
        ("features", np.ones((1, 3), "float32")),
        ("json", np.array([json.dumps(_FACTS).encode()])),
    ):
        answer = predict_pb2.PredictResponse()
        answer.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        seeds.append(answer.SerializeToString())
    wide = predict_pb2.PredictResponse()
    wide.outputs["features"].CopyFrom(tf.make_tensor_proto([1.0]))
    wide.outputs["features"].tensor_shape.dim[0].size = 2**40
    return [*seeds, wide.SerializeToString()]


def _protos(seeds: list[bytes]):
    """Tensors whose parts do not fit."""
    from hypothesis import strategies as st
    from tensorflow.core.framework import tensor_pb2
    from tensorflow_serving.apis import predict_pb2

    sizes = st.sampled_from([-1, 0, 1, 3, 2**20, 2**31, 2**40, 2**62])

    def answer(name, dtype, shape, content, floats, strings, unknown):
        tensor = tensor_pb2.TensorProto(
            dtype=dtype, tensor_content=content, float_val=floats, string_val=strings
        )
        for size in shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_shape.unknown_rank = unknown
        found = predict_pb2.PredictResponse()
        found.outputs[name].CopyFrom(tensor)
        return found.SerializeToString()

    return st.builds(
        answer,
        st.sampled_from(["features", "json", "x"]),
        st.integers(0, 30),
        st.lists(sizes, max_size=4),
        st.binary(max_size=24),
        st.lists(st.floats(width=32), max_size=4),
        st.lists(st.sampled_from([b"", b"{}", b"[" * 5000, json.dumps(_FACTS).encode()]), max_size=3),
        st.booleans(),
    )


def _grpc(path: Path):
    """Predict and GetModelStatus, answered by these bytes as the channel parses them."""
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

    from rfd_tf.serving import ServingClient

    try:
        predicted = predict_pb2.PredictResponse.FromString(path.read_bytes())
        statuses = get_model_status_pb2.GetModelStatusResponse.FromString(path.read_bytes())
    except DecodeError:  # which gRPC tells as an error of its own
        return _fail()
    if not hasattr(_grpc, "client"):
        _grpc.client = ServingClient("grpc://127.0.0.1:1/m", retries=0)
    _grpc.client._transport._prediction.Predict = lambda *_, **__: predicted
    _grpc.client._transport._model.GetModelStatus = lambda *_, **__: statuses
    return _ask_everything(_grpc.client) or _fail()


def _serving_errors() -> tuple[type[Exception], ...]:
    from rfd_tf.serving import ServingError

    return (ServingError,)


READERS = {
    "mega_link": Reader(_links, _link, _zoo_errors(), "", (b"mega.nz", b"#!", b"=", "²".encode())),
    "mega_answer": Reader(_mega_seeds, _mega, _zoo_errors(), "", (), changed_documents),
    "http_head": Reader(
        _head_seeds,
        _download,
        _zoo_errors(),
        "",
        (
            b"Content-Length: ",
            b"bytes ",
            b"\xb2",
            b"Content-Range: bytes 4-4/",
            b"Location: file:///etc/passwd",
        ),
    ),
    "serving_rest": Reader(
        _rest_seeds, _rest, _serving_errors(), "", (b"Infinity", b"NaN"), changed_documents
    ),
    "serving_grpc": Reader(_grpc_seeds, _grpc, _serving_errors(), "", (), _protos, frameworks=True),
}
