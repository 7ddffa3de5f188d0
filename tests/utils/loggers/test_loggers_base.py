from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from utils.config.base import LOGGERS, TrainConfig
from utils.core.errors import InputError
from utils.core.types import Batch, Prediction
from utils.loggers import base, registry
from utils.loggers.base import BatchDrawing, Guard, RunFacts, TrackerListener, boxed_images, image_period
from utils.loggers.registry import SERVICES, wanted_services


def test_calls_are_made_in_order_and_closing_waits() -> None:
    guard, heard = Guard("service", threaded=True), []
    for number in range(5):
        guard.do(lambda number=number: (time.sleep(0.01), heard.append(number)))
    guard.close(10)
    assert heard == [0, 1, 2, 3, 4]


def test_the_first_error_is_told_and_ends_the_calls(caplog: pytest.LogCaptureFixture) -> None:
    for threaded in (False, True):
        guard, heard = Guard(f"service {threaded}", threaded=threaded), []
        guard.do(lambda: 1 / 0)
        guard.do(lambda heard=heard: heard.append(1))
        guard.close(10)
        assert heard == []
        assert caplog.text.count(f"WARNING service {threaded}: division by zero; the run goes on without it") == 1


def test_a_service_that_hangs_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(base, "WAITING_JOBS", 3)
    released, started = threading.Event(), time.monotonic()
    guard = Guard("service", threaded=True)
    for _ in range(6):  # one is being done, three wait, more are refused
        guard.do(lambda: released.wait(60))
    assert time.monotonic() - started < 5
    assert "WARNING service: it does not answer" in caplog.text
    other = Guard("another", threaded=True)
    other.do(lambda: released.wait(60))
    other.close(0.2)
    assert time.monotonic() - started < 10
    assert "WARNING another: no answer within 0 s" in caplog.text
    released.set()


def test_a_batch_is_drawn_once_for_all_loggers(tmp_path: Path) -> None:
    class Painter:
        drawn = 0

        def plot_batch(self, batch: Batch, file: Path, predictions: object) -> None:
            self.drawn += 1
            file.write_bytes(str(self.drawn).encode())

    painter, drawing = Painter(), BatchDrawing()
    first, second = (Batch(torch.zeros(1, 3, 8, 8), torch.zeros(0, 6), ["a.jpg"]) for _ in range(2))
    shown = [drawing.of(batch, [Prediction()], painter, tmp_path) for batch in (first, first, second, second)]
    assert shown == [b"1", b"1", b"2", b"2"]
    assert not list(tmp_path.iterdir())


def test_the_flag_offers_every_service() -> None:
    assert {*SERVICES, "none"} == set(LOGGERS)


def test_periods_of_images() -> None:
    assert [image_period(-1, epochs) for epochs in (3, 10, 300)] == [1, 1, 30]
    assert [image_period(interval, 100) for interval in (0, 1, 7)] == [0, 1, 7]


def test_images_with_their_boxes() -> None:
    images = torch.zeros(2, 3, 4, 6, dtype=torch.uint8)
    images[1, 0] = 255
    rows = torch.tensor([[0, 0, 2, 2, 0.9, 1], [1, 1, 3, 3, 0.1, 0]])
    batch = Batch(images, torch.zeros(0, 6), ["a.jpg", "b.jpg"])
    shown = boxed_images(batch, [Prediction(boxes=rows), Prediction()])
    assert shown[0].boxes is not None
    np.testing.assert_allclose(shown[0].boxes, [[0, 0, 2, 2, 0.9, 1]], rtol=1e-6)
    assert shown[1].boxes is None
    assert shown[1].image.shape == (4, 6, 3)
    assert shown[1].image[0, 0].tolist() == [255, 0, 0]
    assert boxed_images(Batch(images[:, :1], batch.targets, batch.paths), [Prediction()] * 2) == []


def test_ids_are_for_resumed_runs(tmp_path: Path) -> None:
    def run(start: int) -> RunFacts:
        return RunFacts(tmp_path, "p", {}, 3, start)

    assert run(1).known_id("wandb") is None
    run(0).remember_id("wandb", "abc")
    run(0).remember_id("mlflow", "def")
    assert run(0).known_id("wandb") is None
    assert (run(1).known_id("wandb"), run(1).known_id("mlflow"), run(1).known_id("comet")) == ("abc", "def", None)
    (tmp_path / "loggers.json").write_text("[")
    assert run(1).known_id("wandb") is None


