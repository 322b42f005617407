"""JSON from elsewhere, which may be anything."""

import json
import math
import types
import typing
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """`json.loads`; whatever is wrong with the text is a ValueError, too deep a nesting as well."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is what a type hint says.

    Args:
        value: of `parse_json`.
        kind: str, bool, int, float (finite; whole numbers are welcome), list, tuple, dict, None, or lists,
            tuples, dicts and unions of these: `dict[str, list[float | None]]`. A list fits a tuple.
    """
    parts, origin = typing.get_args(kind), typing.get_origin(kind) or kind
    if origin is types.UnionType:
        return any(fits(value, part) for part in parts)
    if origin is types.NoneType:
        return value is None
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(fits(item, parts[0]) for item in value if parts)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, parts[1]) for item in value.values() if parts)
    if origin is float:
        return _is_number(value)
    return isinstance(value, origin) and (origin is bool or not isinstance(value, bool))


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False
