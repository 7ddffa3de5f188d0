"""Training callback that reports a run to experiment trackers."""

from __future__ import annotations

import copy
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from utils.core.logging import LOGGER
from utils.core.types import Batch, Prediction
from utils.datasets.index.labels import get_label_path
from utils.loggers.base import BoxedImage, RunInfo, Tracker

MAX_BOXED_IMAGES = 8  # of a validation batch
MIN_SCORE = 0.25  # of the boxes logged
CLOSE_WAIT_S = 30.0  # for pending calls at the end of training, plus a second per megabyte of files
FINAL_IMAGES = ("results.png", "confusion_matrix.png", "*_curve.png", "labels.jpg", "val_batch*_pred.jpg")
FINAL_FILES = ("opt.yaml", "hyp.yaml", "results.csv", "train.log", "weights/best.pt")


class SafeCaller:
    """Calls a tracker without ever disturbing training: the first error disables it, with one warning.

    Args:
        title: name of the tracker, for the warning.
        threaded: make the calls in a background thread, in order.
    """

    def __init__(self, title: str, *, threaded: bool) -> None:
        self.title, self.disabled = title, False
        self._queue: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._work, name=title, daemon=True)
            self._thread.start()

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call the function, in the background after the earlier calls."""
        if self._thread is None:
            self.run(function, *args)
        else:
            self._queue.put((function, *args))

    def run(self, function: Callable[..., object], *args: Any) -> None:
        """Call the function now."""
        if self.disabled:
            return
        try:
            function(*args)
        except Exception as error:  # services raise exceptions of their own libraries
            self.disable(error)

    def close(self, timeout_s: float) -> None:
        """Wait for pending calls, up to `timeout_s` seconds."""
        thread, self._thread = self._thread, None
        if thread is None or self.disabled:
            return
        self._queue.put(None)
        thread.join(timeout_s)
        if thread.is_alive():
            self.disable(f"no answer within {timeout_s:.0f} s, the last values may be missing there")

    def disable(self, reason: Exception | str) -> None:
        """Make no further calls, and warn once."""
        if not self.disabled:
            self.disabled = True
            reason = " ".join(str(reason).split())[:300] or type(reason).__name__
            LOGGER.warning(f"WARNING {self.title}: {reason}; training continues without it")

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            self.run(*call)


class TrackerCallback:
    """Reports a run to trackers: parameters, an epoch's scalars, images, and the files of the finished run."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = trackers
        self.callers = [SafeCaller(tracker.title, threaded=tracker.threaded) for tracker in trackers]
        self._params: dict[str, Any] = {}
        self._trainer: Any = None
        self._epoch, self._num_batches = 0, 0
        self._best_metrics: dict[str, float] | None = None
        self._upload_s = 0.0

    def on_params_update(self, *, params: Mapping[str, Any], **_: Any) -> None:
        self._params = dict(params)

    def on_pretrain_routine_end(self, *, trainer: Any, **_: Any) -> None:
        self._trainer = trainer
        for tracker, caller in zip(self.trackers, self.callers, strict=True):
            caller.run(tracker.load)  # not in the thread: a data loader forked meanwhile would inherit half an import
        if self._is_active():
            self._call("start", build_run_info(trainer, self._params))

    def on_train_epoch_start(self, *, epoch: int, **_: Any) -> None:
        self._epoch, self._num_batches = epoch, 0

    def on_val_batch_end(self, *, batch: Batch, predictions: Sequence[Prediction], **_: Any) -> None:
        """Log the first batch of some epochs."""
        self._num_batches += 1
        if self._num_batches > 1 or not self._images_due():
            return
        try:
            encoded = draw_batch(batch, predictions, self._trainer)
        except OSError as error:
            for caller in self.callers:
                caller.disable(error)
            return
        self._call("log_image", "validation", encoded, self._epoch)
        self._call("log_boxes", select_boxed_images(batch, predictions), self._epoch)

    def on_fit_epoch_end(self, *, epoch: int, metrics: Mapping[str, float], **_: Any) -> None:
        """Log the scalars of the epoch, and in the first one the training batches."""
        self._call("log_scalars", {name: float(value) for name, value in metrics.items()}, epoch)
        if epoch == self._trainer.start_epoch == 0 and not self._trainer.config.noplots:
            self._log_images(self._trainer.task.train_plots)

    def on_train_end(self, *, result: Any, **_: Any) -> None:
        """Log the plots and files of the run."""
        self._best_metrics = {name.replace("metrics/", "best/"): float(v) for name, v in result.metrics.items()}
        if not self._trainer.config.noplots:
            self._log_images(FINAL_IMAGES)
        folder = self._trainer.save_dir
        files = find_files(folder, FINAL_FILES)
        if not (folder / "weights/best.pt").exists():
            files += find_files(folder, ["weights/last.pt"])
        self._upload_s = sum(file.stat().st_size for file in files) / 1e6
        self._call("log_files", files)

    def teardown(self, **_: Any) -> None:
        """Close the run; later calls do nothing."""
        if self._trainer is not None:
            self._trainer = None
            self._call("finish", self._best_metrics)
            for caller in self.callers:
                caller.close(CLOSE_WAIT_S + self._upload_s)

    def _call(self, method: str, *args: Any) -> None:
        for tracker, caller in zip(self.trackers, self.callers, strict=True):
            caller.call(getattr(tracker, method), *args)

    def _is_active(self) -> bool:
        return not all(caller.disabled for caller in self.callers)

    def _images_due(self) -> bool:
        config = self._trainer.config
        interval = compute_image_interval(config.bbox_interval, config.epochs)
        epochs_done = self._epoch + 1
        due = interval > 0 and (epochs_done % interval == 0 or epochs_done == config.epochs)
        return due and not config.noplots and self._is_active()

    def _log_images(self, patterns: Sequence[str]) -> None:
        for file in find_files(self._trainer.save_dir, patterns):
            self._call("log_image", file.stem, file.read_bytes(), self._epoch)


