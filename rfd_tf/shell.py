"""Command lines as one would type them."""

import shlex
from collections.abc import Sequence

_SPECIAL_IN_DOUBLE_QUOTES = '"$`\\!'


def shell_join(arguments: Sequence[str]) -> str:
    """`shlex.join`, but with double quotes around what holds single ones, where that means the same."""
    return " ".join(map(_quoted, arguments))


def _quoted(argument: str) -> str:
    if "'" in argument and not any(character in argument for character in _SPECIAL_IN_DOUBLE_QUOTES):
        return f'"{argument}"'
    return shlex.quote(argument)
