"""Names and arguments of YOLOv5's public addresses, against the list in `../shared/reference/addresses.md`."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Names of the original that this project does not have, with the reason.
ABSENT = {"detect.detect": "reads a global variable of v5.0's script"}
# Arguments that differ from the original's, with the reason.
DIFFERENT = {
    "classify.val.run": "verbose=True, as the flag of the original",
    "detect.run": "line_thickness=None follows the image size",
    "export.run": "opset=None is the default of the exporter",
    "segment.predict.run": "line_thickness=None follows the image size",
    "segment.val.run": "weights: the default of the flag",
    "val.run": "weights: the default of the flag",
    "models.common.AutoShape": "forward: size=None is 640, or the size of an exported file",
    "models.yolo.BaseModel": "forward: `augment` of DetectionModel, so that all networks are called alike",
    "utils.metrics.ConfusionMatrix": "matrix is an attribute",
}


@dataclass(frozen=True)
class Entry:
    """A line of the list: a name of a module, and the arguments if it is callable."""

    release: str
    module: str
    name: str
    arguments: ast.arguments | None
    methods: tuple[tuple[str, ast.arguments | None], ...]

    @property
    def address(self) -> str:
        return f"{self.module}.{self.name}"


def parse_entries(text: str) -> Iterator[Entry]:
    release = module = ""
    for line in text.splitlines():
        if heading := re.match(r"## (v\d\.\d)", line):
            release = heading[1]
        elif line.startswith("## "):
            release = ""
        elif heading := re.match(r"### (\S+)\.py", line):
            module = heading[1].replace("/", ".").removesuffix(".__init__")
        elif release and line.startswith("- `"):
            yield parse_line(release, module, line[3:].rstrip("`"))


def parse_line(release: str, module: str, line: str) -> Entry:
    name, rest = re.fullmatch(r"(?:class )?(\w+)(.*)", line).groups()  # type: ignore[union-attr]
    arguments, rest = split_arguments(rest)
    methods = re.findall(r"(\w+)(\(.*)", rest.partition(": ")[2].replace("; ", "\n"))
    parsed = tuple((method, split_arguments(signature)[0]) for method, signature in methods)
    return Entry(release, module, name, arguments, parsed)


def split_arguments(text: str) -> tuple[ast.arguments | None, str]:
    """The arguments in the parentheses at the start, None if there are none, and the rest of the text."""
    if not text.startswith("("):
        return None, text
    depths = itertools.accumulate((c == "(") - (c == ")") for c in text)
    end = next(place for place, depth in enumerate(depths, start=1) if depth == 0)
    function = ast.parse(f"def f{text[:end]}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    return function.args, text[end:]


def read_entries(shared: Path) -> list[Entry]:
    return list(parse_entries((shared / "reference" / "addresses.md").read_text(encoding="utf-8")))


@functools.cache
def find(address: str) -> Any:
    module, _, name = address.rpartition(".")
    return getattr(importlib.import_module(module), name)


def list_names(arguments: ast.arguments) -> list[str]:
    return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def compare(function: Callable[..., Any], expected: ast.arguments) -> list[str]:
    """What differs between the parameters of a function and the expected ones: order of names, simple defaults."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = {p.kind for p in parameters} >= {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    names = [name for name in list_names(expected) if name != "self"]
    if takes_any and not named:
        return []
    problems = []
    if [p.name for p in named[: len(names)]] != names:
        problems.append(f"arguments {[p.name for p in named]}, expected {names}")
    if extra := [p.name for p in named[len(names) :] if p.default is p.empty]:
        problems.append(f"further arguments {extra} without default")
    defaults = dict(zip(reversed(list_names(expected)), reversed(expected.defaults), strict=False))
    by_name = {p.name: p for p in named}
    for name, node in defaults.items():
        try:
            value = ast.literal_eval(node)
        except ValueError:
            continue  # an expression such as ROOT / "data"
        if name in by_name and by_name[name].default != value:
            problems.append(f"{name}={by_name[name].default!r}, expected {value!r}")
    return problems


def test_parser() -> None:
    text = "## v7.0\n### utils/a.py\n- `class A(x, y=(1, 2)) [nn.Module]: run(z=(3)); stop()`\n- `B`\n"
    first, second = parse_entries(text)
    assert (first.address, second.address, second.arguments) == ("utils.a.A", "utils.a.B", None)
    assert first.arguments is not None
    assert list_names(first.arguments) == ["x", "y"]
    assert [name for name, _ in first.methods] == ["run", "stop"]
    assert compare(lambda x, y=(1, 2), z=3: None, first.arguments) == []
    assert compare(lambda y, x: None, first.arguments) == [
        "arguments ['y', 'x'], expected ['x', 'y']",
        f"y={inspect.Parameter.empty!r}, expected (1, 2)",
    ]


def test_every_name_can_be_imported(shared: Path) -> None:
    missing = []
    for entry in read_entries(shared):
        try:
            find(entry.address)
        except (ImportError, AttributeError):
            missing.append(entry.address)
    assert set(missing) == set(ABSENT)


def test_arguments_of_v7(shared: Path) -> None:
    problems = {}
    for entry in read_entries(shared):
        if entry.release != "v7.0" or entry.arguments is None or entry.address in ABSENT:
            continue
        item = find(entry.address)
        found = compare(item, entry.arguments)
        for method, arguments in entry.methods:
            if not hasattr(item, method):
                found.append(f"no method {method}")
            elif callable(getattr(item, method)) and arguments is not None and not method.startswith("__"):
                found += [f"{method}: {problem}" for problem in compare(getattr(item, method), arguments)]
        if found:
            problems[entry.address] = "; ".join(found)
    assert {address: text for address, text in problems.items() if address not in DIFFERENT} == {}
    assert set(DIFFERENT) <= set(problems)
