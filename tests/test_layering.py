"""Five layers: a file imports only from its own layer or lower ones, and nothing imports in a circle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Longest matching prefix decides.
LAYERS = {
    "rfd_tf": 0,
    "rfd_tf.configs": 0,
    "rfd_tf.layers": 1,
    "rfd_tf.losses": 1,
    "rfd_tf.optimizers": 1,
    "rfd_tf.metrics": 1,
    "rfd_tf.callbacks": 2,
    "rfd_tf.data": 1,
    "rfd_tf.models": 2,
    "rfd_tf.features": 2,
    "rfd_tf.beam": 2,
    "rfd_tf.runs": 3,
    "rfd_tf.evaluation": 3,
    "rfd_tf.detection": 3,
    "zoo": 3,
    "rfd_tf.exporting": 4,
    "rfd_tf.serving": 2,
    "rfd_tf.report": 4,
    "rfd_tf.cli": 4,
    "rfd_tf.api": 4,
}


def layer_of(module: str) -> int:
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if (layer := LAYERS.get(".".join(parts[:end]))) is not None:
            return layer
    raise KeyError(module)


def own_modules() -> dict[str, Path]:
    modules = {}
    for package in ("rfd_tf", "zoo", "configs"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if package == "configs":
                parts = ("rfd_tf", *parts)  # as it is imported
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


MODULES = own_modules()


def imports_of(path: Path) -> set[str]:
    """The modules of ours that a file imports, anywhere in it (lazy imports count too)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return {name for name in found if name in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_downwards(module):
    for imported in imports_of(MODULES[module]):
        assert layer_of(imported) <= layer_of(module), f"{module} imports {imported}"
        if imported.startswith("zoo") and not module.startswith("zoo"):
            assert module.startswith(("rfd_tf.cli", "rfd_tf.runs")), f"{module} imports {imported}"


def test_no_import_cycle():
    graph = {module: imports_of(path) - {module} for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module, trail):
        assert module not in trail, " -> ".join([*trail, module])
        if module not in done:
            for imported in sorted(graph[module]):
                visit(imported, [*trail, module])
            done.add(module)

    for module in graph:
        visit(module, [])
