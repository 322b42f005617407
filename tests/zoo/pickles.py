"""Legacy checkpoints assembled opcode by opcode, to lie where PyTorch would not."""

import pickle
import struct

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "type_sizes": {}, "little_endian": True}


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(values) -> bytes:
    return b"(" + b"".join(integer(value) for value in values) + b"t"


def tensor(shape, *, strides=None, offset=0, key="0", stored=None, kind="FloatStorage") -> bytes:
    """Opcodes that rebuild a tensor over a storage of `stored` elements."""
    count = int(np.prod(shape))
    strides = strides if strides is not None else [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    storage = b"((" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
    storage += integer(count if stored is None else stored) + b"NtQ"
    rest = integer(offset) + numbers(shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)Rt"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + storage + rest + b"R"


def mapping(items: dict[str, bytes]) -> bytes:
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in items.items()) + b"u."


def legacy(content: bytes, storages=(), *, magic=MAGIC, protocol=1001, system=None, lengths=None) -> bytes:
    """A whole file of (key, array) `storages`; `lengths` is what their headers say instead of the truth."""
    head = b"".join(pickle.dumps(part, 2) for part in (magic, protocol, SYSTEM if system is None else system))
    body = pickle.dumps([key for key, _ in storages], 2)
    for index, (_, array) in enumerate(storages):
        length = array.size if lengths is None else lengths[index]
        body += struct.pack("<q", length) + array.tobytes()
    return head + content + body
