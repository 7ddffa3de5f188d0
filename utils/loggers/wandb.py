"""Weights & Biases, online or offline (WANDB_MODE)."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.loggers.base import CLOSE_WAIT_S, BoxedImage, RunFacts

INIT_WAIT_S = 30


class WandbTracker:
    """Runs of the project WANDB_PROJECT, else of the run's own; boxes can be switched on and off in its images."""

    title = "Weights & Biases"

    def load(self) -> None:
        """Import the package; an account must be known, as it would be asked for otherwise."""
        import wandb

        self._wandb: Any = wandb
        if os.getenv("WANDB_MODE", "online") == "online" and not wandb.api.api_key:
            raise RuntimeError("no API key; set WANDB_API_KEY or run `wandb login`, or set WANDB_MODE=offline")

    def start(self, run: RunFacts) -> None:
        """Open the run, or the one that is resumed."""
        wandb, known = self._wandb, run.known_id("wandb")
        settings = wandb.Settings(
            init_timeout=INIT_WAIT_S,
            finish_timeout=CLOSE_WAIT_S,
            console="off",
            silent=True,
            save_code=False,
            disable_git=True,
        )
        self._run: Any = wandb.init(
            project=os.getenv("WANDB_PROJECT") or run.project,
            entity=run.entity,
            name=run.name,
            id=known,
            resume="allow" if known else None,
            dir=str(run.folder),
            config=run.params,
            settings=settings,
        )
        run.remember_id("wandb", self._run.id)
        self._run.define_metric("epoch", hidden=True)
        self._run.define_metric("*", step_metric="epoch")
        self._names = run.names
        if run.data:
            artifact = wandb.Artifact(f"{run.data['data.yaml'].stem}-data", type="dataset")
            for name, place in run.data.items():
                (artifact.add_dir if place.is_dir() else artifact.add_file)(str(place), name=name)
            self._run.log_artifact(artifact, aliases=[run.alias])

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """All numbers of an epoch."""
        self._run.log({**values, "epoch": epoch})

    def image(self, tag: str, encoded: bytes, epoch: int) -> None:
        """The image under its tag."""
        from PIL import Image

        with Image.open(io.BytesIO(encoded)) as image:
            self._run.log({tag: self._wandb.Image(image.convert("RGB")), "epoch": epoch})

    def boxes(self, images: Sequence[BoxedImage], epoch: int) -> None:
        """The images with their boxes beside them, as data."""
        shown = []
        for image in images:
            if image.boxes is None:
                return
            group = {"box_data": [self._box(row) for row in image.boxes.tolist()], "class_labels": self._names}
            caption = Path(image.path).name
            shown.append(self._wandb.Image(image.image, caption=caption, boxes={"predictions": group}))
        if shown:
            self._run.log({"boxes": shown, "epoch": epoch})

    def _box(self, row: Sequence[float]) -> dict[str, Any]:
        x1, y1, x2, y2, score, number = row
        return {
            "position": {"minX": x1, "minY": y1, "maxX": x2, "maxY": y2},
            "domain": "pixel",
            "class_id": int(number),
            "box_caption": f"{self._names.get(int(number), int(number))} {score:.2f}",
            "scores": {"score": score},
        }

    def files(self, files: Sequence[Path]) -> None:
        """The files as one artifact of the run."""
        artifact = self._wandb.Artifact(f"run-{self._run.id}", type="model")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        """End the run, with the metrics of its best weights."""
        for name, value in (metrics or {}).items():
            self._run.summary[name.replace("metrics/", "best/")] = value
        self._run.finish(exit_code=0 if metrics is not None else 1)
