"""Tasks by name."""

from __future__ import annotations

from typing import Any

from utils.errors import InputError
from utils.tasks.base import Task
from utils.tasks.detect import DetectionTask

TASKS: dict[str, Any] = {DetectionTask.name: DetectionTask}


def build_task(name: str, *args: Any, **options: Any) -> Task:
    """The task object of a name; arguments are those of its class.

    Raises:
        InputError: no such task.
    """
    if name not in TASKS:
        raise InputError(f"task {name!r} is not supported; known: {', '.join(TASKS)}")
    task: Task = TASKS[name](*args, **options)
    return task
