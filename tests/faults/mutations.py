"""Bytes that are nearly right."""

import random
import struct

_COUNTS = (1, 1, 1, 2, 4)
_NUMBERS = (0, 1, -1, 2**7, 2**15 - 1, 2**16 - 1, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**63 - 1)
_FORMATS = ("<H", ">H", "<I", ">I", "<Q", ">Q")
_TEXTS = (
    *(b"-1", b"0", b"1e999", b"-inf", b"NaN", b"nan", b"99999999999999999999", b"9" * 5000, b"1_0", b"0x10"),
    *(b"\xc2\xb2", b"\xd9\xa3", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x00", b"\r\n", b"\t", b'"'),
    *(b"[" * 3000, b"{", b"}", b"null", b"true", b"../../etc/passwd", b"/etc/passwd", b"%s%n", b"<", b"&x;"),
)


def mutated(seeds: list[bytes], tokens: tuple[bytes, ...], random_: random.Random) -> bytes:
    """One of `seeds`, changed in one to four places; now and then noise."""
    if random_.random() < 0.01:
        return random_.randbytes(random_.randrange(200))
    data = bytearray(random_.choice(seeds))
    for _ in range(random_.choice(_COUNTS)):
        random_.choice(_CHANGES)(data, seeds, tokens, random_)
    return bytes(data)


def _place(data: bytearray, random_: random.Random) -> int:
    """Anywhere, but headers matter more."""
    end = len(data) if random_.random() < 0.6 else min(len(data), 200)
    return random_.randrange(end) if end else 0


def _flip(data, seeds, tokens, random_):
    if data:
        data[_place(data, random_)] ^= 1 << random_.randrange(8)


def _byte(data, seeds, tokens, random_):
    if data:
        data[_place(data, random_)] = random_.choice((0, 1, 0x7F, 0x80, 0xFF, random_.randrange(256)))


def _number(data, seeds, tokens, random_):
    form, place = random_.choice(_FORMATS), _place(data, random_)
    size = struct.calcsize(form)
    data[place : place + size] = struct.pack(form, random_.choice(_NUMBERS) % 2 ** (8 * size))


def _text(data, seeds, tokens, random_):
    place = _place(data, random_)
    data[place : place + random_.choice((0, 0, 1, 4))] = random_.choice((*tokens, *_TEXTS))


def _cut(data, seeds, tokens, random_):
    del data[_place(data, random_) :]


def _delete(data, seeds, tokens, random_):
    place = _place(data, random_)
    del data[place : place + random_.choice((1, 2, 4, 8, 50))]


def _repeat(data, seeds, tokens, random_):
    start = _place(data, random_)
    part = data[start : start + random_.choice((1, 4, 16, 100))]
    place = _place(data, random_)
    data[place:place] = part * random_.choice((1, 2, 50))


def _splice(data, seeds, tokens, random_):
    """The beginning of this one, the end of another."""
    other = random_.choice(seeds)
    data[_place(data, random_) :] = other[_place(bytearray(other), random_) :]


def _digits(data, seeds, tokens, random_):
    """Another number in place of one that is written out."""
    digits = [place for place in range(min(len(data), 20_000)) if 48 <= data[place] < 58]
    if digits:
        start = random_.choice(digits)
        end = start
        while end < len(data) and 48 <= data[end] < 58:
            end += 1
        data[start:end] = random_.choice(_TEXTS[:12])


_CHANGES = (_flip, _flip, _byte, _byte, _number, _text, _text, _cut, _delete, _repeat, _splice, _digits)
