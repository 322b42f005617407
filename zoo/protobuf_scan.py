"""A look over a protobuf file before it is parsed: is it whole, and not made to swell in memory?"""

from collections.abc import Mapping

from zoo.errors import FormatError

# Field number -> the same for the fields inside that message.
Fields = Mapping[int, "Fields"]


def count_fields(data: memoryview, inside: Fields, limit: int) -> int:
    """How many fields the message has, counting inside the given messages as well.

    Args:
        data: the serialised message.
        inside: numbers of the fields to look into.
        limit: at most so many fields.

    Raises:
        FormatError: if a field runs past its message's end, is of no known kind, or there are too many.
    """
    position = count = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        size = 0
        if kind == 0:
            _, position = _varint(data, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        elif kind == 2:
            size, position = _varint(data, position)
        else:
            raise FormatError(f"is no Caffe network: wire type {kind} at byte {position}")
        if size > len(data) - position:
            raise FormatError(
                f"is cut short: field {number} announces {size} bytes, {len(data) - position} are left"
            )
        count += 1
        if kind == 2 and number in inside:
            count += count_fields(data[position : position + size], inside[number], limit - count)
        position += size
        if count > limit:
            raise FormatError("has far more fields than any network")
    return count


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise FormatError("is cut short within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise FormatError(f"has a number of more than 10 bytes before byte {position}")
