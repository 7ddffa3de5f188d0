"""ClearML, online or offline (CLEARML_OFFLINE_MODE=1)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.loggers.base import RunInfo, Tracker, decode_rgb


class ClearMLTracker(Tracker):
    """A task of the project CLEARML_PROJECT, else of the run's project; ClearML's automatic capture is off."""

    title = "ClearML"
    package = "clearml"
    variables = ("CLEARML_API_ACCESS_KEY", "CLEARML_CONFIG_FILE", "CLEARML_OFFLINE_MODE")

    def load(self) -> None:
        import clearml

        self._clearml: Any = clearml

    def start(self, run: RunInfo) -> None:
        self._clearml.Task.force_store_standalone_script()  # searching the repository takes minutes
        self._task: Any = self._clearml.Task.init(
            project_name=os.getenv("CLEARML_PROJECT") or run.project,
            task_name=run.name,
            reuse_last_task_id=False,
            continue_last_task=run.load_id("clearml") or False,
            auto_connect_arg_parser=False,
            auto_connect_frameworks=False,
            auto_resource_monitoring=False,
            auto_connect_streams=False,
        )
        run.save_id("clearml", str(self._task.id))
        self._task.connect(dict(run.params), name="settings")
        self._log: Any = self._task.get_logger()
        for name, place in run.data.items():
            self._task.upload_artifact(f"data-{run.alias}-{name}", artifact_object=str(place))

    def log_scalars(self, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            title, _, series = name.partition("/")
            self._log.report_scalar(title, series or title, value, epoch)

    def log_image(self, tag: str, encoded: bytes, epoch: int) -> None:
        self._log.report_image("images", tag, iteration=epoch, image=np.asarray(decode_rgb(encoded)))

    def log_files(self, files: Sequence[Path]) -> None:
        for file in files:
            self._task.upload_artifact(file.stem, artifact_object=str(file))

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        for name, value in (metrics or {}).items():
            self._log.report_single_value(name, value)
        if metrics is None:
            self._task.mark_stopped(force=True, status_message="the run was interrupted")
        self._task.close()
