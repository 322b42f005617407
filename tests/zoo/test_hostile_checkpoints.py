"""Files that lie, are cut short, or want to run something: refused, naming the problem, nothing written."""

import contextlib
import io
import os
import pickle
import tarfile
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

import zoo
from tests.zoo.pickles import integer, legacy, mapping, numbers, tensor, text
from tests.zoo.released import resnet_state, save_torch
from zoo.conversion import convert
from zoo.torch_checkpoint import read_state_dict

ONES = np.ones(4, "float32")


class Command:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def archive(content: bytes, members: dict[str, bytes], compression=zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("x/data.pkl", content)
        for name, data in members.items():
            file.writestr(f"x/{name}", data)
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


def laughs() -> bytes:
    """A tuple doubled 60 times, as a dict key: to hash it would take for ever."""
    return b"\x80\x02}(" + b")" + b"q\x00h\x00\x86" * 60 + b"Nu."


HOSTILE = {
    "command": (legacy(pickle.dumps({"network": Command()}, 2)), r"'network' is a (posix|nt)\.system"),
    "command in the magic": (pickle.dumps(Command(), 2), r"wrong magic <unread (posix|nt)\.system>"),
    "command in a zip": (archive(pickle.dumps(Command(), 2), {}), r"not read.*: (posix|nt)\.system"),
    "command, protocol 4": (archive(pickle.dumps(Command(), 4), {}), r"not read.*: (posix|nt)\.system"),
    "command among weights": (
        legacy(pickle.dumps({"state_dict": {"conv1.weight": Command()}}, 2)),
        r"'conv1.weight' is a (posix|nt)\.system, where a state dict has tensors",
    ),
    "command as a state dict": (
        legacy(b"\x80\x02ccollections\nOrderedDict\n(cos\nsystem\n" + text("touch pwned") + b"\x85RtR."),
        r"not read.*: os\.system",
    ),
    "eval": (legacy(b"\x80\x02cbuiltins\neval\n(" + text("1") + b"tR."), r"not read.*: builtins\.eval"),
    "attribute of a known name": (legacy(b"\x80\x02ctorch\nload\n)R."), r"not read.*: torch\.load"),
    "calls a tensor type": (legacy(b"\x80\x02ctorch\nFloatStorage\n)R."), "not on the list"),
    "calls a string": (legacy(b"\x80\x02" + text("x") + b")R."), "not on the list"),
    "instance opcode": (legacy(b"\x80\x02(" + text("touch pwned") + b"ios\nsystem\n."), r"not read.*: os\.s"),
    "object opcode": (legacy(b"\x80\x02(cos\nsystem\n" + text("touch pwned") + b"o."), r"not read.*: os\.s"),
    "new object": (legacy(b"\x80\x02cos\nsystem\n" + text("touch pwned") + b"\x85\x81."), r"read.*: os\.s"),
    "state set": (legacy(b"\x80\x02cos\nsystem\n" + mapping({"x": b"N"})[2:-1] + b"b."), r"read.*: os\.s"),
    "state set on a list": (legacy(b"\x80\x02]}b."), "fills a list as a dict"),
    "known function on no tuple": (legacy(b"\x80\x02ccollections\nOrderedDict\n]R."), "that are not a tuple"),
    "storage of a type made up": (
        legacy(mapping({"x": tensor([4], kind="OddStorage")}), [("0", ONES)]),
        "unknown type 'torch.OddStorage'",
    ),
    "tensor of a type made up": (
        archive(mapping({"x": tensor([4], kind="OddStorage")}), {"data/0": bytes(16)}),
        "'x' is a torch.OddStorage, where",
    ),
    "names that fill the memory": (
        legacy(b"\x80\x02c" + b"x" * 60_000 + b"\nx\nq\x00" + b"h\x00)R" * 100_000 + b"."),
        r"not read.*xxx\.\.\.",
    ),
    "extension": (legacy(b"\x80\x02\x82\x01."), "uses EXT1"),
    "empty": (b"", "it starts with b''"),
    "web page": (b"<!DOCTYPE html><html>over quota</html>", "no PyTorch checkpoint"),
    "tar": (tar(), "no PyTorch checkpoint"),
    "wrong magic": (legacy(mapping({}), magic=12345), "wrong magic 12345"),
    "wrong protocol": (legacy(mapping({}), protocol=7), "of protocol 7"),
    "big endian": (legacy(mapping({}), system={"little_endian": False}), "little-endian"),
    "string of 2**60 bytes": (legacy(b"\x80\x04\x8d" + (1 << 60).to_bytes(8, "little") + b"a."), "damaged"),
    "bytes of 2**60 bytes": (legacy(b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"a."), "damaged"),
    "integer of 2**31 bytes": (legacy(b"\x80\x02\x8b\xff\xff\xff\x7f1."), "damaged"),
    "long integer": (legacy(b"\x80\x02\x8a\xff" + b"\x01" * 255 + b"."), "integer of 2033 bits"),
    "stack underflow": (legacy(b"\x80\x02R."), "damaged"),
    "memo without entry": (legacy(b"\x80\x02h\x09."), "damaged"),
    "unknown opcode": (legacy(b"\x80\x02\xff."), "damaged"),
    "doubling tuples": (legacy(laughs()), "is a NoneType, where a state dict has tensors"),
    "a list as a key": (legacy(b"\x80\x02}]Ns."), "dict key of type list"),
    "deep nesting": (legacy(b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b"."), "nests its containers"),
    "lying storage size": (
        legacy(mapping({"x": tensor([4], stored=2**40)}), [("0", ONES)], lengths=[2**40]),
        "cut short within its storage",
    ),
    "two sizes": (
        legacy(mapping({"x": tensor([4])}), [("0", ONES)], lengths=[3]),
        "3 elements where 4 were announced",
    ),
    "negative size": (
        legacy(mapping({"x": tensor([4], stored=-4)}), [("0", ONES)]),
        "impossible storage size",
    ),
    "huge size": (
        legacy(mapping({"x": tensor([4], stored=2**62)}), [("0", ONES)]),
        "impossible storage size",
    ),
    "tensor beyond its storage": (
        legacy(mapping({"x": tensor([5], stored=4)}), [("0", ONES)]),
        "does not fit",
    ),
    "offset beyond its storage": (
        legacy(mapping({"x": tensor([4], offset=1)}), [("0", ONES)]),
        "does not fit",
    ),
    "expanded tensor": (
        legacy(mapping({"x": tensor([2**20, 2**20], strides=[0, 0], stored=4)}), [("0", ONES)]),
        "does not fit",
    ),
    "negative stride": (
        legacy(mapping({"x": tensor([4], strides=[-1])}), [("0", ONES)]),
        "impossible stride",
    ),
    "negative dimension": (
        legacy(mapping({"x": tensor([-4], stored=4)}), [("0", ONES)]),
        "impossible tensor size",
    ),
    "strides that do not match": (
        legacy(mapping({"x": tensor([4], strides=[1, 1])}), [("0", ONES)]),
        "malformed shape",
    ),
    "storage described twice": (
        legacy(mapping({"x": tensor([4]), "y": tensor([2], kind="HalfStorage")}), [("0", ONES)]),
        "in two ways",
    ),
    "storage that is not listed": (legacy(mapping({"x": tensor([4])})), "list of storages"),
    "storage that nobody needs": (legacy(mapping({"x": tensor([4])}), [("0", ONES), ("1", ONES)]), "list of"),
    "persistent id of another kind": (legacy(b"\x80\x02" + numbers([1, 2]) + b"Q."), "is not a storage"),
    "tensor of no storage": (
        legacy(b"\x80\x02ctorch._utils\n_rebuild_tensor\n(" + integer(1) * 4 + b"tR."),
        "is not a storage",
    ),
    "trailing bytes": (legacy(mapping({"x": tensor([4])}), [("0", ONES)]) + b"more", "4 bytes behind"),
    "zip without data.pkl": (archive(b"", {}).replace(b"data.pkl", b"daXa.pkl"), "0 data.pkl"),
    "zip with two": (archive(b"", {"data.pkX": b""}).replace(b"x/data.pkX", b"y/data.pkl"), "2 data.pkl"),
    "zip without its storage": (archive(mapping({"x": tensor([4])}), {}), r"lacks its member 'x/data/0'"),
    "zip with a short storage": (
        archive(mapping({"x": tensor([4])}), {"data/0": b"1234"}),
        "4 bytes where 16 were announced",
    ),
    "zip bomb": (
        archive(mapping({"x": tensor([2**24])}), {"data/0": bytes(2**26)}, zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
    "zip, big endian": (archive(mapping({}), {"byteorder": b"big"}), "byteorder"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(case, tmp_path, monkeypatch):
    content, message = HOSTILE[case]
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "hostile.pth"
    source.write_bytes(content)
    start = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(zoo.FormatError, match=message) as caught:
            convert("cifar_resnet20", source, tmp_path / "out" / "x.keras")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(str(source))
    assert {path.name for path in tmp_path.iterdir()} == {"hostile.pth"}
    assert peak < 20e6 + len(content)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("legacy_format", [True, False], ids=["legacy", "zip"])
def test_truncation_anywhere(tmp_path, legacy_format):
    state = resnet_state()
    save_torch(tmp_path / "whole.th", state, legacy=legacy_format)
    data = (tmp_path / "whole.th").read_bytes()
    cut = tmp_path / "cut.th"
    near_ends = [*range(0, 400, 7), *range(len(data) - 200, len(data), 11)]
    for length in [*near_ends, *range(400, len(data) - 200, len(data) // 150)]:
        cut.write_bytes(data[:length])
        with pytest.raises(zoo.FormatError, match=r"cut\.th: "):
            read_state_dict(cut)


@pytest.mark.parametrize("legacy_format", [True, False], ids=["legacy", "zip"])
def test_damage_anywhere_never_escapes(tmp_path, legacy_format):
    """One byte changed: either still a state dict, or a FormatError; never another exception."""
    state = {"a": np.ones(3, "float32"), "b": np.ones((2, 2), "float32")}
    save_torch(tmp_path / "whole.th", state, legacy=legacy_format)
    data = bytearray((tmp_path / "whole.th").read_bytes())
    rng = np.random.default_rng(0)
    damaged = tmp_path / "damaged.th"
    for position in range(len(data)):
        changed = data.copy()
        changed[position] = rng.integers(256)
        damaged.write_bytes(changed)
        with contextlib.suppress(zoo.FormatError):
            read_state_dict(damaged)


def edited(change) -> dict:
    state = resnet_state()
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("bn1.weight"), r"The file lacks \(1\): bn1.weight"),
        (lambda s: s.update(extra=ONES), r"has no place for \(1\): extra"),
        (
            lambda s: s.update({"bn1.weight": ONES}),
            r"'bn1.weight' has shape \(4,\), the network needs \(16,\)",
        ),
        (lambda s: s["bn1.bias"].__setitem__(3, np.nan), "'bn1.bias' has values that are NaN"),
        (lambda s: s["conv1.weight"].__setitem__((0, 0, 0, 0), np.inf), "'conv1.weight' has values"),
        (lambda s: s.update({"bn1.weight": np.ones(16, "int64")}), "is of type int64"),
        (lambda s: s.update({"bn1.weight": np.full(16, 1e300)}), "beyond float32"),
        (lambda s: s.update({"bn1.num_batches_tracked": ONES}), "must be one integer"),
        (lambda s: s["bn1.running_var"].fill(-1.0), "differs from its source by more than"),
    ],
    ids=["missing", "extra", "shape", "nan", "inf", "integer", "overflow", "counter", "negative variance"],
)
def test_weights_that_do_not_fit(tmp_path, change, message):
    source = tmp_path / "x.pth"
    save_torch(source, edited(change))
    with pytest.raises(zoo.ZooError, match=message):
        convert("cifar_resnet20", source, tmp_path / "x.keras")
    assert {path.name for path in tmp_path.iterdir()} == {"x.pth"}