class Recorder:
    """A mock tracker that notes what it is told."""

    title = "recorder"

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def load(self) -> None:
        self.heard.append(("load",))

    def start(self, run: RunFacts) -> None:
        self.heard.append(("start", run.name, run.project, run.entity, run.alias, sorted(run.data), run.params["lr0"]))

    def scalars(self, values: dict[str, float], epoch: int) -> None:
        self.heard.append(("scalars", epoch, "metrics/mAP_0.5" in values))

    def image(self, tag: str, encoded: bytes, epoch: int) -> None:
        self.heard.append(("image", tag, epoch, encoded[:2] in (b"\xff\xd8", b"\x89P")))

    def boxes(self, images: list[Any], epoch: int) -> None:
        self.heard.append(("boxes", len(images), epoch))

    def files(self, files: list[Path]) -> None:
        self.heard.append(("files", [file.name for file in files]))

    def finish(self, metrics: dict[str, float] | None) -> None:
        self.heard.append(("finish", metrics is not None))


def test_a_run_is_told_from_start_to_end(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from utils.train import setup
    from utils.train.finish import finish

    recorder = Recorder()
    monkeypatch.setattr(setup, "build_listeners", lambda *_: [TrackerListener(recorder)])
    values = {
        **{"data": str(tiny_data), "weights": "", "cfg": "yolov5n.yaml", "imgsz": 64, "batch_size": 4, "workers": 0},
        **{"epochs": 2, "project": str(tmp_path / "mine"), "device": "cpu", "noautoanchor": True, "loggers": "none"},
        **{"upload_dataset": True, "bbox_interval": 2, "entity": "me", "artifact_alias": "v3"},
    }
    trainer = setup.build_trainer(TrainConfig.from_kwargs(**values))
    finish(trainer, trainer.fit())
    data = ["data.yaml", "train", "train_labels", "val", "val_labels"]
    assert recorder.heard[:3] == [
        ("load",),
        ("start", "exp", "mine", "me", "v3", data, 0.01),
        ("scalars", 0, True),
    ]
    rest = recorder.heard[3:]
    assert rest[:3] == [("image", f"train_batch{i}", 0, True) for i in range(3)]
    assert rest[3:6] == [("image", "validation", 1, True), ("boxes", 6, 1), ("scalars", 1, True)]
    tags = [call[1] for call in rest[6:-2]]
    assert {"results", "confusion_matrix", "PR_curve", "val_batch0_pred"} <= set(tags)
    assert rest[-2:] == [("files", ["opt.yaml", "hyp.yaml", "results.csv", "best.pt"]), ("finish", True)]


@pytest.fixture
def no_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in SERVICES.values():
        for variable in service.variables:
            monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("no_wishes")
def test_who_is_asked_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    installed = {"tensorboard", "mlflow", "wandb"}
    monkeypatch.setattr(registry, "is_installed", lambda name: name in installed)
    assert wanted_services(TrainConfig()) == ["tensorboard"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wanted_services(TrainConfig()) == ["tensorboard", "mlflow"]
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("COMET_API_KEY", "key")
    assert wanted_services(TrainConfig()) == ["tensorboard", "mlflow", "wandb"]
    assert "COMET_API_KEY is set, but comet is not installed; pip install comet_ml" in caplog.text
    assert wanted_services(TrainConfig.from_kwargs(loggers=["none"])) == []
    assert wanted_services(TrainConfig.from_kwargs(loggers=["wandb"])) == ["wandb"]
    with pytest.raises(InputError, match="--loggers clearml: not installed; pip install clearml"):
        wanted_services(TrainConfig.from_kwargs(loggers=["clearml"]))
    with pytest.raises(InputError, match="--loggers visdom: must be one of tensorboard, mlflow"):
        TrainConfig.from_kwargs(loggers=["visdom"])


@pytest.mark.usefixtures("no_wishes")
def test_flags_that_nobody_heeds_are_named(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "is_installed", lambda _: True)
    wanted_services(TrainConfig.from_kwargs(loggers=["mlflow"], entity="me", upload_dataset=True))
    assert "--entity: no effect" in caplog.text
    assert "these do: wandb, comet" in caplog.text
    assert "--upload_dataset" not in caplog.text
