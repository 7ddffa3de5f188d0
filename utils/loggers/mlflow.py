"""MLflow: a tracking server, or a local database."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.loggers.base import RunInfo, Tracker, decode_rgb

REQUEST_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}  # default: minutes
PARAMS_PER_REQUEST = 100
MAX_PARAM_LENGTH = 500


class MLflowTracker(Tracker):
    """A run at MLFLOW_TRACKING_URI, else in the database mlflow.db beside the project folder.

    The experiment is MLFLOW_EXPERIMENT_NAME, else the project's name.
    """

    title = "MLflow"
    package = "mlflow"
    variables = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")

    def load(self) -> None:
        """Import the client; shorten its timeouts unless the environment sets them."""
        for name, value in REQUEST_LIMITS.items():
            os.environ.setdefault(name, value)
        from mlflow import entities
        from mlflow.tracking import MlflowClient

        self._entities, self._client_type = entities, MlflowClient

    def start(self, run: RunInfo) -> None:
        uri, artifacts = os.getenv("MLFLOW_TRACKING_URI"), None
        if not uri:
            root = run.folder.parent.parent.resolve()
            uri, artifacts = f"sqlite:///{(root / 'mlflow.db').as_posix()}", (root / "mlflow-artifacts").as_uri()
        elif "://" not in uri or uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client: Any = self._client_type(tracking_uri=uri)
        name = os.getenv("MLFLOW_EXPERIMENT_NAME") or run.project
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            experiment_id = self._client.create_experiment(name, artifact_location=artifacts)
        else:
            experiment_id = experiment.experiment_id
        if run_id := run.load_id("mlflow") or os.getenv("MLFLOW_RUN_ID"):
            self._id = run_id
            self._client.update_run(run_id, status="RUNNING")
        else:
            self._id = self._client.create_run(experiment_id, run_name=run.name).info.run_id
            run.save_id("mlflow", self._id)
            self._log_params(run.params)
        for name, place in run.data.items():
            folder = f"data-{run.alias}/{name}"
            log = self._client.log_artifacts if place.is_dir() else self._client.log_artifact
            log(self._id, str(place), folder)

    def _log_params(self, params: Mapping[str, Any]) -> None:
        param = self._entities.Param
        rows = [param(clean_name(name), str(value)[:MAX_PARAM_LENGTH]) for name, value in params.items()]
        for start in range(0, len(rows), PARAMS_PER_REQUEST):
            self._client.log_batch(self._id, params=rows[start : start + PARAMS_PER_REQUEST])

    def log_scalars(self, values: Mapping[str, float], epoch: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(clean_name(name), value, now, epoch) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def log_image(self, tag: str, encoded: bytes, epoch: int) -> None:
        self._client.log_image(self._id, decode_rgb(encoded), key=clean_name(tag), step=epoch)

    def log_files(self, files: Sequence[Path]) -> None:
        for file in files:
            self._client.log_artifact(self._id, str(file), "weights" if file.suffix == ".pt" else None)

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        for name, value in (metrics or {}).items():
            self._client.log_metric(self._id, clean_name(name), value)
        self._client.set_terminated(self._id, status="KILLED" if metrics is None else "FINISHED")


def clean_name(name: str) -> str:
    """Replace characters that MLflow refuses: `metrics/mAP_0.5(B)` becomes `metrics/mAP_0.5_B`."""
    return re.sub(r"[^\w\-. /]", "_", name.replace(")", "")).strip("/")
