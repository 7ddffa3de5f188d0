from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from utils.config.hyp import Hyperparameters
from utils.core.types import Batch, Letterbox, Prediction
from utils.datasets.index.data_yaml import load_spec
from utils.datasets.prepare import shapes
from utils.metrics.mask_files import PolygonTextWriter
from utils.ops.prototypes import PrototypeMasks
from utils.tasks.base import PredictionFiles
from utils.tasks.options import DataOptions, TaskOptions
from utils.tasks.segment import SegmentationTask, select_label_masks

GRAPH = {
    "nc": 5,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[20, 20, 45, 45], [70, 70, 130, 130]],
    "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "Conv", [48, 3, 2]]],
    "head": [[-1, 1, "Conv", [64, 3, 2]], [[2, 3], 1, "Segment", ["nc", "anchors", 16, 32]]],
}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> SegmentationTask:
    """Segmentation of a few images of shapes, not augmented."""
    root = tmp_path_factory.mktemp("set")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "COUNTS", {"train": 6, "val": 4})
        shapes.prepare_shapes(root / "shapes", {})
    names = f"names: {list(shapes.CLASSES)}\n"
    (root / "set.yaml").write_text(f"path: shapes\ntrain: images/train\nval: images/val\n{names}")
    hyp = Hyperparameters(mosaic=0.0, scale=0.0, translate=0.0, fliplr=0.0, hsv_h=0.0, hsv_s=0.0, hsv_v=0.0)
    return SegmentationTask(
        load_spec(root / "set.yaml"), hyp, TaskOptions(DataOptions(imgsz=160, batch_size=4, workers=0))
    )


def test_a_network_learns_the_masks_of_a_batch(task: SegmentationTask) -> None:
    torch.manual_seed(0)
    model = task.build_model(GRAPH).train()
    task.bind(model)
    (batch,) = next(iter(task.build_train_loader()))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(25):
        result = task.losses(model(batch.images.float() / 255), batch)
        assert result is not None
        optimizer.zero_grad()
        result.total.backward()
        optimizer.step()
        losses.append(result.items["seg"].item())
    assert losses[-1] < 0.4 * losses[0], losses


def test_masks_of_training_and_validation(task: SegmentationTask) -> None:
    (trained,), (measured,) = next(iter(task.build_train_loader())), next(iter(task.build_eval_loader("val")))
    assert trained.masks is not None and measured.masks is not None
    assert trained.masks.dtype == torch.int16 and trained.masks.shape == (4, 40, 40)
    assert measured.masks.dtype == torch.bool and measured.masks.shape[0] == len(measured.targets)
    for batch in (trained, measured):
        masks = torch.cat([select_label_masks(batch, number) for number in range(len(batch))])
        assert len(masks) == len(batch.targets)
        y, x = (masks.any(dim=axis).float().argmax(dim=1) for axis in (2, 1))  # first row and column of each
        height, width = masks.shape[1:]
        left = (batch.targets[:, 2] - batch.targets[:, 4] / 2) * width
        top = (batch.targets[:, 3] - batch.targets[:, 5] / 2) * height
        seen = masks.flatten(1).any(dim=1)
        if batch is measured:  # whole objects, which others may hide in training
            assert seen.all() and (x - left).abs().max() < 1.6 and (y - top).abs().max() < 1.6


def perfect(task: SegmentationTask, batch: Batch) -> list[Prediction]:
    """Predictions that show the labels: a prototype for each of them."""
    predictions = []
    for number in range(len(batch)):
        masks = select_label_masks(batch, number).float() * 40 - 20
        rows = batch.targets[batch.targets[:, 0] == number]
        height, width = batch.images.shape[2:]
        center, half = rows[:, 2:4], rows[:, 4:6] / 2
        boxes = torch.cat((center - half, center + half), dim=1) * torch.tensor([width, height, width, height])
        found = torch.cat((boxes, torch.full((len(rows), 1), 0.9), rows[:, 1:2]), dim=1)
        coded = PrototypeMasks(masks, torch.eye(len(rows)), boxes, (height, width))
        predictions.append(Prediction(boxes=found, masks=coded))
    return predictions


