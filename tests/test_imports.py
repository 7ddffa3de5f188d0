"""The import graph flows one way, and the commands answer before torch is imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(p for folder in ("models", "utils") for p in (ROOT / folder).rglob("*.py")) + sorted(ROOT.glob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(f) for f in FILES}


def imported(file: Path, *, everywhere: bool) -> Iterator[str]:
    """Project modules that a file imports at its top, or anywhere; not those for type checking only."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in NAMES)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in NAMES:
                    yield inner
                elif node.module in NAMES:
                    yield node.module


def find_cycle(graph: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for target in sorted(graph[name]):
            if found := visit(target, [*path, name]):
                return found
        done.add(name)
        return None

    return next((c for name in sorted(graph) if (c := visit(name, []))), None)


def test_no_import_cycle() -> None:
    graph = {module_name(f): set(imported(f, everywhere=False)) - {module_name(f)} for f in FILES}
    assert find_cycle(graph) is None


def test_a_cycle_would_be_found() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "a"]


LAYERS = [
    ("utils.losses", ("utils.tasks", "utils.engine")),
    ("utils.metrics", ("utils.tasks", "utils.engine")),
    ("utils.datasets", ("utils.tasks", "utils.engine", "utils.losses")),
    ("utils.backends", ("utils.tasks", "utils.engine")),
    ("utils.tasks", ("utils.engine",)),
    ("utils.export", ("utils.engine",)),
    ("models", ("utils.datasets", "utils.losses", "utils.metrics", "utils.tasks", "utils.engine", "utils.backends")),
]


@pytest.mark.parametrize(("layer", "above"), LAYERS, ids=[layer for layer, _ in LAYERS])
def test_lower_layers_know_nothing_of_higher_ones(layer: str, above: tuple[str, ...]) -> None:
    for file in FILES:
        if module_name(file).startswith(layer):
            wrong = [name for name in imported(file, everywhere=False) if name.startswith(above)]
            assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


SCRIPTS = (
    *("train.py", "val.py", "detect.py", "export.py", "benchmarks.py", "hubconf.py", "models/yolo.py"),
    *("classify/train.py", "classify/val.py", "classify/predict.py", "segment/train.py", "segment/val.py"),
    *("segment/predict.py", "utils/datasets/__main__.py"),
    "utils/prune.py",
    *(f"utils/datasets/__main__.py {command}" for command in ("check", "split", "convert", "crops", "fetch")),
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_no_torch(script: str) -> None:
    path, *words = script.split()
    code = (
        "import sys, runpy\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'cv2', 'numpy', 'matplotlib', 'pandas'):\n"
        "            raise ImportError('heavy import: ' + name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"sys.argv = [{path!r}, *{words}, '--help']\n"
        f"runpy.run_path({path!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
