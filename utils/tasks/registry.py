"""Tasks by name. A task's module is imported when it is first needed, so that detect.py loads one task, not five."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.core.errors import InputError
from utils.core.lazy import import_project_module
from utils.tasks.base import Task

MODULES = {  # the first one takes every graph that no other recognizes
    "detect": ("utils.tasks.detect", "DetectionTask"),
    "classify": ("utils.tasks.classify", "ClassificationTask"),
    "semantic": ("utils.tasks.semantic", "SemanticTask"),
    "joint": ("utils.tasks.joint", "JointTask"),
    "segment": ("utils.tasks.segment", "SegmentationTask"),
}
_registered: dict[str, type[Task]] = {}


def register_task(kind: type[Task]) -> type[Task]:
    """Add a task under its name; usable as a class decorator."""
    _registered[kind.name] = kind
    return kind


def list_tasks() -> list[str]:
    """Names of all tasks."""
    return [*MODULES, *(name for name in _registered if name not in MODULES)]


def find_task(name: str) -> type[Task]:
    """The class of a task.

    Raises:
        InputError: there is no task of that name.
    """
    if name not in _registered:
        if name not in MODULES:
            raise InputError(f"task {name!r} is not supported; known: {', '.join(list_tasks())}")
        module, kind = MODULES[name]
        register_task(getattr(import_project_module(module), kind))
    return _registered[name]


def find_graph_task(graph: Mapping[str, Any]) -> type[Task]:
    """The task of a loaded model YAML, recognized by its layers.

    Raises:
        InputError: the layers contradict each other.
    """
    sections = (graph.get(key) for key in ("backbone", "head"))  # of a checkpoint, they may be anything
    rows = [row for section in sections if isinstance(section, list) for row in section]
    layers = frozenset(row[2] for row in rows if isinstance(row, list) and len(row) > 2 and isinstance(row[2], str))
    source = str(graph.get("yaml_file") or "model YAML")
    kinds = (find_task(name) for name in reversed(list_tasks()))
    return next(kind for kind in kinds if kind.matches_graph(layers, source))


def check_graph(kind: type[Task], graph: Mapping[str, Any]) -> None:
    """InputError for a loaded model YAML of another task; tasks that recognize no YAML take any."""
    if kind.graph_needs and (other := find_graph_task(graph)) is not kind:
        raise InputError(
            f"the graph is one of task {other.name!r}, task {kind.name!r} needs {kind.graph_needs}; "
            f"give a YAML or checkpoint of that kind, as in --cfg {kind.example_cfg}"
        )
