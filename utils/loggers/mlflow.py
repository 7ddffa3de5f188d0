"""MLflow: a server, or a database and a folder of this machine."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.loggers.base import BoxedImage, RunFacts

PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}  # it waits for minutes else
BATCH = 100  # parameters in a request
LONGEST_PARAM = 500


class MLflowTracker:
    """Runs under MLFLOW_TRACKING_URI, else in the database mlflow.db beside the project folder.

    The experiment is MLFLOW_EXPERIMENT_NAME, else the project's name.
    """

    title = "MLflow"

    def load(self) -> None:
        """Import the client; requests give up soon unless the user's variables say otherwise."""
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import entities
        from mlflow.tracking import MlflowClient

        self._entities, self._client_type = entities, MlflowClient

    def start(self, run: RunFacts) -> None:
        """Open the run, or the one that is resumed."""
        uri, artifacts = os.getenv("MLFLOW_TRACKING_URI"), None
        if not uri:
            place = run.folder.parent.parent.resolve()
            uri, artifacts = f"sqlite:///{(place / 'mlflow.db').as_posix()}", (place / "mlflow-artifacts").as_uri()
        elif "://" not in uri or uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # the user named a folder
        self._client: Any = self._client_type(tracking_uri=uri)
        name = os.getenv("MLFLOW_EXPERIMENT_NAME") or run.project
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            experiment_id = self._client.create_experiment(name, artifact_location=artifacts)
        else:
            experiment_id = experiment.experiment_id
        known = run.known_id("mlflow") or os.getenv("MLFLOW_RUN_ID")
        if known:
            self._id = known
            self._client.update_run(known, status="RUNNING")
        else:
            self._id = self._client.create_run(experiment_id, run_name=run.name).info.run_id
            run.remember_id("mlflow", self._id)
            self._log_params(run.params)
        for name, place in run.data.items():
            folder = f"data-{run.alias}/{name}"
            log = self._client.log_artifacts if place.is_dir() else self._client.log_artifact
            log(self._id, str(place), folder)

    def _log_params(self, params: Mapping[str, Any]) -> None:
        param = self._entities.Param
        rows = [param(clean(name), str(value)[:LONGEST_PARAM]) for name, value in params.items()]
        for start in range(0, len(rows), BATCH):
            self._client.log_batch(self._id, params=rows[start : start + BATCH])

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """All numbers of an epoch in one request."""
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(clean(name), value, now, epoch) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def image(self, tag: str, encoded: bytes, epoch: int) -> None:
        """The image under its tag at this step."""
        from PIL import Image

        with Image.open(io.BytesIO(encoded)) as image:
            self._client.log_image(self._id, image.convert("RGB"), key=clean(tag), step=epoch)

    def boxes(self, images: Sequence[BoxedImage], epoch: int) -> None:
        """MLflow draws no boxes itself; the drawn batch has them."""

    def files(self, files: Sequence[Path]) -> None:
        """The files as artifacts."""
        for file in files:
            self._client.log_artifact(self._id, str(file), "weights" if file.suffix == ".pt" else None)

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        """End the run, with the metrics of its best weights."""
        if metrics is not None:
            for name, value in metrics.items():
                self._client.log_metric(self._id, clean(name.replace("metrics/", "best/")), value)
        self._client.set_terminated(self._id, status="KILLED" if metrics is None else "FINISHED")


def clean(name: str) -> str:
    """A name of letters that MLflow takes: `metrics/mAP_0.5(B)` becomes `metrics/mAP_0.5_B`."""
    return re.sub(r"[^\w\-. /]", "_", name.replace(")", "")).strip("/")
