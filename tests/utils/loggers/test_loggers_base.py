from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from utils.config.train import LOGGERS, TrainConfig
from utils.core.errors import InputError
from utils.core.types import Batch, Prediction
from utils.loggers import registry
from utils.loggers.base import BoxedImage, RunInfo, Tracker
from utils.loggers.callback import SafeCaller, TrackerCallback, compute_image_interval, select_boxed_images
from utils.loggers.registry import SERVICES, choose_services


def test_calls_are_made_in_order_and_closing_waits() -> None:
    caller = SafeCaller("service", threaded=True)
    calls: list[int] = []

    def record(number: int) -> None:
        time.sleep(0.01)
        calls.append(number)

    for number in range(5):
        caller.call(record, number)
    caller.close(10)
    assert calls == [0, 1, 2, 3, 4]


def test_first_error_ends_the_calls_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    for threaded in (False, True):
        caller = SafeCaller(f"service {threaded}", threaded=threaded)
        calls: list[int] = []
        caller.call(lambda: 1 / 0)
        caller.call(calls.append, 1)
        caller.close(10)
        assert calls == []
        assert caplog.text.count(f"WARNING service {threaded}: division by zero; training continues without it") == 1


def test_hanging_service_does_not_block(caplog: pytest.LogCaptureFixture) -> None:
    released, started = threading.Event(), time.monotonic()
    caller = SafeCaller("service", threaded=True)
    for _ in range(6):
        caller.call(released.wait, 60)
    assert time.monotonic() - started < 5
    caller.close(0.2)
    assert time.monotonic() - started < 10
    assert "WARNING service: no answer within 0 s" in caplog.text
    released.set()


def test_batch_is_drawn_once_for_all_trackers(tmp_path: Path) -> None:
    class Task:
        num_plots = 0

        def plot_batch(self, batch: Batch, file: Path, predictions: object) -> None:
            self.num_plots += 1
            file.write_bytes(str(self.num_plots).encode())

    trackers = [Recorder(), Recorder()]
    reporter = TrackerCallback(trackers)
    config = SimpleNamespace(bbox_interval=1, epochs=2, noplots=False)
    reporter._trainer = SimpleNamespace(task=Task(), save_dir=tmp_path, config=config)
    for epoch in range(2):
        reporter.on_train_epoch_start(epoch=epoch)
        for _ in range(2):  # the first batch only
            batch = Batch(torch.zeros(1, 3, 8, 8), torch.zeros(0, 6), ["a.jpg"])
            reporter.on_val_batch_end(batch=batch, predictions=[Prediction()])
    for caller in reporter.callers:
        caller.close(10)
    for tracker in trackers:
        assert tracker.encoded == [b"1", b"2"]
    assert not list(tmp_path.iterdir())


def test_flag_offers_every_service() -> None:
    assert {*SERVICES, "none"} == set(LOGGERS)


def test_image_intervals() -> None:
    assert [compute_image_interval(-1, epochs) for epochs in (3, 10, 300)] == [1, 1, 30]
    assert [compute_image_interval(interval, 100) for interval in (0, 1, 7)] == [0, 1, 7]


def test_images_with_their_boxes() -> None:
    images = torch.zeros(2, 3, 4, 6, dtype=torch.uint8)
    images[1, 0] = 255
    rows = torch.tensor([[0, 0, 2, 2, 0.9, 1], [1, 1, 3, 3, 0.1, 0]])
    batch = Batch(images, torch.zeros(0, 6), ["a.jpg", "b.jpg"])
    boxed = select_boxed_images(batch, [Prediction(boxes=rows), Prediction()])
    assert boxed[0].boxes is not None
    np.testing.assert_allclose(boxed[0].boxes, [[0, 0, 2, 2, 0.9, 1]], rtol=1e-6)
    assert boxed[1].boxes is None
    assert boxed[1].image.shape == (4, 6, 3)
    assert boxed[1].image[0, 0].tolist() == [255, 0, 0]
    assert select_boxed_images(Batch(images[:, :1], batch.targets, batch.paths), [Prediction()] * 2) == []


def test_ids_are_read_by_resumed_runs(tmp_path: Path) -> None:
    def run(start: int) -> RunInfo:
        return RunInfo(tmp_path, "p", {}, start)

    assert run(1).load_id("wandb") is None
    run(0).save_id("wandb", "abc")
    run(0).save_id("mlflow", "def")
    assert run(0).load_id("wandb") is None
    assert (run(1).load_id("wandb"), run(1).load_id("mlflow"), run(1).load_id("comet")) == ("abc", "def", None)
    (tmp_path / "loggers.json").write_text("[")
    assert run(1).load_id("wandb") is None


