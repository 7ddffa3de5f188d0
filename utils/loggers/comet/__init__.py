"""Comet, online or offline (COMET_OFFLINE_DIRECTORY without a key)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.loggers.base import RunInfo, Tracker, decode_rgb


class CometTracker(Tracker):
    """An experiment of the project COMET_PROJECT_NAME, else of the run's project; Comet's automatic capture is off."""

    title = "Comet"
    package = "comet_ml"
    variables = ("COMET_API_KEY", "COMET_OFFLINE_DIRECTORY")
    flags = ("entity", *Tracker.flags)

    def load(self) -> None:
        """Import the package; without an API key it would ask for one, so raise."""
        import comet_ml

        self._comet: Any = comet_ml
        self._online = bool(comet_ml.get_config("comet.api_key"))
        if not self._online and not os.getenv("COMET_OFFLINE_DIRECTORY"):
            raise RuntimeError("no API key; set COMET_API_KEY, or COMET_OFFLINE_DIRECTORY to save runs on this disk")

    def start(self, run: RunInfo) -> None:
        config = self._comet.ExperimentConfig(
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
            experiment_key=run.load_id("comet") if self._online else None,
            online=self._online,
            experiment_config=config,
        )
        run.save_id("comet", self._run.get_key())
        self._run.log_parameters(run.params)
        if run.data and self._online:  # artifacts need a server
            artifact = self._comet.Artifact(f"{run.data['data.yaml'].stem}-data", "dataset", aliases=[run.alias])
            for name, place in run.data.items():
                artifact.add(str(place), logical_path=name)
            self._run.log_artifact(artifact)

    def log_scalars(self, values: Mapping[str, float], epoch: int) -> None:
        self._run.log_metrics(dict(values), step=epoch, epoch=epoch)

    def log_image(self, tag: str, encoded: bytes, epoch: int) -> None:
        self._run.log_image(decode_rgb(encoded), name=tag, step=epoch)

    def log_files(self, files: Sequence[Path]) -> None:
        for file in files:
            self._run.log_asset(str(file), file_name=file.name)

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        for name, value in (metrics or {}).items():
            self._run.log_other(name, value)
        self._run.end()
