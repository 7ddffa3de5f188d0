"""Classification as a task of the engine: loss, normalized input, drawing, exact resume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.checkpoint import load_training_state
from tests.class_sets import CLASSES, write_class_set
from utils.config.classify import ClassifyTrainConfig
from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.core.results_csv import read_rows
from utils.datasets.index.class_folders import load_class_data
from utils.ops.network_input import IMAGENET, InputBuffer, images_to_device
from utils.tasks.classify import ClassificationOptions, ClassificationTask, compute_probabilities
from utils.tasks.options import DataOptions, TaskOptions
from utils.train.finish import finish
from utils.train.setup import build_trainer
from utils.train.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def class_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_set(tmp_path_factory.mktemp("class sets") / "ein Satz")


def make_task(class_set: Path, hyp: Hyperparameters | None = None, **specific: Any) -> ClassificationTask:
    options = TaskOptions(DataOptions(imgsz=64, batch_size=4, workers=0), specific=ClassificationOptions(**specific))
    return ClassificationTask(load_class_data(class_set), hyp or Hyperparameters(), options)


def start(class_set: Path, project: Path, **options: Any) -> Trainer:
    settings = {"data": str(class_set), "imgsz": 64, "batch_size": 4, "workers": 0, "device": "cpu", "epochs": 3}
    project_of_run = {"project": str(project), "model": "yolov5n.yaml"}
    return build_trainer(ClassifyTrainConfig.from_kwargs(**{**settings, **project_of_run, **options}))


def test_batches_travel_as_bytes_and_are_normalized_once(class_set: Path) -> None:
    ((batch, *_), *_) = make_task(class_set).build_eval_loader("val")
    assert batch.images.dtype == torch.uint8
    assert batch.labels is not None
    assert len(batch.labels) == 4
    images = images_to_device(batch.images, CPU, pixels=IMAGENET)
    mean, std = np.array(IMAGENET.mean), np.array(IMAGENET.std)
    expected = (batch.images.numpy().transpose(0, 2, 3, 1) / 255 - mean) / std
    assert np.allclose(images.numpy().transpose(0, 2, 3, 1), expected, atol=1e-5)
    assert torch.equal(InputBuffer(CPU, pixels=IMAGENET).load(batch.images), images)
    gray = IMAGENET.normalize_(torch.full((1, 1, 2, 2), float(mean.mean())))
    assert torch.allclose(gray, torch.zeros(1, 1, 2, 2), atol=1e-6)


def test_smoothing_and_class_weights_apply_to_training_only(class_set: Path, tmp_path: Path) -> None:
    uneven = write_class_set(tmp_path / "set")
    for file in sorted((uneven / "train" / CLASSES[1]).iterdir())[2:]:
        file.unlink()
    hyp = Hyperparameters(label_smoothing=0.2)
    task = make_task(uneven, hyp, class_weights=True)
    ((batch, *_), *_) = task.build_eval_loader("val")
    logits = torch.tensor([[2.0, 0.0]]).repeat(4, 1)
    plain = task.losses(logits, batch)
    assert plain is not None
    expected = torch.nn.functional.cross_entropy(logits, batch.labels)
    assert plain.items["loss"].item() == pytest.approx(expected.item())
    model = task.build_model("yolov5n.yaml")
    task.bind(model)
    bound = task.losses(logits, batch)
    weights = torch.tensor([10 / (2 * 8), 10 / (2 * 2)])
    expected = torch.nn.functional.cross_entropy(logits, batch.labels, weight=weights, label_smoothing=0.2)
    assert bound is not None
    assert bound.total.item() == pytest.approx(expected.item())


def test_options_reach_the_network(class_set: Path) -> None:
    model = make_task(class_set, cutoff=6, dropout=0.25).build_model("yolov5n.yaml")
    assert len(model.model) == 6
    assert model.head.drop.p == 0.25
    assert model.names == dict(enumerate(CLASSES))
    assert make_task(class_set).compute_image_weights(np.array([1.0, 0.5])).tolist() == [0] * 8 + [0.125] * 8


def test_outputs_of_any_kind_become_probabilities(class_set: Path) -> None:
    logits = torch.tensor([[0.0, 2.0]])
    for preds in (logits, (logits,), [logits.half()]):
        assert torch.allclose(compute_probabilities(preds).sum(dim=1), torch.ones(1))
    task = make_task(class_set)
    assert task.outputs_agree(logits, logits + 0.1)
    assert not task.outputs_agree(logits, torch.tensor([[2.0, 0.0]]))
    assert not task.outputs_agree(logits, torch.full((1, 2), torch.nan))


def test_a_run_leaves_its_files_and_learns(class_set: Path, tmp_path: Path) -> None:
    trainer = start(class_set, tmp_path, epochs=6, model="yolov5n.yaml", cutoff=4, lr0=0.01)
    result = finish(trainer, trainer.fit())
    names = {p.relative_to(result.save_dir).as_posix() for p in result.save_dir.rglob("*") if p.is_file()}
    promised = {"opt.yaml", "results.csv", "results.png", "train_images.jpg", "test_images.jpg", "confusion_matrix.png"}
    assert promised | {"weights/last.pt", "weights/best.pt"} <= names
    assert not any(name.startswith(("val_batch", "train_batch")) for name in names)
    rows = read_rows(result.save_dir / "results.csv")
    assert list(rows[0]) == [
        "epoch",
        "train/loss",
        "val/loss",
        "metrics/accuracy_top1",
        "metrics/accuracy_top5",
        "lr/0",
    ]
    assert (result.save_dir / "results.csv").read_text().index(",") == 23
    assert [float(row["lr/0"]) for row in rows[:2]] == pytest.approx([0.01, 0.01 * (5 / 6 * 0.99 + 0.01)], rel=1e-3)
    assert float(rows[-1]["train/loss"]) < float(rows[0]["train/loss"])


def test_validation_loss_is_named_after_its_folder(tmp_path: Path) -> None:
    task = make_task(write_class_set(tmp_path / "set", splits={"train": 1, "test": 1}))
    row = task.build_results_row({"loss": 2.0}, {"metrics/accuracy_top1": 0.5}, {"loss": 1.0})
    assert list(row) == ["train/loss", "test/loss", "metrics/accuracy_top1"]


class StopAfter:
    """Ends a run as a Ctrl-C does, once an epoch is saved."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_model_save(self, *, epoch: int, **_: Any) -> None:
        if epoch == self.epoch:
            raise KeyboardInterrupt


