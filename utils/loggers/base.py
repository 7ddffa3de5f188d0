"""What all loggers share: what they are told of a run, and how they are kept from disturbing it."""

from __future__ import annotations

import json
import os
import queue
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from utils.core.files import atomic_write
from utils.core.logging import LOGGER
from utils.core.types import Batch, Prediction

SHOWN_IMAGES = 8  # of a validation batch, with their boxes
LEAST_SCORE = 0.25  # of the boxes logged
CLOSE_WAIT_S = 30.0  # for what is left to send when training has ended, and a second more for each megabyte of files
IDS_FILE = "loggers.json"
WAITING_JOBS = 10000  # of a service that does not answer; later ones are dropped
LAST_IMAGES = ("results.png", "confusion_matrix.png", "*_curve.png", "labels.jpg", "val_batch*_pred.jpg")
LAST_FILES = ("opt.yaml", "hyp.yaml", "results.csv", "train.log", "weights/best.pt", "weights/last.pt")


@dataclass(frozen=True)
class BoxedImage:
    """A validation image with what was found in it.

    Attributes:
        image: (H, W, 3) RGB uint8, the network input.
        boxes: (n, 6) x1, y1, x2, y2 in its pixels, score, class; None where the task has no boxes.
    """

    path: str
    image: np.ndarray
    boxes: np.ndarray | None


