"""Tracking services of a training script that has no trainer of this project."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.loggers.base import RunInfo
from utils.loggers.callback import CLOSE_WAIT_S, SafeCaller
from utils.loggers.registry import SERVICES, is_installed


class Services:
    """The tracking services of a run, which are used if an environment variable enables them.

    Args:
        include: names of services and of other loggers.
    """

    def __init__(self, include: Sequence[str]) -> None:
        self.trackers = [SERVICES[name]() for name in include if name in SERVICES and is_enabled(name)]
        self.callers = [SafeCaller(tracker.title, threaded=tracker.threaded) for tracker in self.trackers]
        self._bytes = 0

    def start(self, run: RunInfo) -> None:
        """Open the run in each service."""
        for tracker, caller in zip(self.trackers, self.callers, strict=True):
            caller.run(tracker.load)
        self.call("start", run)

    def call(self, method: str, *args: Any) -> None:
        """Call a method of each tracker."""
        for tracker, caller in zip(self.trackers, self.callers, strict=True):
            caller.call(getattr(tracker, method), *args)

    def log_images(self, files: Sequence[Path], epoch: int, prefix: str = "") -> None:
        """Log image files under their names."""
        for file in files if self.trackers else ():
            self.call("log_image", f"{prefix}{file.stem}", file.read_bytes(), epoch)

    def log_files(self, files: Sequence[Path]) -> None:
        """Upload files of the run."""
        self._bytes += sum(file.stat().st_size for file in files)
        self.call("log_files", files)

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Close the run with the metrics of its best weights."""
        self.call("finish", dict(metrics))
        for caller in self.callers:
            caller.close(CLOSE_WAIT_S + self._bytes / 1e6)
        self.trackers, self.callers = [], []


def is_enabled(service: str) -> bool:
    """Whether the package of a service is installed and an environment variable enables it."""
    if service == "wandb" and os.getenv("WANDB_MODE") == "disabled":
        return False
    return is_installed(service) and any(map(os.getenv, SERVICES[service].variables))


def check_remote_resume(opt: Any, scheme: str) -> bool:
    """False for an `opt.resume` that names no run of a service; InputError for `<scheme>://...`, which does."""
    resume = getattr(opt, "resume", None)
    if isinstance(resume, str) and resume.startswith(f"{scheme}://"):
        raise InputError(f"--resume {resume}: runs are resumed from a local file; give the path of its last.pt")
    return False