def flatten_outputs(value: Any, place: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in nested mappings and lists, with its place."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in pairs:
        if isinstance(item, torch.Tensor):
            yield f"{place}/{key}", item
        yield from flatten_outputs(item, f"{place}/{key}")


@pytest.mark.parametrize("model", ["yolov5n.yaml", "resnet18"])
def test_resumed_run_equals_an_uninterrupted_one(class_set: Path, tmp_path: Path, model: str) -> None:
    settings = {"noplots": True, "dropout": 0.3, "model": model, **({"cutoff": 7} if "yolo" in model else {})}
    whole = start(class_set, tmp_path / "whole", **settings).fit()
    stopped = start(class_set, tmp_path / "stopped", **settings)
    stopped.callbacks.add(StopAfter(0))
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    last = stopped.last
    resumed = build_trainer(ClassifyTrainConfig.from_kwargs(resume=str(last))).fit()
    assert (resumed.save_dir / "results.csv").read_text() == (whole.save_dir / "results.csv").read_text()
    first, second = (load_training_state(run.last) for run in (whole, resumed))
    compared = 0
    for part in ("model", "ema", "optimizer"):
        for (place, a), (_, b) in zip(flatten_outputs(first[part]), flatten_outputs(second[part]), strict=True):
            assert torch.equal(a, b), f"{part}{place}"
            compared += 1
    assert compared > 100


def test_other_optimizers_and_refusals(class_set: Path, tmp_path: Path) -> None:
    trainer = start(class_set, tmp_path, epochs=1, optimizer="RMSProp", noplots=True, cutoff=4, image_weights=True)
    assert isinstance(trainer.optimizer, torch.optim.RMSprop)
    assert trainer.fit().epochs == 1
    with pytest.raises(InputError, match="unknown option rect"):
        start(class_set, tmp_path, rect=True)
