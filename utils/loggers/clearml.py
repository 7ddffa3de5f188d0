"""ClearML, online or offline (CLEARML_OFFLINE_MODE=1)."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.loggers.base import BoxedImage, RunFacts


class ClearMLTracker:
    """Tasks of the project CLEARML_PROJECT, else of the run's own; nothing else of the process is captured."""

    title = "ClearML"

    def load(self) -> None:
        """Import the package."""
        import clearml

        self._clearml: Any = clearml

    def start(self, run: RunFacts) -> None:
        """Open the task, or the one that is resumed."""
        known = run.known_id("clearml")
        self._clearml.Task.force_store_standalone_script()  # else it searches the repository, for minutes
        self._task: Any = self._clearml.Task.init(
            project_name=os.getenv("CLEARML_PROJECT") or run.project,
            task_name=run.name,
            reuse_last_task_id=False,
            continue_last_task=known or False,
            auto_connect_arg_parser=False,
            auto_connect_frameworks=False,
            auto_resource_monitoring=False,
            auto_connect_streams=False,
        )
        run.remember_id("clearml", str(self._task.id))
        self._task.connect(dict(run.params), name="settings")
        self._log: Any = self._task.get_logger()
        for name, place in run.data.items():
            self._task.upload_artifact(f"data-{run.alias}-{name}", artifact_object=str(place))

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Each group of numbers in one diagram."""
        for name, value in values.items():
            title, _, series = name.partition("/")
            self._log.report_scalar(title, series or title, value, epoch)

    def image(self, tag: str, encoded: bytes, epoch: int) -> None:
        """The image under its tag."""
        from PIL import Image

        with Image.open(io.BytesIO(encoded)) as image:
            self._log.report_image("images", tag, iteration=epoch, image=np.asarray(image.convert("RGB")))

    def boxes(self, images: Sequence[BoxedImage], epoch: int) -> None:
        """ClearML draws no boxes itself; the drawn batch has them."""

    def files(self, files: Sequence[Path]) -> None:
        """The files as artifacts."""
        for file in files:
            self._task.upload_artifact(file.stem, artifact_object=str(file))

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        """End the task, with the metrics of its best weights."""
        for name, value in (metrics or {}).items():
            self._log.report_single_value(name.replace("metrics/", "best/"), value)
        if metrics is None:
            self._task.mark_stopped(force=True, status_message="the run did not come to its end")
        self._task.close()