class Recorder(Tracker):
    """A tracker that records its calls."""

    title = "recorder"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.encoded: list[bytes] = []

    def load(self) -> None:
        self.calls.append(("load",))

    def start(self, run: RunInfo) -> None:
        self.calls.append(("start", run.name, run.project, run.entity, run.alias, sorted(run.data), run.params["lr0"]))

    def log_scalars(self, values: Mapping[str, float], epoch: int) -> None:
        self.calls.append(("scalars", epoch, "metrics/mAP_0.5" in values))

    def log_image(self, tag: str, encoded: bytes, epoch: int) -> None:
        self.calls.append(("image", tag, epoch, encoded[:2] in (b"\xff\xd8", b"\x89P")))
        self.encoded.append(encoded)

    def log_boxes(self, images: Sequence[BoxedImage], epoch: int) -> None:
        self.calls.append(("boxes", len(images), epoch))

    def log_files(self, files: Sequence[Path]) -> None:
        self.calls.append(("files", [file.name for file in files]))

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        self.calls.append(("finish", None if metrics is None else sorted(n for n in metrics if n.startswith("best/"))))


def test_calls_of_a_whole_run(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from utils.train import setup
    from utils.train.finish import finish

    recorder = Recorder()
    monkeypatch.setattr(setup, "build_tracker_callbacks", lambda *_: [TrackerCallback([recorder])])
    values = {
        **{"data": str(tiny_data), "weights": "", "cfg": "yolov5n.yaml", "imgsz": 64, "batch_size": 4, "workers": 0},
        **{"epochs": 2, "project": str(tmp_path / "mine"), "device": "cpu", "noautoanchor": True, "loggers": "none"},
        **{"upload_dataset": True, "bbox_interval": 2, "entity": "me", "artifact_alias": "v3"},
    }
    trainer = setup.build_trainer(TrainConfig.from_kwargs(**values))
    finish(trainer, trainer.fit())
    data = ["data.yaml", "train", "train_labels", "val", "val_labels"]
    assert recorder.calls[:3] == [
        ("load",),
        ("start", "exp", "mine", "me", "v3", data, 0.01),
        ("scalars", 0, True),
    ]
    rest = recorder.calls[3:]
    assert rest[:3] == [("image", f"train_batch{i}", 0, True) for i in range(3)]
    assert rest[3:6] == [("image", "validation", 1, True), ("boxes", 6, 1), ("scalars", 1, True)]
    tags = [call[1] for call in rest[6:-2]]
    assert {"results", "confusion_matrix", "PR_curve", "val_batch0_pred"} <= set(tags)
    assert rest[-2:] == [
        ("files", ["opt.yaml", "hyp.yaml", "results.csv", "best.pt"]),
        ("finish", ["best/mAP_0.5", "best/mAP_0.5:0.95", "best/precision", "best/recall"]),
    ]


@pytest.fixture
def no_service_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in SERVICES.values():
        for variable in service.variables:
            monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("no_service_variables")
def test_choice_of_services(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    installed = {"tensorboard", "mlflow", "wandb"}
    monkeypatch.setattr(registry, "is_installed", lambda name: name in installed)
    assert choose_services(TrainConfig()) == ["tensorboard"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_services(TrainConfig()) == ["tensorboard", "mlflow"]
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("COMET_API_KEY", "key")
    assert choose_services(TrainConfig()) == ["tensorboard", "mlflow", "wandb"]
    assert "COMET_API_KEY is set, but comet is not installed; pip install comet_ml" in caplog.text
    assert choose_services(TrainConfig.from_kwargs(loggers=["none"])) == []
    assert choose_services(TrainConfig.from_kwargs(loggers=["wandb"])) == ["wandb"]
    with pytest.raises(InputError, match="--loggers clearml: not installed; pip install clearml"):
        choose_services(TrainConfig.from_kwargs(loggers=["clearml"]))
    with pytest.raises(InputError, match="--loggers visdom: must be one of tensorboard, mlflow"):
        TrainConfig.from_kwargs(loggers=["visdom"])


@pytest.mark.usefixtures("no_service_variables")
def test_unsupported_flags_are_named(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "is_installed", lambda _: True)
    choose_services(TrainConfig.from_kwargs(loggers=["mlflow"], entity="me", upload_dataset=True))
    assert "--entity is ignored: no logger of this run supports it" in caplog.text
    assert "these do: wandb, comet" in caplog.text
    assert "--upload_dataset" not in caplog.text