def test_predictions_that_show_the_labels_are_right(task: SegmentationTask, tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    evaluator = task.build_evaluator()
    sinks = task.build_sinks(PredictionFiles(tmp_path, text=True, json=tmp_path / "p.json"), "val")
    for (batch,) in task.build_eval_loader("val", batch_size=2):
        predictions = perfect(task, batch)
        evaluator.update(predictions, batch)
        for sink in sinks:
            sink.update(predictions, batch)
    result = evaluator.compute()
    assert list(result.metrics)[-1] == "metrics/mAP_0.5:0.95(M)"
    assert result.metrics["metrics/mAP_0.5:0.95(B)"] == pytest.approx(0.995, abs=1e-3)
    assert result.metrics["metrics/mAP_0.5(M)"] == pytest.approx(0.995, abs=1e-3)
    assert result.metrics["metrics/mAP_0.5:0.95(M)"] > 0.7  # decoded masks end at the box, drawn ones a pixel later
    assert result.fitness == pytest.approx(
        sum(w * result.metrics[f"metrics/{n}({k})"] for k in "BM" for n, w in (("mAP_0.5", 0.1), ("mAP_0.5:0.95", 0.9)))
    )
    for sink in sinks:
        sink.close()
    evaluator.plot(tmp_path)
    assert (tmp_path / "MaskPR_curve.png").exists() and (tmp_path / "BoxF1_curve.png").exists()
    task.plot_batch(batch, tmp_path / "labels.jpg")
    task.plot_batch(batch, tmp_path / "pred.jpg", predictions)
    assert (tmp_path / "labels.jpg").stat().st_size and (tmp_path / "pred.jpg").stat().st_size


def test_masks_alone_decide_about_the_mask_metrics(task: SegmentationTask) -> None:
    (batch,) = next(iter(task.build_eval_loader("val")))
    predictions = perfect(task, batch)
    for prediction in predictions:
        assert prediction.masks is not None
        prediction.masks.coefficients.neg_()  # everything but the object
    evaluator = task.build_evaluator()
    evaluator.update(predictions, batch)
    metrics = evaluator.compute().metrics
    assert metrics["metrics/mAP_0.5(B)"] > 0.9 and metrics["metrics/mAP_0.5(M)"] < 0.2


def test_text_is_the_outline_of_the_largest_part(task: SegmentationTask, tmp_path: Path) -> None:
    prototypes = torch.full((1, 20, 20), -20.0)
    prototypes[0, 8:12, 5:15], prototypes[0, 2:4, 5:7] = 20.0, 20.0
    boxes = torch.tensor([[0.0, 0, 80, 80, 0.5, 3], [0.0, 0, 8, 4, 0.25, 1]])
    coded = PrototypeMasks(prototypes, torch.ones(2, 1), boxes[:, :4], (80, 80))
    fit = Letterbox(original_hw=(40, 80), pad_wh=(0, 20))
    batch = Batch(torch.zeros(1, 3, 80, 80, dtype=torch.uint8), torch.zeros(0, 6), ["a.jpg"], [fit])
    sink = PolygonTextWriter(tmp_path, task.get_index("val"), with_score=True)
    sink.update([Prediction(boxes=boxes, masks=coded)], batch)
    first, second = ([float(v) for v in line.split()] for line in (tmp_path / "a.txt").read_text().splitlines())
    assert first[0] == 3 and first[-1] == 0.5
    points = np.array(first[1:-1]).reshape(-1, 2) * (80, 40)
    assert points.min(axis=0).tolist() == pytest.approx([20.5, 12.5], abs=0.02)  # to the pixels' centers
    assert points.max(axis=0).tolist() == pytest.approx([59.5, 27.5], abs=0.02)
    assert second == [1, 0, 0, 0.1, 0, 0.1, 0, 0, 0, 0.25]  # no pixel: its box, which lies in the padding
