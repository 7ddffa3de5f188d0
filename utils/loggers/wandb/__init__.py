"""Weights & Biases, online or offline (WANDB_MODE)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.loggers.base import BoxedImage, RunInfo, Tracker, decode_rgb

TIMEOUT_S = 30


class WandbTracker(Tracker):
    """A run of the project WANDB_PROJECT, else of the run's project; its images have boxes as data."""

    title = "Weights & Biases"
    package = "wandb"
    variables = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT")
    flags = ("entity", *Tracker.flags)

    def load(self) -> None:
        """Import the package; without an API key it would ask for one, so raise."""
        import wandb

        self._wandb: Any = wandb
        if os.getenv("WANDB_MODE", "online") == "online" and not wandb.api.api_key:
            raise RuntimeError("no API key; set WANDB_API_KEY or run `wandb login`, or set WANDB_MODE=offline")

    def start(self, run: RunInfo) -> None:
        wandb, run_id = self._wandb, run.load_id("wandb")
        settings = wandb.Settings(
            init_timeout=TIMEOUT_S,
            finish_timeout=TIMEOUT_S,
            console="off",
            silent=True,
            save_code=False,
            disable_git=True,
        )
        self._run: Any = wandb.init(
            project=os.getenv("WANDB_PROJECT") or run.project,
            entity=run.entity,
            name=run.name,
            id=run_id,
            resume="allow" if run_id else None,
            dir=str(run.folder),
            config=run.params,
            settings=settings,
        )
        run.save_id("wandb", self._run.id)
        self._run.define_metric("epoch", hidden=True)
        self._run.define_metric("*", step_metric="epoch")
        self._names = run.names
        if run.data:
            artifact = wandb.Artifact(f"{run.data['data.yaml'].stem}-data", type="dataset")
            for name, place in run.data.items():
                (artifact.add_dir if place.is_dir() else artifact.add_file)(str(place), name=name)
            self._run.log_artifact(artifact, aliases=[run.alias])

    def log_scalars(self, values: Mapping[str, float], epoch: int) -> None:
        self._run.log({**values, "epoch": epoch})

    def log_image(self, tag: str, encoded: bytes, epoch: int) -> None:
        self._run.log({tag: self._wandb.Image(decode_rgb(encoded)), "epoch": epoch})

    def log_boxes(self, images: Sequence[BoxedImage], epoch: int) -> None:
        logged = []
        for image in images:
            if image.boxes is None:
                return
            group = {"box_data": [self._box(row) for row in image.boxes.tolist()], "class_labels": self._names}
            caption = Path(image.path).name
            logged.append(self._wandb.Image(image.image, caption=caption, boxes={"predictions": group}))
        if logged:
            self._run.log({"boxes": logged, "epoch": epoch})

    def _box(self, row: Sequence[float]) -> dict[str, Any]:
        x1, y1, x2, y2, score, class_id = row
        return {
            "position": {"minX": x1, "minY": y1, "maxX": x2, "maxY": y2},
            "domain": "pixel",
            "class_id": int(class_id),
            "box_caption": f"{self._names.get(int(class_id), int(class_id))} {score:.2f}",
            "scores": {"score": score},
        }

    def log_files(self, files: Sequence[Path]) -> None:
        artifact = self._wandb.Artifact(f"run-{self._run.id}", type="model")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        for name, value in (metrics or {}).items():
            self._run.summary[name] = value
        self._run.finish(exit_code=0 if metrics is not None else 1)
