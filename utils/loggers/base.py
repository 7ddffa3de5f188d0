"""Experiment tracker interface and run description."""

from __future__ import annotations

import io
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.core.files import atomic_write

IDS_FILE = "loggers.json"  # in the run folder: ids of the run in each service
_ids_lock = threading.Lock()


@dataclass(frozen=True)
class BoxedImage:
    """A validation image with its detections.

    Attributes:
        image: (H, W, 3) RGB uint8, the network input.
        boxes: (n, 6) x1, y1, x2, y2 in pixels of `image`, score, class; None for a task without boxes.
    """

    path: str
    image: np.ndarray
    boxes: np.ndarray | None


@dataclass(frozen=True)
class RunInfo:
    """A training run.

    Attributes:
        params: settings and hyperparameters.
        entity: account that owns the run, `--entity`.
        data: files and folders to upload for `--upload_dataset`, by name: the data YAML, images and labels.
        alias: `--artifact_alias`, version name of the uploaded data.
        names: class names by number.
        build_example: returns the network on the CPU and an input batch for it, to trace its graph.
    """

    folder: Path
    project: str
    params: dict[str, Any]
    start_epoch: int
    entity: str | None = None
    data: dict[str, Path] = field(default_factory=dict)
    alias: str = "latest"
    names: dict[int, str] = field(default_factory=dict)
    build_example: Callable[[], tuple[Any, Any]] | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    def load_id(self, service: str) -> str | None:
        """Id of a resumed run in the service; None for a new run."""
        return self._load_ids().get(service) if self.start_epoch else None

    def save_id(self, service: str, value: str) -> None:
        """Store the id of this run in the service, for `--resume`."""
        with _ids_lock, atomic_write(self.folder / IDS_FILE) as temporary:
            temporary.write_text(json.dumps({**self._load_ids(), service: value}), encoding="utf-8")

    def _load_ids(self) -> dict[str, str]:
        try:
            return dict(json.loads((self.folder / IDS_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}


class Tracker(ABC):
    """Records runs in one place. Any method may raise: the run then continues without the tracker.

    Attributes:
        title: name in messages.
        package: name to import and to install.
        variables: environment variables; any of them enables the tracker.
        flags: flags of train.py that it supports.
        threaded: calls may take long, so they are made in a background thread.
    """

    title: str
    package: str
    variables: tuple[str, ...] = ()
    flags: tuple[str, ...] = ("upload_dataset", "artifact_alias", "bbox_interval")
    threaded = True

    @abstractmethod
    def load(self) -> None:
        """Import the package; raise if it or an account is missing."""

    @abstractmethod
    def start(self, run: RunInfo) -> None:
        """Open the run, or reopen it if it is resumed; log its parameters and upload `run.data`."""

    @abstractmethod
    def log_scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Log losses, metrics and learning rates of an epoch."""

    @abstractmethod
    def log_image(self, tag: str, encoded: bytes, epoch: int) -> None:
        """Log an image, given as the bytes of a .jpg or .png."""

    def log_boxes(self, images: Sequence[BoxedImage], epoch: int) -> None:  # noqa: B027 - optional
        """Log images with their boxes as data, if the service can."""

    def log_files(self, files: Sequence[Path]) -> None:  # noqa: B027 - optional
        """Upload files of the run folder."""

    @abstractmethod
    def finish(self, metrics: Mapping[str, float] | None) -> None:
        """Close the run with the metrics of its best weights, named `best/...`; None if it was interrupted."""


def decode_rgb(encoded: bytes) -> Image.Image:
    """The RGB image of a .jpg or .png."""
    with Image.open(io.BytesIO(encoded)) as image:
        return image.convert("RGB")
