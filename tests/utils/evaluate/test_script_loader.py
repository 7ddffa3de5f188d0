"""`val.run` with the network and the loader of a training script; metrics of networks whose outputs are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import val
from classify import val as classify_val
from segment import val as segment_val
from utils.core.errors import InputError

PERFECT = 0.995  # AP of perfect detections: the last of the 101 recalls is interpolated to 0
SIZE, PAD = 64, 16  # images of 64x32 px, letterboxed with 16 px above and below
DATA = {"names": {0: "a", 1: "b"}, "nc": 2, "val": "nowhere"}
BOXES = [[(0, 8, 24, 24, 40), (1, 40, 20, 56, 44)], [(1, 16, 28, 40, 36)]]  # class, corners in the network input
SHAPES = ((32, 64), ((1.0, 1.0), (0.0, float(PAD))))


def make_targets(batch: list[list[tuple[int, ...]]]) -> Tensor:
    """Rows image index, class, xywhn."""
    rows = [
        (image, label, (x1 + x2) / 2 / SIZE, (y1 + y2) / 2 / SIZE, (x2 - x1) / SIZE, (y2 - y1) / SIZE)
        for image, boxes in enumerate(batch)
        for label, x1, y1, x2, y2 in boxes
    ]
    return torch.tensor(rows)


def make_loader(*masks: Tensor) -> list[tuple[Any, ...]]:
    images = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8)
    return [(images, make_targets(BOXES), ("a.jpg", "b.jpg"), (SHAPES, SHAPES), *masks)] * 2


class Oracle(nn.Module):
    """Detects the labels, those of class 1 shifted by `shift` pixels to the right."""

    names = ("a", "b")

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.shift = shift

    def forward(self, images: Tensor, augment: bool = False) -> list[Any]:
        assert images.dtype == torch.float32 and not self.training
        rows = torch.zeros(len(images), 2, 7)
        for image, boxes in enumerate(BOXES):
            for number, (label, x1, y1, x2, y2) in enumerate(boxes):
                shift = self.shift * label
                row = [(x1 + x2) / 2 + shift, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.9, 0.0, 0.0]
                row[5 + label] = 1.0
                rows[image, number] = torch.tensor(row)
        return [rows, [rows]]


class Recorder:
    """Callbacks that keep what they are called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def run(self, hook: str, *args: Any) -> None:
        self.calls.append((hook, args))


