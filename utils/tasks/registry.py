"""Tasks by name."""

from __future__ import annotations

from typing import Any

from utils.core.errors import InputError
from utils.tasks.base import Task
from utils.tasks.classify import ClassificationTask
from utils.tasks.detect import DetectionTask
from utils.tasks.joint import JointTask
from utils.tasks.segment import SegmentationTask
from utils.tasks.semantic import SemanticTask

TASKS: dict[str, Any] = {
    kind.name: kind for kind in (ClassificationTask, DetectionTask, SegmentationTask, SemanticTask, JointTask)
}


def find_task(name: str) -> type[Task]:
    """The class of a task's objects.

    Raises:
        InputError: no such task.
    """
    if name not in TASKS:
        raise InputError(f"task {name!r} is not supported; known: {', '.join(TASKS)}")
    kind: type[Task] = TASKS[name]
    return kind


def build_task(name: str, *args: Any, **options: Any) -> Task:
    """The task object of a name; arguments are those of its class, InputError as `find_task`."""
    kind: Any = find_task(name)
    task: Task = kind(*args, **options)
    return task