@dataclass
class RunFacts:
    """What a logger is told of the run when it starts.

    Attributes:
        entity: account the run is kept under, `--entity`.
        data: what `--upload_dataset` asks for: the data YAML and the places of the splits, by names; empty: nothing.
        alias: `--artifact_alias`, the version name of the uploaded data.
        names: class names by number.
        sample: makes (the network on the CPU, an input for it), for a drawing of the graph.
    """

    folder: Path
    project: str
    params: dict[str, Any]
    epochs: int
    start_epoch: int
    entity: str | None = None
    data: dict[str, Path] = field(default_factory=dict)
    alias: str = "latest"
    names: dict[int, str] = field(default_factory=dict)
    sample: Callable[[], tuple[Any, Any]] | None = None

    @property
    def name(self) -> str:
        """Name of the run, that of its folder."""
        return self.folder.name

    def known_id(self, service: str) -> str | None:
        """What the service called this run before it was resumed."""
        if not self.start_epoch:
            return None
        try:
            known = json.loads((self.folder / IDS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        value = known.get(service) if isinstance(known, dict) else None
        return value if isinstance(value, str) else None

    def remember_id(self, service: str, value: str) -> None:
        """Note what the service calls this run, for a resumed one to go on with."""
        file = self.folder / IDS_FILE
        with _ids_lock:
            try:
                known = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                known = {}
            with atomic_write(file) as temporary:
                temporary.write_text(json.dumps({**known, service: value}), encoding="utf-8")


_ids_lock = threading.Lock()


class Tracker(Protocol):
    """One place that keeps numbers and images of runs. Every method may raise: its caller gives the place up then."""

    title: str

    def load(self) -> None:
        """Import the package; ImportError where it is missing, InputError-like text where it lacks a setting."""

    def start(self, run: RunFacts) -> None: ...
    def scalars(self, values: Mapping[str, float], epoch: int) -> None: ...
    def image(self, tag: str, encoded: bytes, epoch: int) -> None: ...
    def boxes(self, images: Sequence[BoxedImage], epoch: int) -> None: ...
    def files(self, files: Sequence[Path]) -> None: ...
    def finish(self, metrics: Mapping[str, float] | None) -> None:
        """Close the run; `metrics` of its best weights, or None where it did not come to its end."""


class Guard:
    """Calls of a tracker that never disturb training: in a thread of their own if they may take time.

    The first error is told in one line, and the tracker hears nothing more.

    Args:
        threaded: run the calls in the background, in order.
    """

    def __init__(self, title: str, *, threaded: bool) -> None:
        self.title, self.dead = title, False
        self._jobs: queue.Queue[Callable[[], object] | None] = queue.Queue(WAITING_JOBS)
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._work, name=title, daemon=True)
            self._thread.start()

    def do(self, job: Callable[[], object]) -> None:
        """Run the job now or, in the background, after those before it."""
        if self.dead:
            return
        if self._thread is None:
            self._run(job)
            return
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self.give_up("it does not answer")

    def close(self, wait_s: float) -> None:
        """Wait for the jobs, but no longer than so many seconds."""
        thread, self._thread = self._thread, None
        if thread is None or self.dead:
            return
        self._jobs.put(None)
        thread.join(wait_s)
        if thread.is_alive():
            self.give_up(f"no answer within {wait_s:.0f} s, the last numbers may be missing there")

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not self.dead:
                self._run(job)

    def _run(self, job: Callable[[], object]) -> None:
        try:
            job()
        except Exception as error:  # a service fails in every way its libraries know
            self.give_up(error)

    def give_up(self, reason: Exception | str) -> None:
        """Make no further calls, and say why."""
        if not self.dead:
            self.dead = True
            reason = " ".join(str(reason).split())[:300] or type(reason).__name__
            LOGGER.warning(f"WARNING {self.title}: {reason}; the run goes on without it")


class BatchDrawing:
    """A batch with its predictions as the task draws it, drawn once however many loggers want it."""

    def __init__(self) -> None:
        self._drawn: Callable[[], Batch | None] = lambda: None
        self._encoded = b""

    def of(self, batch: Batch, predictions: Sequence[Prediction], task: Any, folder: Path) -> bytes:
        """The drawing as JPEG; OSError where the run's folder takes no file."""
        if self._drawn() is not batch:
            file = folder / f".{os.getpid()}.val.jpg"
            try:
                task.plot_batch(batch, file, predictions)
                self._encoded, self._drawn = file.read_bytes(), weakref.ref(batch)
            finally:
                file.unlink(missing_ok=True)
        return self._encoded


class TrackerListener:
    """Tells a tracker of a run in the moments of the callbacks.

    Args:
        tracker: whom to tell.
        threaded: its calls may take time, so they are made in the background.
        drawing: of validation batches, shared by the listeners of a run.
    """

    def __init__(self, tracker: Tracker, *, threaded: bool = True, drawing: BatchDrawing | None = None) -> None:
        self.tracker, self.drawing = tracker, drawing or BatchDrawing()
        self.guard = Guard(tracker.title, threaded=threaded)
        self._params: dict[str, Any] = {}
        self._trainer: Any = None
        self._epoch, self._period, self._seen = 0, 1, 0
        self._metrics: Mapping[str, float] | None = None
        self._upload_s = 0.0

    def on_params_update(self, *, params: Mapping[str, Any], **_: Any) -> None:
        """Keep the settings until the run starts."""
        self._params = dict(params)

    def on_pretrain_routine_end(self, *, trainer: Any, **_: Any) -> None:
        """Open the run there."""
        self._trainer, config = trainer, trainer.config
        self._period = image_period(config.bbox_interval, config.epochs)
        try:
            self.tracker.load()  # not in the thread: a loader process that is forked meanwhile would see half of it
        except Exception as error:  # as in the background
            self.guard.give_up(error)
            return
        run = run_facts(trainer, self._params)
        self.guard.do(lambda: self.tracker.start(run))

    def on_train_epoch_start(self, *, epoch: int, **_: Any) -> None:
        """Know which epoch is validated."""
        self._epoch, self._seen = epoch, 0

    def on_val_batch_end(self, *, batch: Batch, predictions: Sequence[Prediction], **_: Any) -> None:
        """Log the images of the first batch, every so many epochs."""
        self._seen += 1
        if self._seen > 1 or not self._images_due():
            return
        epoch = self._epoch
        try:
            encoded = self.drawing.of(batch, predictions, self._trainer.task, self._trainer.save_dir)
        except OSError as error:  # a full disk
            self.guard.give_up(error)
            return
        boxed = boxed_images(batch, predictions)
        self.guard.do(lambda: self.tracker.image("validation", encoded, epoch))
        self.guard.do(lambda: self.tracker.boxes(boxed, epoch))

    def _images_due(self) -> bool:
        config = self._trainer.config
        last = self._epoch + 1 == config.epochs
        wanted = self._period > 0 and ((self._epoch + 1) % self._period == 0 or last)
        return wanted and not (config.noplots or self.guard.dead)

    def on_fit_epoch_end(self, *, epoch: int, metrics: Mapping[str, float], **_: Any) -> None:
        """Log the numbers of the epoch, and in the first one the training images."""
        values = {name: float(value) for name, value in metrics.items()}
        self.guard.do(lambda: self.tracker.scalars(values, epoch))
        if epoch == self._trainer.start_epoch == 0 and not self._trainer.config.noplots:
            self._images(self._trainer.task.traits.train_images, epoch)

    def on_train_end(self, *, result: Any, **_: Any) -> None:
        """Log the plots of the run and its files."""
        self._metrics = {name: float(value) for name, value in result.metrics.items()}
        if not self._trainer.config.noplots:
            self._images(LAST_IMAGES, self._epoch)
        files = existing(self._trainer.save_dir, LAST_FILES)
        if files and files[-1].name == "last.pt" and files[-2:-1] and files[-2].name == "best.pt":
            files.pop()  # one of the two serves; best.pt is the small one
        self._upload_s = sum(file.stat().st_size for file in files) / 1e6
        self.guard.do(partial(self.tracker.files, files))

    def _images(self, patterns: Sequence[str], epoch: int) -> None:
        for file in existing(self._trainer.save_dir, patterns):
            try:
                self.guard.do(partial(self.tracker.image, file.stem, file.read_bytes(), epoch))
            except OSError as error:
                self.guard.give_up(error)

    def teardown(self, **_: Any) -> None:
        """Close the run there; once."""
        if self._trainer is not None:
            metrics, self._trainer = self._metrics, None
            self.guard.do(lambda: self.tracker.finish(metrics))
            self.guard.close(CLOSE_WAIT_S + self._upload_s)


def image_period(interval: int, epochs: int) -> int:
    """Epochs between logged validation images: as asked, a tenth of the run for -1, 0 for none."""
    return interval if interval >= 0 else max(1, epochs // 10)


def existing(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of these names that are there, in their order."""
    return [file for pattern in patterns for file in sorted(folder.glob(pattern))]


def boxed_images(batch: Batch, predictions: Sequence[Prediction]) -> list[BoxedImage]:
    """The first images of a batch with the boxes worth showing; none where they have other than three channels."""
    if batch.images.shape[1] != 3:
        return []
    shown = []
    for path, image, found in zip(batch.paths, batch.images, predictions, strict=False):
        boxes = found.boxes
        rows = None if boxes is None else boxes[boxes[:, 4] >= LEAST_SCORE].float().cpu().numpy()
        shown.append(BoxedImage(path, image.permute(1, 2, 0).contiguous().numpy(), rows))
    return shown[:SHOWN_IMAGES]


def run_facts(trainer: Any, params: Mapping[str, Any]) -> RunFacts:
    """What loggers are told of the run that a trainer is about to begin."""
    config, task = trainer.config, trainer.task
    project = Path(config.project)
    default = project.parts[:1] == ("runs",)
    names = task.class_names
    return RunFacts(
        folder=trainer.save_dir,
        project="OpenYOLOv5" if default else project.name or "OpenYOLOv5",
        params={name: value for name, value in params.items() if name != "given"},
        epochs=config.epochs,
        start_epoch=trainer.start_epoch,
        entity=config.entity,
        data=uploaded_data(task.spec, config.upload_dataset) if config.upload_dataset else {},
        alias=config.artifact_alias,
        names=dict(names) if all(isinstance(name, str) for name in names.values()) else {},
        sample=lambda: traced_sample(trainer),
    )


def uploaded_data(spec: Any, wanted: str | bool) -> dict[str, Path]:
    """The data YAML and the places of its splits, of one split if it is named."""
    found = {"data.yaml": Path(spec.path)}
    for split, source in spec.splits.items():
        if wanted is True or str(wanted).lower() in ("true", split):
            for number, place in enumerate(source.places):
                found[split if number == 0 else f"{split}{number + 1}"] = Path(place)
                labels = labels_beside(Path(place))
                if labels is not None:
                    found[f"{split}_labels" if number == 0 else f"{split}{number + 1}_labels"] = labels
    return found


def labels_beside(place: Path) -> Path | None:
    """The folder of label files that belongs to a folder of images, by the layout images/x, labels/x."""
    if "images" not in place.parts:
        return None
    at = len(place.parts) - 1 - place.parts[::-1].index("images")
    folder = Path(*place.parts[:at], "labels", *place.parts[at + 1 :])
    return folder if folder.is_dir() else None


def traced_sample(trainer: Any) -> tuple[Any, Any]:
    """A copy of the network in training mode, which gives raw maps, and two images for it."""
    import copy

    import torch

    model = copy.deepcopy(trainer.ema.model).cpu().train()
    side = 2 * max(int(model.stride.max()), 32)
    return model, torch.zeros(2, int(model.yaml.get("ch", 3)), side, side)
