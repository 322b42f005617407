"""Command lines in the documents and in the configs are such that the commands take them."""

import ast
import importlib
import re
import runpy
import shlex
from pathlib import Path

import pytest
import setuptools

from rfd_tf import cli
from rfd_tf.cli import command_line
from rfd_tf.cli.command_line import packaged_configs
from tests.docs.documents import DOCUMENTS, ROOT, name_of

PROGRAM = r"(?:[A-Z][A-Z_]*=\S+ +)*(?:rfd|make|python3?|pip|pytest)"
INLINE = re.compile(rf"`({PROGRAM} [^`]+)`")
FENCED = re.compile(r"(?ms)^```(\w*)\n(.*?)^```$")
INDENTED = re.compile(r"(?m)(?:^ {4,}.*\n?)+")
SHELL = ("", "sh", "bash", "shell", "console")
# What stands for a config, by command.
CONFIG_OF = {
    "train": "digits_lt",
    "rotations": "digits_lt",
    "evaluate": "evaluate_folder",
    "detect": "voc2007",
    "sweep": "long_tail_losses",
}
PLACEHOLDERS = ("NAME|FILE.py", "NAME", "FILE.py", "...")


def commands_of(document: Path) -> list[tuple[str, bool]]:
    """(command line, whether it stands alone and so must be whole) of a document."""
    text = document.read_text(encoding="utf-8")
    if document.suffix == ".py":
        text = ast.get_docstring(ast.parse(text), clean=True) or ""
        text = "\n".join(f"    {line}" if line.startswith("rfd ") else line for line in text.splitlines())
    blocks = [block for language, block in FENCED.findall(text) if language in SHELL]
    blocks += INDENTED.findall(FENCED.sub("", text))
    alone = [command for block in blocks for command in _whole_commands(block)]
    return [(command, True) for command in alone] + [(command, False) for command in INLINE.findall(text)]


def _whole_commands(block: str):
    """The command lines of a block, each with the lines that it goes on in."""
    lines = iter(block.splitlines())
    for line in lines:
        command = line.strip().removeprefix("$ ")
        if re.match(rf"{PROGRAM} ", command):
            while command.endswith("\\") or command.split("  # ")[0].count('"') % 2:
                command += f"\n{next(lines)}"
            yield command


def words_of(command: str) -> list[str]:
    """As a shell splits it, with optional parts taken, and without placeholders for more flags."""
    command = re.sub(r"\\\n\s*", " ", command)
    command = re.sub(r"\[(--(?:[^\[\]]|\[[^\]]*\])*)\]", r"\1", command)
    words = shlex.split(command, comments=True)
    dropped = ("--config.FIELD=VALUE", "...")
    return [word for word in words if word not in dropped and not word.startswith("$")]


def problem_with(command: str, whole: bool, monkeypatch) -> str | None:
    words = words_of(command)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    program, rest = words[0], words[1:]
    if program == "rfd":
        return _rfd(rest, whole, monkeypatch)
    if program == "make":
        targets = re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text())
        return None if rest[0] in targets else f"no target {rest[0]}"
    if program == "pip":
        extras = {
            extra for word in rest for found in re.findall(r"\[(.*)\]", word) for extra in found.split(",")
        }
        return f"no extra {extras - _extras()}" if extras - _extras() else None
    if program == "pytest":
        missing = [word for word in rest if word.startswith("tests/") and not (ROOT / word).exists()]
        return f"no {missing}" if missing else None
    return _python(rest)


def _rfd(words: list[str], whole: bool, monkeypatch) -> str | None:
    name, *arguments = words
    if name not in cli.COMMANDS:
        return None if name in ("COMMAND", "--help") else f"no command {name}"
    if not arguments:
        return None
    arguments = [_filled(name, argument) for argument in arguments]
    ended = []
    parse = command_line.parse

    def parsed(*given):
        status = parse(*given)
        if status is None and not whole:
            return 0  # a part of a command line: its flags are right
        return status

    monkeypatch.setattr(command_line, "parse", parsed)
    monkeypatch.setattr(command_line, "run", lambda *_: 0)
    monkeypatch.setattr(
        command_line, "fail", lambda program, error, status=2: ended.append(str(error)) or status
    )
    module = importlib.import_module(f"rfd_tf.cli.{name}")
    if hasattr(module, "_default_workdir"):
        monkeypatch.setattr(module, "_default_workdir", lambda given: Path("run"))
    status = cli.main(["rfd", name, *arguments])
    monkeypatch.undo()
    return None if status == 0 else f"status {status}: {ended}"


def _filled(command: str, argument: str) -> str:
    flag, _, value = argument.partition("=")
    if flag == "--config" and value in PLACEHOLDERS:
        return f"--config={CONFIG_OF[command]}"
    if flag == "--out" and "|" in value:
        return f"--out={value.partition('|')[0]}"
    seed = "--config.seed=" in argument and value == "SEED"
    return (
        argument.replace("PROTOCOL", "knn").replace("SEED", "0") if seed or value == "PROTOCOL" else argument
    )


def _python(words: list[str]) -> str | None:
    if words[0] == "-c":
        compile(words[1], "command", "exec")
        return None
    if words[0] != "-m":
        return None if (ROOT / words[0]).exists() or words[0].isidentifier() else f"no file {words[0]}"
    if importlib.util.find_spec(words[1]) is None:
        return f"no module {words[1]}"
    spec = importlib.util.find_spec(words[1])
    path = (
        Path(spec.submodule_search_locations[0]) / "__main__.py"
        if spec.submodule_search_locations
        else Path(spec.origin)
    )
    source = path.read_text(encoding="utf-8")
    flags = [word.partition("=")[0] for word in words[2:] if word.startswith("--")]
    unknown = [flag for flag in flags if f'"{flag}"' not in source and f'"{flag[2:]}"' not in source]
    return f"{words[1]} has no {unknown}" if unknown else None


def _extras() -> set[str]:
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **options: given.update(options))
        runpy.run_path(str(ROOT / "setup.py"))
    return set(given["extras_require"])


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, *packaged_configs().values()], ids=lambda path: name_of(path)
)
def test_command_lines_are_taken(document, monkeypatch, capsys):
    problems = []
    for command, whole in commands_of(document):
        if problem := problem_with(command, whole, monkeypatch):
            problems.append(f"{command}: {problem}")
    assert not problems, "\n".join(problems)


def test_command_lines_are_found():
    found = [command for document in DOCUMENTS for command, _ in commands_of(document)]
    assert len(found) > 150
    assert len([command for command in found if "\n" in command]) > 10  # of several lines


def test_mistakes_are_found(monkeypatch, capsys):
    for command, told in (
        ("rfd train --config=digits_lt --workdr=x", "workdr"),
        ("rfd train --config=digits_lt --workdir=x --config.batch_sise=3", "batch_size"),
        ("rfd train --config=digits_lt", "--workdir is needed"),
        ("rfd evaluate --model=RUN --protocol=knm --config=evaluate_folder", "knm"),
        ("rfd zoo convert NAME", "--out"),
        ("rfd trian", "no command trian"),
        ("make tests", "no target tests"),
        ("pip install '.[onxx]'", "onxx"),
        ("python -m benchmarks.nothing", "no module"),
        ("python -m benchmarks.detection --groth=3", "--groth"),
        ("python benchmarks/nothing.py", "no file"),
    ):
        assert told in (problem_with(command, True, monkeypatch) or "")