def compute_image_interval(interval: int, epochs: int) -> int:
    """Epochs between logged validation images, for `--bbox_interval`: -1 is a tenth of the run, 0 is never."""
    return interval if interval >= 0 else max(1, epochs // 10)


def find_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Existing files of these patterns, in the order of the patterns."""
    return [file for pattern in patterns for file in sorted(folder.glob(pattern))]


def draw_batch(batch: Batch, predictions: Sequence[Prediction], trainer: Any) -> bytes:
    """The batch with its predictions as a JPEG; OSError if the run folder is not writable."""
    file = trainer.save_dir / f".{os.getpid()}.val.jpg"
    try:
        trainer.task.plot_batch(batch, file, predictions)
        return file.read_bytes()
    finally:
        file.unlink(missing_ok=True)


def select_boxed_images(batch: Batch, predictions: Sequence[Prediction]) -> list[BoxedImage]:
    """The first images of a batch with their confident boxes; none if they do not have three channels."""
    if batch.images.shape[1] != 3:
        return []
    images = []
    for path, image, prediction in zip(batch.paths, batch.images, predictions, strict=False):
        boxes = prediction.boxes
        rows = None if boxes is None else boxes[boxes[:, 4] >= MIN_SCORE].float().cpu().numpy()
        images.append(BoxedImage(path, image.permute(1, 2, 0).contiguous().numpy(), rows))
    return images[:MAX_BOXED_IMAGES]


def build_run_info(trainer: Any, params: Mapping[str, Any]) -> RunInfo:
    """Description of the run that a trainer is about to start."""
    config, task = trainer.config, trainer.task
    project = Path(config.project)
    is_default = project.parts[:1] == ("runs",)
    return RunInfo(
        folder=trainer.save_dir,
        project="OpenYOLOv5" if is_default else project.name or "OpenYOLOv5",
        params=dict(params),
        start_epoch=trainer.start_epoch,
        entity=config.entity,
        data=find_dataset_files(task.spec, config.upload_dataset) if config.upload_dataset else {},
        alias=config.artifact_alias,
        names=dict(task.class_names),
        build_example=lambda: build_example(trainer),
    )


def find_dataset_files(spec: Any, split: str | bool) -> dict[str, Path]:
    """Data YAML, images and labels of all splits, or of the named one, by the names to upload them under."""
    files = {"data.yaml": Path(spec.path)}
    for name, source in spec.splits.items():
        if split is True or str(split).lower() in ("true", name):
            for number, place in enumerate(map(Path, source.paths), 1):
                key = name if number == 1 else f"{name}{number}"
                files[key] = place
                labels = Path(get_label_path(str(place / "x.jpg"))).parent
                if labels != place and labels.is_dir():
                    files[f"{key}_labels"] = labels
    return files


def build_example(trainer: Any) -> tuple[Any, Any]:
    """A copy of the network on the CPU, in training mode (raw outputs), and two images for it."""
    model = copy.deepcopy(trainer.ema.model).cpu().train()
    imgsz = 2 * max(int(model.stride.max()), 32)
    return model, torch.zeros(2, int(model.yaml.get("ch", 3)), imgsz, imgsz)
