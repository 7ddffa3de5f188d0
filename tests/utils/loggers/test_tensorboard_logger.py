from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from utils.loggers.base import RunInfo
from utils.loggers.callback import TrackerCallback
from utils.loggers.tensorboard import TensorBoardTracker

pytest.importorskip("tensorboard", reason="tensorboard is not installed")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PIXEL = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489")


def make_run(folder: Path, *, start_epoch: int = 0) -> RunInfo:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    params = {"lr0": 0.01, "freeze": [0], "optimizer": "SGD", "entity": None}
    return RunInfo(folder, "p", params, start_epoch, build_example=lambda: (model, torch.zeros(1, 3, 8, 8)))


def read_events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return events


def test_scalars_survive_resume(tmp_path: Path) -> None:
    first, second = TensorBoardTracker(), TensorBoardTracker()
    for tracker, start, epochs in ((first, 0, range(3)), (second, 2, range(2, 3))):
        tracker.load()
        tracker.start(make_run(tmp_path, start_epoch=start))
        for epoch in epochs:
            tracker.log_scalars({"val/box_loss": epoch / 2 if tracker is first else 8.0}, epoch)
        tracker.finish(None)
    events = read_events(tmp_path).Scalars("val/box_loss")
    assert {event.step: event.value for event in events} == {0: 0.0, 1: 0.5, 2: 8.0}


def test_images_graph_and_hparams_are_read_events(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(graph=True)
    tracker.load()
    tracker.start(make_run(tmp_path))
    tracker.log_scalars({"train/loss": 1.0}, 0)
    tracker.log_image("validation", PIXEL, 1)
    tracker.finish({"best/mAP_0.5": 0.25})
    events = read_events(tmp_path)
    image = events.Images("validation")[0]
    assert (image.step, image.encoded_image_string) == (1, PIXEL)
    operations = {node.op for node in events.Graph().node}
    assert {"aten::_convolution", "aten::relu"} <= operations
    assert events.Scalars("best/mAP_0.5")[0].value == 0.25
    plugins = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    for text in (b"optimizer", b"SGD", b"lr0", b"freeze"):
        assert text in plugins


def test_missing_package_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    callback = TrackerCallback([TensorBoardTracker()])
    with caplog.at_level(logging.INFO, "openyolov5"):
        callback.on_pretrain_routine_end(trainer=FakeTrainer(tmp_path))
        for epoch in range(2):
            callback.on_fit_epoch_end(epoch=epoch, metrics={"loss": 1.0})
    assert caplog.text.count("WARNING TensorBoard: ") == 1
    assert list(tmp_path.iterdir()) == []


class FakeTrainer:
    """A mock with the attributes that a callback reads."""

    def __init__(self, folder: Path) -> None:
        self.save_dir, self.start_epoch = folder, 0
        self.config: Any = type("Config", (), {"bbox_interval": -1, "epochs": 2, "noplots": True})


def test_full_disk_ends_the_events_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = TensorBoardTracker()
    tracker.load()
    tracker.start(make_run(tmp_path))
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    tracker._records._writer = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
    callback = TrackerCallback([tracker])
    callback._trainer = FakeTrainer(tmp_path)
    for epoch in range(2):
        callback.on_fit_epoch_end(epoch=epoch, metrics={"loss": np.float64(1.0)})
    assert caplog.text.count("WARNING TensorBoard: [Errno 28] No space left on device") == 1
    callback.teardown()
