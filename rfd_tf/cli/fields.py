"""A config's fields as flags: their list for `--help`, with the files' comments; the nearest to a name."""

import ast
import difflib
import io
import shutil
import textwrap
import tokenize
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

_NOTES_COLUMN = 40
_WIDEST = 110


def field_names(config: ConfigDict) -> list[str]:
    """The dotted names of all fields, those of sections last."""
    names: list[str] = []
    of_sections: list[str] = []
    for name in config:
        inner = field_names(config[name]) if isinstance(config[name], ConfigDict) else []
        names += [] if inner else [name]
        of_sections += [f"{name}.{field}" for field in inner]
    return names + of_sections


def nearest_field(config: ConfigDict, name: str) -> str | None:
    """The field that `name` may stand for; None where none is near."""
    names = field_names(config)
    beginning = [field for field in names if name.startswith(f"{field}.")]
    elsewhere = [field for field in names if field.rpartition(".")[2] == name.rpartition(".")[2]]
    alike = difflib.get_close_matches(name, elsewhere, 1, 0.0)
    near = difflib.get_close_matches(name, names, 1, 0.75)
    return next(iter([*beginning, *alike, *near]), None)


def field_list(config: ConfigDict, notes: dict[str, str]) -> str:
    """Every field as the flag that sets it, with its value and its note, as wide as the terminal."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    lines, section = [], ""
    for name in field_names(config):
        if (its_section := name.rpartition(".")[0]) != section:
            section = its_section
            about = f"{section}: {notes[section]}" if section in notes else ""
            lines += ["", *_wrapped(about, "  ", width)]
        value = config
        for part in name.split("."):
            value = value[part]
        flag = f"  --config.{name}={value if isinstance(value, str) else repr(value)}"
        note = _wrapped(notes.get(name, ""), " " * _NOTES_COLUMN, width)
        if note and len(flag) + 2 <= _NOTES_COLUMN:
            note[0] = flag.ljust(_NOTES_COLUMN) + note[0].lstrip()
        else:
            note = [*_wrapped(flag.strip(), "  ", width, "      "), *note]
        lines += note
    return "\n".join(lines)


def _wrapped(text: str, indent: str, width: int, further: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent if further is None else further,
        break_on_hyphens=False,
    )


def field_notes(base: Sequence[Path], chosen: Path) -> dict[str, str]:
    """The comments of config files by the field or section that they are about.

    A comment is about the field that it follows on its line, else about the one below.

    Args:
        base: the files that define the fields; a later one's comments go before an earlier one's.
        chosen: the config itself, which is asked about fields that these say nothing of.
    """
    functions: dict[str, dict[str, str]] = {}
    found: dict[str, str] = {}
    for file in base:
        found |= _Notes(file.read_text(encoding="utf-8"), functions).of("get_config")
    return _Notes(chosen.read_text(encoding="utf-8"), functions).of("get_config") | found


class _Notes:
    """The comments of one file; `functions` keeps those of functions that make a section, for other files."""

    def __init__(self, text: str, functions: dict[str, dict[str, str]]):
        self.comments: dict[int, str] = {}
        self.code: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                self.comments[token.start[0]] = token.string.lstrip("# ")
            elif token.string.strip():
                self.code.update(range(token.start[0], token.end[0] + 1))
        functions_here = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
        self.definitions = {node.name: node for node in functions_here}
        self.functions = functions
        for name in self.definitions.keys() - {"get_config"}:
            functions[name] = self.of(name)

    def of(self, function: str) -> dict[str, str]:
        """Those of the config that a function returns."""
        found: dict[str, str] = {}
        if (definition := self.definitions.get(function)) is None:
            return found
        paths: dict[str, str] = {}  # of the names of variables
        for node in ast.walk(definition):
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Name):
                paths[node.value.id] = ""
        for node in definition.body:
            if isinstance(node, ast.Return):
                found |= self._of_value(node.value, "", node)
            elif isinstance(node, ast.Assign):
                dotted = [
                    _dotted(target, paths) for target in node.targets if isinstance(target, ast.Attribute)
                ]
                for path in filter(None, dotted):
                    found |= self._of_value(node.value, path, node)
                    aliases = [target.id for target in node.targets if isinstance(target, ast.Name)]
                    paths |= dict.fromkeys(aliases, path)  # config.data = data = ...
        return found

    def _of_value(self, value, path: str, node) -> dict[str, str]:
        inner: dict[str, str] = {}
        called = value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else ""
        if called == "ConfigDict" and value.args and isinstance(value.args[0], ast.Dict):
            for key, field in zip(value.args[0].keys, value.args[0].values, strict=True):
                # On one line with its section, the comment is the section's.
                if isinstance(key, ast.Constant) and key.lineno > node.lineno:
                    inner |= self._of_value(field, f"{path}.{key.value!s}".lstrip("."), key)
        elif called in self.functions:
            inner = {f"{path}.{name}".lstrip("."): note for name, note in self.functions[called].items()}
        note = self._about(node.lineno, getattr(value, "end_lineno", node.lineno))
        return {path: note, **inner} if note and path else inner

    def _about(self, first: int, last: int) -> str:
        if last in self.comments and last in self.code:
            return self.comments[last]
        if first in self.comments:
            return self.comments[first]
        above = first - 1
        while above in self.comments and above not in self.code:
            above -= 1
        return " ".join(self.comments[line] for line in range(above + 1, first))


def _dotted(node, paths: dict[str, str]) -> str | None:
    """`config.data.split` as `data.split`, by what the names stand for."""
    if isinstance(node, ast.Name):
        return paths.get(node.id)
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value, paths)) is not None:
        return f"{before}.{node.attr}".lstrip(".")
    return None
