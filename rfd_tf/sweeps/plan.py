"""What a sweep shall run, from its config."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

_OWN = ("seeds", "variants")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One variant with one seed.

    Attributes:
        variant: its name.
        seed: of the run.
        folder: where it works; `{dir}` of the commands.
        commands: argument lists of `rfd`, to be run one after another.
    """

    variant: str
    seed: int
    folder: Path
    commands: tuple[tuple[str, ...], ...]


def make_plan(config: ConfigDict, workdir: Path) -> list[Cell]:
    """The cells of a sweep, all variants of the first seed first: stopped early, it can be compared.

    Args:
        config: see `configs/sweeps/`: `seeds`, a tuple of integers, and `variants`, name -> tuple of command
            lines, as typed in a shell, without their `rfd`. Every other field can stand in a line as
            `{field}`, besides `{seed}` and `{dir}`, the folder of the cell.
        workdir: the sweep's folder.

    Raises:
        ValueError: if there is nothing to run, a name is no folder's, a seed comes twice, or a command line
            cannot be read or uses an unknown field.
    """
    seeds = tuple(config.seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"`seeds` must be different integers, one at least. Received: {seeds}")
    variants = config.variants.to_dict()
    if not variants:
        raise ValueError("`variants` is empty")
    fields = {name: value for name, value in config.items() if name not in _OWN}
    return [_cell(name, lines, seed, workdir, fields) for seed in seeds for name, lines in variants.items()]


def _cell(name: str, lines, seed: int, workdir: Path, fields: Mapping[str, object]) -> Cell:
    if not name or "/" in name:
        raise ValueError(f"`variants`: a name must do for a folder. Received: {name!r}")
    folder = workdir / name / f"seed-{seed}"
    known = {**fields, "seed": seed, "dir": shlex.quote(str(folder))}
    if isinstance(lines, str) or not lines:
        raise ValueError(f"`variants`: {name} must be a tuple of command lines. Received: {lines!r}")
    return Cell(name, seed, folder, tuple(_arguments(name, line, known) for line in lines))


def _arguments(name: str, line: str, known: Mapping[str, object]) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(line.format_map(known)))
    except KeyError as error:
        raise ValueError(f"`variants`: {name} uses {{{error.args[0]}}}, which is no field: {line}") from None
    except (ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"`variants`: {name} has an unreadable command line ({error}): {line}") from None
