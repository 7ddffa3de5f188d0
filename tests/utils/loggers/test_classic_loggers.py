from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_jobs import build_tiny_model
from torch import nn

from utils.callbacks import Callbacks
from utils.core.errors import InputError
from utils.general import methods
from utils.loggers import LOGGERS, GenericLogger, Loggers, log_tensorboard_graph, services, web_project_name
from utils.loggers.comet.comet_utils import check_comet_resume
from utils.loggers.wandb.wandb_utils import check_wandb_resume

MESSAGES = logging.getLogger("script")
HEADER = (
    "               epoch,      train/box_loss,      train/obj_loss,      train/cls_loss,   metrics/precision,"
    "      metrics/recall,     metrics/mAP_0.5,metrics/mAP_0.5:0.95,        val/box_loss,        val/obj_loss,"
    "        val/cls_loss,               x/lr0,               x/lr1,               x/lr2"
)


class Recorder:
    """A tracking service that records the calls."""

    title, package, threaded, variables = "Recorder", "pip", False, ("RECORDER_KEY",)
    calls: list[tuple[str, Any]]

    def __getattr__(self, name: str) -> Any:
        return lambda *args: Recorder.calls.append((name, args))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Calls of a service in the place of W&B, which a variable enables."""
    Recorder.calls = []
    monkeypatch.setitem(services.SERVICES, "wandb", Recorder)
    monkeypatch.setenv("RECORDER_KEY", "1")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return Recorder.calls


def make_options(**changes: Any) -> Namespace:
    return Namespace(
        **{"project": "runs/train", "noplots": False, "evolve": None, "sync_bn": False, "hyp": {}, **changes}
    )


def run_training(save_dir: Path, opt: Namespace, include: tuple[str, ...]) -> Loggers:
    """The hooks of a training script of two epochs, through `Callbacks`."""
    loggers, callbacks = Loggers(save_dir, "a.pt", opt, {"lr0": 0.01}, MESSAGES, include), Callbacks()
    for name in methods(loggers):
        callbacks.register_action(name, callback=getattr(loggers, name))
    callbacks.run("on_pretrain_routine_start")
    labels = np.array([[0, 0.5, 0.5, 0.2, 0.2], [1, 0.3, 0.3, 0.1, 0.4]])
    callbacks.run("on_pretrain_routine_end", labels, {0: "square", 1: "disc"})
    loggers.on_params_update({"batch_size": 4})
    callbacks.run("on_train_start")
    model, images = build_tiny_model().train(), torch.rand(2, 3, 64, 64)
    targets = torch.tensor([[0, 0, 0.5, 0.5, 0.2, 0.2], [1, 1, 0.3, 0.3, 0.1, 0.4]])
    for epoch in range(2):
        callbacks.run("on_train_epoch_start")
        for batch in range(2):
            step = batch + 2 * epoch
            losses = [torch.tensor(0.05), torch.tensor(0.03), torch.tensor(0.02)]
            callbacks.run("on_train_batch_end", model, step, images, targets, ["a.jpg", "b.jpg"], losses)
        callbacks.run("on_train_epoch_end", epoch=epoch)
        callbacks.run("on_val_start")
        callbacks.run("on_val_image_end", None, None, "a.jpg", {}, None)
        callbacks.run("on_val_batch_end", 0, images, targets, [], [], [])
        callbacks.run("on_val_end", 4, *[np.zeros(1)] * 8, None)
        values = [*losses, 0.123456789, 0.5, 0.25 + epoch, 0.125, 0.07, 0.06, 0.05, 0.1, 1e-5, 0.01]
        callbacks.run("on_fit_epoch_end", values, epoch, 0.0, np.array([0.3]))
        callbacks.run("on_model_save", save_dir / "last.pt", epoch, epoch == 1, 0.0, np.array([0.3]))
    callbacks.run("on_train_end", save_dir / "last.pt", save_dir / "best.pt", 1, [0.1, 0.2, 0.3, 0.4, 5, 6, 7])
    return loggers


def test_run_folder_of_a_training_script(tmp_path: Path) -> None:
    loggers = run_training(tmp_path, make_options(), ("csv",))
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[0] == HEADER
    cells = [
        "0",
        "0.05",
        "0.03",
        "0.02",
        "0.12346",
        "0.5",
        "0.25",
        "0.125",
        "0.07",
        "0.06",
        "0.05",
        "0.1",
        "1e-05",
        "0.01",
    ]
    assert lines[1] == ",".join(f"{cell:>20}" for cell in cells)
    assert len(lines) == 3 and lines[2].split(",")[6].strip() == "1.25"
    for name in ("train_batch0.jpg", "train_batch1.jpg", "train_batch2.jpg", "labels.jpg", "results.png"):
        assert cv2.imread(str(tmp_path / name)) is not None, name
    assert not (tmp_path / "train_batch3.jpg").exists() and not list(tmp_path.glob("events*"))
    assert (loggers.csv, loggers.tb, loggers.wandb, loggers.remote_dataset) == (True, None, None, None)
    assert len(loggers.keys) == 13 and loggers.best_keys[-1] == "best/mAP_0.5:0.95"


def test_noplots_and_evolve(tmp_path: Path, recorder: list[tuple[str, Any]]) -> None:
    loggers = run_training(tmp_path, make_options(noplots=True, evolve=3), LOGGERS)
    assert [file.name for file in tmp_path.iterdir()] == ["results.csv"]
    assert loggers.tb is None and recorder == []


def test_tensorboard_of_a_training_script(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_training(tmp_path, make_options(), ("tb",))
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    scalars = {event.step: event.value for event in events.Scalars("metrics/mAP_0.5")}
    assert scalars == {0: 0.25, 1: 1.25}
    assert "labels" in events.Tags()["images"]
    assert any("Conv" in node.name for node in events.Graph().node)
    assert not (tmp_path / "results.csv").exists()


def test_services_hear_of_the_run(tmp_path: Path, recorder: list[tuple[str, Any]]) -> None:
    (tmp_path / "last.pt").write_bytes(b"weights")
    run_training(tmp_path, make_options(save_period=1), ("csv", "wandb"))
    names = [name for name, _ in recorder]
    assert names[:2] == ["load", "start"] and names[-1] == "finish"
    run = recorder[1][1][0]
    assert (run.folder, run.project, run.params["lr0"], run.start_epoch) == (tmp_path, "YOLOv5", 0.01, 0)
    assert "hyp" not in run.params
    scalars = [args for name, args in recorder if name == "log_scalars"]
    assert [epoch for _, epoch in scalars] == [0, 1] and scalars[1][0]["metrics/mAP_0.5"] == 1.25
    tags = [args[0] for name, args in recorder if name == "log_image"]
    assert {"labels", "train_batch0", "results"} <= set(tags)
    files = [args[0] for name, args in recorder if name == "log_files"]
    assert files[0] == [tmp_path / "last.pt"] and tmp_path / "results.csv" in files[-1]
    assert recorder[-1][1][0] == pytest.approx(
        {"best/epoch": 1, "best/precision": 0.1, "best/recall": 0.2, "best/mAP_0.5": 0.3, "best/mAP_0.5:0.95": 0.4}
    )


def test_hooks_of_release_6(tmp_path: Path, recorder: list[tuple[str, Any]]) -> None:
    """The arguments that training scripts of 6.0 pass."""
    loggers = Loggers(tmp_path, opt=make_options(), include=("wandb",))
    loggers.on_pretrain_routine_end()
    images, targets = torch.rand(2, 3, 64, 64), torch.zeros(0, 6)
    loggers.on_train_batch_end(1, nn.Conv2d(3, 4, 1), images, targets, ["a.jpg", "b.jpg"], True, False)
    loggers.on_val_end()
    loggers.on_train_end(tmp_path / "last.pt", tmp_path / "best.pt", True, 4, (0.1, 0.2, 0.3, 0.4, 0, 0, 0))
    assert [file.name for file in tmp_path.iterdir()] == ["train_batch1.jpg"]
    assert recorder[-1][1][0]["best/epoch"] == 4 and recorder[-1][1][0]["best/mAP_0.5:0.95"] == 0.4


def test_disabled_services_are_not_used(monkeypatch: pytest.MonkeyPatch, recorder: list[tuple[str, Any]]) -> None:
    assert services.is_enabled("wandb")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert not services.is_enabled("wandb")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("RECORDER_KEY")
    assert not services.is_enabled("wandb")


def test_resume_replaces_later_epochs(tmp_path: Path) -> None:
    for epochs in (range(3), range(2, 4)):
        loggers = Loggers(tmp_path, opt=make_options(), include=("csv",))
        for epoch in epochs:
            loggers.on_fit_epoch_end([epoch] * 13, epoch, 0, 0)
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert [line.split(",")[0].strip() for line in lines[1:]] == ["0", "1", "2", "3"]


# -- tasks other than detection ----------------------------------------------------------------------------------------


def test_generic_logger(tmp_path: Path, recorder: list[tuple[str, Any]]) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = GenericLogger(make_options(save_dir=tmp_path, project="runs/train-seg"), MESSAGES)
    logger.update_params({"epochs": 2})
    for epoch in range(2):
        logger.log_metrics(
            {"train/loss": torch.tensor(0.5), "metrics/accuracy_top1": 0.25 + epoch, "lr/0": 1e-3}, epoch
        )
    cv2.imwrite(str(tmp_path / "train_images.jpg"), np.full((20, 30, 3), (250, 0, 0), np.uint8))
    logger.log_images(tmp_path / "train_images.jpg", name="Train Examples")
    logger.log_images([tmp_path / "train_images.jpg", tmp_path / "none.jpg"], "Mosaics", epoch=1)
    logger.log_graph(build_tiny_model(), (64, 96))
    (tmp_path / "best.pt").write_bytes(b"weights")
    logger.log_model(tmp_path / "best.pt", 2, metadata={"epochs": 2})
    logger.log_metrics({"metrics/accuracy_top1": 2.0}, 1)  # of best.pt: not a row
    logger.log_metrics({"best/epoch": 1}, 1)
    lines = logger.csv.read_text().splitlines()
    assert lines == [
        ",".join(f"{cell:>23}" for cell in cells)
        for cells in (
            ("epoch", "train/loss", "metrics/accuracy_top1", "lr/0"),
            ("0", "0.5", "0.25", "0.001"),
            ("1", "0.5", "1.25", "0.001"),
        )
    ]
    logger.tb.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    assert [event.value for event in events.Scalars("metrics/accuracy_top1")] == [0.25, 1.25, 2.0]
    assert [event.step for event in events.Images("train_images")] == [0, 1]
    image = cv2.imdecode(np.frombuffer(events.Images("train_images")[0].encoded_image_string, np.uint8), 1)
    assert image[10, 15, 0] > 240 and image[10, 15, 2] < 10  # blue in both
    assert events.Graph().node
    assert [name for name, _ in recorder].count("start") == 1
    run = recorder[1][1][0]
    assert (run.project, run.params["epochs"]) == ("YOLOv5-Segment", 2)
    tags = [args[0] for name, args in recorder if name == "log_image"]
    assert tags == ["Train Examples/train_images", "Mosaics/train_images"]
    assert ("log_files", ([tmp_path / "best.pt"],)) in recorder
    del logger
    assert recorder[-1] == ("finish", ({},))


def test_generic_logger_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = GenericLogger(make_options(save_dir=str(tmp_path)), MESSAGES, include=())
    logger.log_graph(nn.Conv2d(3, 4, 1))
    logger.log_images([])
    assert (logger.tb, logger.wandb, logger.save_dir) == (None, None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_graph_of_a_network_leaves_it_alone() -> None:
    class Board:
        def add_graph(self, network: Any, inputs: Any) -> None:
            self.output = network(torch.zeros(2, 4, 40, 40)).shape

    board, model = Board(), nn.DataParallel(nn.Sequential(nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)).eval())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for imgsz in (32, (16, 24)):
        log_tensorboard_graph(board, model, imgsz)
        assert board.output == (2, 2, 38, 38)
    assert not model.module.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_graph_that_cannot_be_traced_is_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("openyolov5"), "propagate", True)
    log_tensorboard_graph(object(), nn.Conv2d(3, 4, 1), 32)
    assert "no graph of the network (AttributeError" in caplog.text


@pytest.mark.parametrize(
    ("project", "name"),
    [
        ("runs/train", "YOLOv5"),
        ("runs/train-cls", "YOLOv5-Classify"),
        ("runs/train-seg", "YOLOv5-Segment"),
        ("birds", "birds"),
    ],
)
def test_web_project_name(project: str, name: str) -> None:
    assert web_project_name(project) == name


@pytest.mark.parametrize(
    ("check", "address"),
    [(check_comet_resume, "comet://team/project/key"), (check_wandb_resume, "wandb-artifact://team/project/key")],
)
def test_runs_of_services_are_not_resumed(check: Callable[[Any], bool], address: str) -> None:
    for resume in (False, True, "runs/train/exp/weights/last.pt"):
        assert check(Namespace(resume=resume)) is False
    assert check(Namespace()) is False
    with pytest.raises(InputError, match=f"--resume {address}: runs are resumed from a local file"):
        check(Namespace(resume=address))
