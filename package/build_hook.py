"""Hatchling build hook: a copy of the checkout as the package `openyolov5`.

In a checkout, `models`, `utils` and the scripts are top-level modules, as in YOLOv5. The wheel has them as
`openyolov5.models`, `openyolov5.train`, ... so the copy differs in its imports, and in commands that texts mention.
"""

from __future__ import annotations

import ast
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "openyolov5"
SCRIPTS = ("train", "val", "detect", "export", "benchmarks", "hubconf")
FOLDERS = ("models", "utils", "segment", "classify")
DATA = ("utils/serve/static/*", "models/**/*.yaml", "data/*.yaml", "data/hyps/*.yaml", "data/images/*")
OWN = frozenset((*SCRIPTS, *FOLDERS))
DYNAMIC = frozenset(("import_module", "__import__", "find_spec", "run_module", "resolve_name"))  # take names of modules
COMMANDS = (  # in a checkout; with the package
    (r"python -m utils\.datasets\b", f"{PACKAGE} data"),
    (r"python -m utils\.(anchors|prune|demo)\b", rf"{PACKAGE} \1"),
    (r"python (train|val|detect|export)\.py\b", rf"{PACKAGE} \1"),
    (r"python benchmarks\.py\b", f"{PACKAGE} benchmark"),
    (r"python (segment|classify)/(train|val|predict)\.py\b", rf"{PACKAGE} \1 \2"),
    (r"python (models|utils)/(\w+)\.py\b", rf"python -m {PACKAGE}.\1.\2"),
    (r"python hubconf\.py\b", f"python -m {PACKAGE}.hubconf"),
    (r"torch\.hub\.load\('\.', 'custom', path=('[^']+'|\{[^}]+\}), source='local'\)", rf"{PACKAGE}.load(\1)"),
)


class PackageHook(BuildHookInterface):
    """Adds the copy to the wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the copy into a temporary folder; an editable install, which would need it to be live, fails."""
        if version == "editable":
            raise ValueError("the package is a copy of the checkout: use `pip install .`, or run the checkout as it is")
        self.folder = tempfile.mkdtemp()
        write_package(Path(self.root), Path(self.folder))
        build_data["force_include"][self.folder] = PACKAGE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the copy."""
        shutil.rmtree(self.folder)


def write_package(root: Path, target: Path) -> None:
    """Write the content of the package; ValueError for source code that would not work in it.

    Args:
        root: the checkout.
    """
    shutil.copytree(
        root / "package" / PACKAGE, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    sources = [root / f"{name}.py" for name in SCRIPTS]
    sources += [file for folder in FOLDERS for file in sorted((root / folder).rglob("*.py"))]
    files = [file for pattern in DATA for file in sorted(root.glob(pattern))]
    for file in (*sources, *files):
        copy = target / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".py":
            source = rewrite(file.read_text(encoding="utf-8"), file.relative_to(root).as_posix())
            copy.write_text(source, encoding="utf-8", newline="\n")
        else:
            shutil.copyfile(file, copy)


def rewrite(source: str, place: str) -> str:
    """Source code for the package.

    Absolute imports and public addresses get the package's name, changes of `sys.path` are left out, and texts mention
    the commands of the package.

    Args:
        place: file, for messages.

    Raises:
        ValueError: a module is named in a way that cannot be rewritten.
    """
    lines = source.encode().splitlines(keepends=True)  # ast counts columns in bytes
    tree = ast.parse(source)
    for node in ast.walk(tree):
        problem = find_dynamic_import(node)
        if problem:
            raise ValueError(f"{place}:{problem}: names a module of the project; use utils.core.lazy")
        if edit := find_import(node, place) or find_address(node):
            start, old, new = edit
            line = lines[start.lineno - 1]
            head, statement = line[: start.col_offset], line[start.col_offset :]
            if not statement.startswith(old.encode()):
                raise ValueError(f"{place}:{start.lineno}: write this as `{old}`")
            lines[start.lineno - 1] = head + new.encode() + statement[len(old.encode()) :]
    for first, last in find_path_changes(tree):
        lines[first:last] = [b"\n"] * (last - first)
    text = b"".join(lines).decode()
    for pattern, command in COMMANDS:
        text = re.sub(pattern, command, text)
    return text


def find_import(node: ast.AST, place: str) -> tuple[ast.stmt, str, str] | None:
    """An import of the project: the statement, its start, and what replaces that."""
    if isinstance(node, ast.ImportFrom) and not node.level and is_own(node.module or ""):
        return node, f"from {node.module}", f"from {PACKAGE}.{node.module}"
    if not isinstance(node, ast.Import) or not any(is_own(alias.name) for alias in node.names):
        return None
    if len(node.names) > 1:
        raise ValueError(f"{place}:{node.lineno}: import one module per statement")
    parent, _, name = f"{PACKAGE}.{node.names[0].name}".rpartition(".")
    if parent != PACKAGE and not node.names[0].asname:
        raise ValueError(f"{place}:{node.lineno}: write `from ... import {name}`, which binds the same name everywhere")
    return node, f"import {node.names[0].name}", f"from {parent} import {name}"


def find_address(node: ast.AST) -> tuple[ast.expr, str, str] | None:
    """A public address, `__module__ = "models.common"`: the string, and what replaces it."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    if not any(isinstance(target, ast.Name) and target.id == "__module__" for target in targets):
        return None
    value = node.value  # type: ignore[attr-defined]
    is_address = isinstance(value, ast.Constant) and isinstance(value.value, str) and is_own(value.value)
    return (value, f'"{value.value}"', f'"{PACKAGE}.{value.value}"') if is_address else None


def is_own(module: str) -> bool:
    """Whether a module of that name is one of the checkout's."""
    return module.partition(".")[0] in OWN


def find_dynamic_import(node: ast.AST) -> int:
    """Line of a call that imports a module of the checkout by its name, as a string; 0 for another node."""
    if not isinstance(node, ast.Call):
        return 0
    function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    texts = [leaf.value for part in node.args for leaf in ast.walk(part) if isinstance(leaf, ast.Constant)]
    named = any(isinstance(text, str) and is_own(text) for text in texts)
    return node.lineno if function in DYNAMIC and named else 0


def find_path_changes(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """Line ranges (from 0, end excluded) of top-level statements that change sys.path."""
    for node in tree.body:
        if isinstance(node, ast.If | ast.Expr | ast.Assign | ast.AugAssign) and "attr='path'" in ast.dump(node):
            changes = (part for part in ast.walk(node) if isinstance(part, ast.Attribute) and part.attr == "path")
            if any(getattr(part.value, "id", "") == "sys" for part in changes):
                yield node.lineno - 1, node.end_lineno or node.lineno
