"""Comet, online or offline (COMET_OFFLINE_DIRECTORY without a key)."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.loggers.base import BoxedImage, RunFacts


class CometTracker:
    """Experiments of the project COMET_PROJECT_NAME, else of the run's own; nothing else of the process is captured."""

    title = "Comet"

    def load(self) -> None:
        """Import the package; a key must be known, as it would be asked for otherwise."""
        import comet_ml

        self._comet: Any = comet_ml
        self._online = bool(comet_ml.get_config("comet.api_key"))
        if not self._online and not os.getenv("COMET_OFFLINE_DIRECTORY"):
            raise RuntimeError("no API key; set COMET_API_KEY, or COMET_OFFLINE_DIRECTORY to keep runs on this disk")

    def start(self, run: RunFacts) -> None:
        """Open the experiment, or the one that is resumed."""
        known = run.known_id("comet")
        quiet = self._comet.ExperimentConfig(
            name=run.name,
            log_code=False,
            log_graph=False,
            log_git_metadata=False,
            log_git_patch=False,
            log_env_details=False,
            parse_args=False,
            display_summary_level=0,
            auto_output_logging=False,
            auto_param_logging=False,
            auto_metric_logging=False,
            offline_directory=None if self._online else os.environ["COMET_OFFLINE_DIRECTORY"],
        )
        self._run: Any = self._comet.start(
            workspace=run.entity,
            project_name=os.getenv("COMET_PROJECT_NAME") or run.project,
            experiment_key=known if self._online else None,
            online=self._online,
            experiment_config=quiet,
        )
        run.remember_id("comet", self._run.get_key())
        self._run.log_parameters(run.params)
        if run.data and self._online:  # Comet takes no artifacts offline
            artifact = self._comet.Artifact(f"{run.data['data.yaml'].stem}-data", "dataset", aliases=[run.alias])
            for name, place in run.data.items():
                artifact.add(str(place), logical_path=name)
            self._run.log_artifact(artifact)

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """All numbers of an epoch."""
        self._run.log_metrics(dict(values), step=epoch, epoch=epoch)

    def image(self, tag: str, encoded: bytes, epoch: int) -> None:
        """The image under its tag."""
        from PIL import Image

        with Image.open(io.BytesIO(encoded)) as image:
            self._run.log_image(image.convert("RGB"), name=tag, step=epoch)

    def boxes(self, images: Sequence[BoxedImage], epoch: int) -> None:
        """The drawn batch has them."""

    def files(self, files: Sequence[Path]) -> None:
        """The files as assets."""
        for file in files:
            self._run.log_asset(str(file), file_name=file.name)

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        """End the experiment, with the metrics of its best weights."""
        for name, value in (metrics or {}).items():
            self._run.log_other(name.replace("metrics/", "best/"), value)
        self._run.end()