def test_perfect_detections(tmp_path: Path) -> None:
    losses = iter([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])

    def compute_loss(maps: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        assert len(maps) == 1 and targets.shape == (3, 6)
        return torch.zeros(1), torch.tensor(next(losses))

    metrics, per_class, speed = val.run(
        DATA, batch_size=2, imgsz=SIZE, model=Oracle(), dataloader=make_loader(), save_dir=tmp_path / "new",
        plots=False, compute_loss=compute_loss, half=True, save_txt=True,
    )  # fmt: skip
    assert metrics == pytest.approx((1, 1, PERFECT, PERFECT, 2, 3, 4), abs=2e-3)
    assert per_class == pytest.approx([PERFECT, PERFECT], abs=1e-3)
    assert len(speed) == 3
    lines = (tmp_path / "new/labels/b.txt").read_text().splitlines()
    assert [float(cell) for cell in lines[0].split()] == pytest.approx([1, 28 / 64, 16 / 32, 24 / 64, 8 / 32])


def test_shifted_detections() -> None:
    """IoU of the boxes of class 1: 14 / 18 and 22 / 26 of their widths, above 0.75 and 0.8."""
    options = {"model": Oracle(shift=2), "dataloader": make_loader(), "plots": False, "imgsz": SIZE}
    (_, _, map50, mean, *losses), per_class, _ = val.run(DATA, **options)
    assert map50 == pytest.approx(PERFECT, abs=1e-3) and losses == [0, 0, 0]
    assert per_class[0] == pytest.approx(PERFECT, abs=1e-3)
    assert 0.6 < per_class[1] < 0.7  # six of ten thresholds, and half the recall at the seventh
    assert mean == pytest.approx(per_class.mean())
    (_, _, _, single, *_), of_one, _ = val.run(DATA, single_cls=True, **options)
    assert of_one.shape == (1,) and single == of_one[0]


def test_hooks() -> None:
    recorder = Recorder()
    val.run(DATA, model=Oracle(), dataloader=make_loader(), plots=False, imgsz=SIZE, callbacks=recorder)
    names = [name for name, _ in recorder.calls]
    batch = ["on_val_batch_start", "on_val_image_end", "on_val_image_end", "on_val_batch_end"]
    assert names == ["on_val_start", *batch, *batch, "on_val_end"]
    pred, predn, path, classes, image = recorder.calls[3][1]
    assert path == "b.jpg" and classes == {0: "a", 1: "b"} and image.shape == (3, SIZE, SIZE)
    assert pred[0].tolist() == pytest.approx([16, 28, 40, 36, 0.9, 1])
    assert predn[0].tolist() == pytest.approx([16, 12, 40, 20, 0.9, 1])  # without the padding
    number, _, targets, paths, shapes, out = recorder.calls[8][1]
    assert number == 1 and targets.shape == (3, 6) and paths == ["a.jpg", "b.jpg"] and len(out) == 2
    assert shapes[0] == SHAPES
    labels, tp, fp, p, *_, ap50, found, confusion = recorder.calls[-1][1]
    assert labels.tolist() == [2, 4] and tp.tolist() == [2, 4] and fp.tolist() == [0, 0]
    assert found.tolist() == [0, 1] and ap50 == pytest.approx([PERFECT] * 2, abs=1e-3) and (p > 0.99).all()
    assert confusion.matrix.diagonal().tolist() == [2, 4, 0]


class MaskOracle(Oracle):
    """An oracle whose masks fill their boxes."""

    task = "segment"

    def forward(self, images: Tensor, augment: bool = False) -> Any:
        rows, raw = super().forward(images)
        prototypes = torch.ones(len(images), 1, SIZE // 4, SIZE // 4)
        return torch.cat([rows, torch.ones_like(rows[..., :1])], dim=-1), prototypes, raw


@pytest.mark.parametrize("overlap", [True, False])
def test_masks(overlap: bool) -> None:
    """Labels whose masks are their boxes, with corners on the grid of the prototypes."""
    numbers, separate = torch.zeros(2, SIZE // 4, SIZE // 4), torch.zeros(3, SIZE // 4, SIZE // 4)
    for image, boxes in enumerate(BOXES):
        for number, (_, *corners) in enumerate(boxes):
            x1, y1, x2, y2 = (side // 4 for side in corners)
            numbers[image, y1:y2, x1:x2] = number + 1
            separate[image * 2 + number, y1:y2, x1:x2] = 1
    shapes = []

    def compute_loss(preds: Any, targets: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        shapes.append(tuple(masks.shape))
        return torch.zeros(1), torch.tensor([1.0, 2, 3, 4])

    metrics, per_class, _ = segment_val.run(
        DATA, model=MaskOracle(), dataloader=make_loader(numbers if overlap else separate), plots=False, imgsz=SIZE,
        overlap=overlap, mask_downsample_ratio=4, compute_loss=compute_loss,
    )  # fmt: skip
    assert metrics == pytest.approx((1, 1, PERFECT, PERFECT) * 2 + (1, 2, 3, 4), abs=2e-3)
    assert per_class.shape == (2,)
    assert shapes[0] == ((2, 16, 16) if overlap else (3, 16, 16))


def test_classifier() -> None:
    model = nn.Linear(7, 7, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(7))
    logits = torch.tensor([[7.0, 6, 5, 4, 3, 2, 1]] * 4)
    loader = [(logits[:2], torch.tensor([0, 1])), (logits[2:], torch.tensor([4, 6]))]
    top1, top5, loss = classify_val.run(model=model, dataloader=loader, criterion=nn.CrossEntropyLoss(), pbar=None)
    assert (top1, top5) == (0.25, 0.75)
    norm = np.log(np.exp(np.arange(1.0, 8)).sum())
    assert loss == pytest.approx(norm - np.mean([7, 6, 3, 1]), abs=1e-5)
    assert classify_val.run(model=model, dataloader=loader)[2] == 0
    with pytest.raises(InputError, match="it has no images"):
        classify_val.run(model=model, dataloader=[])


def test_network_of_another_task_is_refused() -> None:
    model: Any = Oracle()
    model.task = "classify"
    with pytest.raises(InputError, match="task 'classify' cannot be validated within a script"):
        val.run(DATA, model=model, dataloader=make_loader())
