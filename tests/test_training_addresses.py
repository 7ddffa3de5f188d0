"""A training script on the public addresses: loaders, losses, optimizer, EMA, metrics and loggers work together."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from tiny_jobs import NAMES, build_tiny_model

from utils.autoanchor import check_anchors
from utils.callbacks import Callbacks
from utils.core.results_csv import read_results
from utils.dataloaders import create_dataloader
from utils.general import init_seeds, methods, non_max_suppression, one_cycle, xywh2xyxy
from utils.loggers import GenericLogger, Loggers
from utils.loss import ComputeLoss
from utils.metrics import ConfusionMatrix, ap_per_class, box_iou, fitness
from utils.segment.dataloaders import create_dataloader as create_mask_dataloader
from utils.segment.general import mask_iou, process_mask
from utils.segment.loss import ComputeLoss as ComputeMaskLoss
from utils.segment.metrics import KEYS, Metrics, ap_per_class_box_and_mask
from utils.segment.metrics import fitness as segment_fitness
from utils.torch_utils import EarlyStopping, ModelEMA, de_parallel, smart_optimizer

ROOT = Path(__file__).resolve().parents[1]
IMGSZ, EPOCHS, BATCH = 96, 8, 4
COLORS = ((240, 240, 240), (200, 30, 0))
IOU_THRESHOLDS = torch.linspace(0.5, 0.95, 10)


def load_hyp() -> dict[str, Any]:
    hyp: dict[str, Any] = yaml.safe_load((ROOT / "data/hyps/hyp.scratch-low.yaml").read_text())
    return {**hyp, "mosaic": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "label_smoothing": 0.0, "obj": 0.3}


def build(task: str) -> tuple[Any, torch.optim.Optimizer, ModelEMA, Any]:
    """Network with its attributes, optimizer, EMA and learning-rate scheduler of a training script."""
    init_seeds(1)
    model: Any = build_tiny_model(task)
    model.nc, model.hyp, model.names = len(NAMES), load_hyp(), NAMES
    optimizer = smart_optimizer(model, "SGD", lr=0.02, momentum=0.9, decay=5e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=one_cycle(1, 0.1, EPOCHS))
    return model, optimizer, ModelEMA(model, tau=20), scheduler


def match(detections: torch.Tensor, labels: torch.Tensor, ious: torch.Tensor) -> np.ndarray:
    """True positives (n, 10): each label takes the best detection of its class, by IoU (m, n)."""
    correct = np.zeros((len(detections), 10), bool)
    for label, row in zip(labels, ious, strict=True):
        row = torch.where(detections[:, 5] == label[0], row, -1.0)
        if len(row) and (best := int(row.argmax())) >= 0:
            correct[best] |= (row[best] >= IOU_THRESHOLDS).numpy()
    return correct


def test_detection(tiny_data: Path, tmp_path: Path) -> None:
    model, optimizer, ema, scheduler = build("detect")
    paths = [str(tiny_data.parent / "images" / split) for split in ("train", "val")]
    loader, dataset = create_dataloader(
        paths[0], IMGSZ, BATCH, 16, hyp=model.hyp, augment=True, workers=0, shuffle=True
    )
    val_loader, _ = create_dataloader(paths[1], IMGSZ, BATCH, 16, hyp=model.hyp, rect=True, pad=0.5, workers=0)
    loggers = Loggers(tmp_path, opt=Namespace(noplots=False, project="runs/train"), hyp=model.hyp, include=("csv",))
    callbacks, stopper = Callbacks(), EarlyStopping(patience=100)
    for name in methods(loggers):
        callbacks.register_action(name, callback=getattr(loggers, name))
    check_anchors(dataset, model=model, thr=model.hyp["anchor_t"], imgsz=IMGSZ)
    callbacks.run("on_pretrain_routine_end", np.concatenate(dataset.labels, 0), NAMES)
    compute_loss, step = ComputeLoss(model), 0
    for epoch in range(EPOCHS):
        model.train()
        means = torch.zeros(3)
        for number, (images, targets, files, _) in enumerate(loader):
            images = images.float() / 255
            loss, items = compute_loss(model(images), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            ema.update(model)
            means = (means * number + items) / (number + 1)
            callbacks.run("on_train_batch_end", model, step, images, targets, files, list(means))
            step += 1
        rates = [group["lr"] for group in optimizer.param_groups]
        scheduler.step()
        results, matrix = validate(ema.ema, val_loader, compute_loss)
        score = float(fitness(np.array(results).reshape(1, -1))[0])
        callbacks.run("on_fit_epoch_end", [*means, *results, *rates], epoch, score, score)
        assert not stopper(epoch=epoch, fitness=score)
    callbacks.run("on_train_end", tmp_path / "last.pt", tmp_path / "best.pt", epoch, results)
    table = read_results(tmp_path / "results.csv")
    total = sum(table[f"train/{name}_loss"] for name in ("box", "obj", "cls"))
    assert len(table) == 14 and len(total) == EPOCHS and total[-1] < 0.8 * total[0]
    assert matrix.matrix.sum() >= 15  # the labels of validation
    assert {"labels.jpg", "train_batch2.jpg", "results.png"} <= {file.name for file in tmp_path.iterdir()}


def validate(model: Any, loader: Any, compute_loss: ComputeLoss) -> tuple[list[float], ConfusionMatrix]:
    """Precision, recall, mAP50, mAP50-95 and the three losses of a split, and its confusion matrix."""
    model.eval()
    losses, stats, matrix = torch.zeros(3), [], ConfusionMatrix(nc=len(NAMES))
    with torch.no_grad():
        for images, targets, _, _ in loader:
            images = images.float() / 255
            height, width = images.shape[2:]
            preds, raw = model(images)
            losses += compute_loss(raw, targets)[1] / len(loader)
            targets[:, 2:] *= torch.tensor((width, height, width, height))
            for number, rows in enumerate(non_max_suppression(preds, 0.001, 0.6, multi_label=True)):
                labels = targets[targets[:, 0] == number, 1:]
                labels = torch.cat((labels[:, :1], xywh2xyxy(labels[:, 1:])), dim=1)
                matrix.process_batch(rows, labels) if len(rows) else matrix.process_batch(None, labels[:, 0])
                correct = match(rows, labels, box_iou(labels[:, 1:], rows[:, :4]))
                stats.append((correct, rows[:, 4].numpy(), rows[:, 5].numpy(), labels[:, 0].numpy()))
    _, _, p, r, _, ap, _ = ap_per_class(*(np.concatenate(values) for values in zip(*stats, strict=True)))
    return [p.mean(), r.mean(), ap[:, 0].mean(), ap.mean(), *losses.tolist()], matrix


@pytest.fixture
def polygon_data(tmp_path: Path) -> Path:
    """Eight images of 96 x 96 with two squares each, labeled by polygons; the color says the class."""
    rng = np.random.default_rng(0)
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for number in range(8):
        frame, rows = np.full((96, 96, 3), 90, np.uint8), []
        for left in (4, 50):
            x1, y1 = left + int(rng.integers(12)), int(rng.integers(4, 60))
            cv2.rectangle(frame, (x1, y1), (x1 + 24, y1 + 24), COLORS[number % 2], -1)
            corners = ((x1, y1), (x1 + 24, y1), (x1 + 24, y1 + 24), (x1, y1 + 24))
            rows.append(f"{number % 2} " + " ".join(f"{x / 96:.6f} {y / 96:.6f}" for x, y in corners))
        cv2.imwrite(str(images / f"{number}.png"), frame)
        (labels / f"{number}.txt").write_text("\n".join(rows) + "\n")
    return images


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "separate"])
def test_segmentation(polygon_data: Path, tmp_path: Path, overlap: bool) -> None:
    model, optimizer, ema, scheduler = build("segment")
    loader, dataset = create_mask_dataloader(
        str(polygon_data), IMGSZ, BATCH, 16, hyp=model.hyp, workers=0, shuffle=True, mask_downsample_ratio=4,
        overlap_mask=overlap,
    )  # fmt: skip
    check_anchors(dataset, model=model, thr=model.hyp["anchor_t"], imgsz=IMGSZ)
    compute_loss = ComputeMaskLoss(model, overlap=overlap)
    logger = GenericLogger(opt=Namespace(save_dir=tmp_path / "run"), console_logger=None, include=())
    for epoch in range(EPOCHS):
        model.train()
        means = torch.zeros(4)
        for number, (images, targets, _, _, masks) in enumerate(loader):
            loss, items = compute_loss(model(images.float() / 255), targets, masks=masks.float())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            ema.update(model)
            means = (means * number + items) / (number + 1)
        rates = [group["lr"] for group in optimizer.param_groups]
        scheduler.step()
        results = validate_masks(de_parallel(ema.ema), loader, compute_loss, overlap=overlap)
        assert segment_fitness(np.array(results).reshape(1, -1)).shape == (1,)
        logger.log_metrics(dict(zip(KEYS, [*means, *results, *rates], strict=True)), epoch)
    table = read_results(logger.csv)
    total = sum(table[f"train/{name}_loss"] for name in ("box", "seg", "obj", "cls"))
    assert len(table) == 20 and total[-1] < 0.9 * total[0]
    assert table["train/seg_loss"][-1] < 0.7 * table["train/seg_loss"][0]
    assert np.isfinite(table["val/seg_loss"]).all()


def validate_masks(model: Any, loader: Any, compute_loss: ComputeMaskLoss, *, overlap: bool) -> list[float]:
    """The eight metrics of boxes and masks and the four losses of a split."""
    model.eval()
    losses, stats, metrics = torch.zeros(4), [], Metrics()
    with torch.no_grad():
        for images, targets, _, _, masks in loader:
            preds, prototypes, raw = model(images.float() / 255)
            losses += compute_loss((raw, prototypes), targets, masks)[1] / len(loader)
            for number, rows in enumerate(non_max_suppression(preds, 0.01, 0.6, nm=8)):
                is_own = targets[:, 0] == number
                labels = targets[is_own, 1:]
                truth = masks[number] == torch.arange(1, len(labels) + 1)[:, None, None] if overlap else masks[is_own]
                found = process_mask(prototypes[number], rows[:, 6:], rows[:, :4], images.shape[2:])
                ious = mask_iou(truth.flatten(1), found.flatten(1))
                box_ious = box_iou(xywh2xyxy(labels[:, 1:]) * IMGSZ, rows[:, :4])
                both = match(rows, labels, ious), match(rows, labels, box_ious)
                stats.append((*both, rows[:, 4].numpy(), rows[:, 5].numpy(), labels[:, 0].numpy()))
    metrics.update(ap_per_class_box_and_mask(*(np.concatenate(values) for values in zip(*stats, strict=True))))
    return [*metrics.mean_results(), *losses.tolist()]
