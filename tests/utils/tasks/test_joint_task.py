"""The joint task: which batch is for which loss, weights, and semantic masks where they belong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from models.yolo import JointOutput
from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.types import Batch, Letterbox, Prediction
from utils.datasets.index.data_yaml import load_spec
from utils.tasks.joint import SEMANTIC, JointTask, to_joint_output
from utils.tasks.options import DataOptions, TaskOptions
from utils.tasks.semantic import SemanticTask, compute_rarity_weights, get_plotted_mask

GRAPH: dict[str, Any] = {
    **{"nc": 2, "n_segcls": 5, "depth_multiple": 1.0, "width_multiple": 1.0},
    "anchors": [[6, 8, 12, 12], [16, 20, 30, 28]],
    "backbone": [[-1, 1, "Conv", [8, 6, 2, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [
        [-1, 1, "Conv", [8, 3, 2]],
        [[2, 3, 3], 1, "SegMaskPSP", ["n_segcls", 1, 8, False]],
        [[2, 3], 1, "Detect", ["nc", "anchors"]],
    ],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data YAML with two images (48x32) of a box each and three classes of pixels."""
    for split in ("train", "val"):
        for kind in ("images", "labels", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for name in "ab":
            cv2.imwrite(str(tmp_path / f"images/{split}/{name}.png"), np.full((32, 48, 3), 90, np.uint8))
            (tmp_path / f"labels/{split}/{name}.txt").write_text("1 0.5 0.5 0.5 0.5\n")
            classes = np.zeros((32, 48), np.uint8)
            classes[:8], classes[8:12] = 1, 255
            cv2.imwrite(str(tmp_path / f"masks/{split}/{name}.png"), classes)
    file = tmp_path / "set.yaml"
    file.write_text(
        "path: .\ntrain: images/train\nval: images/val\nnames: [x, y]\nsemantic: {names: [sky, road, tree]}\n"
    )
    return file


def make_task(data: Path, kind: type = JointTask, **options: Any) -> Any:
    loading = {name: options.pop(name) for name in ("imgsz", "stride") if name in options}
    settings = DataOptions(**{"imgsz": 64, "batch_size": 2, "workers": 0} | loading)
    specific = kind.options_type(**options)
    return kind(load_spec(data), Hyperparameters(warmup_iterations=0), TaskOptions(settings, specific=specific))


def load_batch(task: JointTask) -> Batch:
    """The one validation batch, with both kinds of labels."""
    ((batch,),) = list(task.build_eval_loader("val"))
    return batch


def test_task_weights_scale_the_total_only(data: Path) -> None:
    task = make_task(data, task_weights=(0.5, 2.0))
    model = task.build_model(GRAPH)
    assert (model.nc, model.semantic.names) == (2, {0: "sky", 1: "road", 2: "tree"})
    task.bind(model)
    batch = load_batch(task)
    preds = model.train()(batch.images.float() / 255)
    both = task.losses(preds, batch)
    boxes = task.losses(preds, replace(batch, semantic_masks=None))
    maps = task.losses(preds, replace(batch, kind=SEMANTIC))
    assert both is not None and boxes is not None and maps is not None
    assert (list(both.items), list(boxes.items)) == (["box", "obj", "cls", "sem"], ["box", "obj", "cls"])
    assert list(maps.items) == ["sem"]
    assert boxes.total.item() == pytest.approx(0.5 * 2 * sum(value.item() for value in boxes.items.values()), rel=1e-5)
    assert maps.total.item() == pytest.approx(2.0 * 2 * maps.items["sem"].item(), rel=1e-5)
    assert both.total.item() == pytest.approx((boxes.total + maps.total).item(), rel=1e-5)


def test_predictions_match_the_labels_of_the_batch(data: Path) -> None:
    task = make_task(data)
    model = task.build_model(GRAPH).eval()
    batch = load_batch(task)
    with torch.inference_mode():
        preds = model(batch.images.float() / 255)
    both, boxes = task.postprocess(preds, batch), task.postprocess(preds, replace(batch, semantic_masks=None))
    maps = task.postprocess(preds, replace(batch, kind=SEMANTIC))
    assert both[0].semantic_mask is not None and both[0].semantic_mask.shape == (32, 48)  # of the stored image
    assert both[0].boxes is not None and boxes[0].semantic_mask is None and maps[0].boxes is None
    exported = task.postprocess((preds.detection[0], preds.semantic), batch)
    assert torch.equal(exported[1].semantic_mask, both[1].semantic_mask)
    evaluator = task.build_evaluator()
    evaluator.update(boxes, batch)
    evaluator.update(maps, replace(batch, kind=SEMANTIC))
    result = evaluator.compute()
    names = ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95", "mIoU", "pixel_accuracy")
    assert list(result.metrics) == [f"metrics/{name}" for name in names]
    assert evaluator.semantic.confusion.sum() == 2 * (32 - 4) * 48


def test_fitness_is_weighted(data: Path) -> None:
    task = make_task(data, fitness=(0.0, 0.0, 2.0))
    batch = load_batch(task)
    assert batch.original_masks is not None
    perfect = [
        Prediction(boxes=torch.zeros(0, 6), semantic_mask=classes.where(classes < 3, torch.zeros_like(classes)))
        for classes in batch.original_masks
    ]
    evaluator = task.build_evaluator()
    evaluator.update(perfect, batch)
    result = evaluator.compute()
    assert result.metrics["metrics/mIoU"] == 1.0  # a class that does not occur does not count
    assert result.fitness == pytest.approx(2.0)


def test_states_of_two_ranks_are_merged(data: Path) -> None:
    task = make_task(data)
    batch = load_batch(task)
    assert batch.original_masks is not None
    evaluators = [task.build_evaluator() for _ in range(3)]
    predictions = [Prediction(boxes=torch.zeros(0, 6), semantic_mask=m % 3) for m in batch.original_masks]
    evaluators[0].update(predictions, batch)
    evaluators[1].update(predictions, replace(batch, kind=SEMANTIC))
    evaluators[2].merge([evaluators[0].state(), evaluators[1].state()])
    assert (evaluators[2].semantic.confusion == 2 * evaluators[0].semantic.confusion).sum() == 9
    assert evaluators[2].boxes.images == 4  # both predictions hold boxes


@pytest.mark.parametrize(
    ("options", "shared"),
    [({}, True), ({"seg_imgsz": 64}, True), ({"seg_imgsz": 96}, False), ({"joint_batches": "own"}, False)],
    ids=str,
)
def test_one_batch_if_sizes_agree(
    data: Path, options: dict[str, Any], shared: bool, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task(data, **options)
    assert task.boxes.shares_images("train") is shared
    assert task.boxes.shares_images("val") is (shared or "joint_batches" in options)
    with caplog.at_level("INFO", LOGGER.name):
        assert {batch.kind for batches in task.build_train_loader() for batch in batches} == (
            {""} if shared else {"", SEMANTIC}
        )
    assert ("with the same batches" in caplog.text) == shared
    assert ("with separate batches: " in caplog.text) != shared


def test_images_without_a_semantic_mask_are_counted(data: Path) -> None:
    mask = next((data.parent / "masks/train").iterdir())
    mask.unlink()
    task = make_task(data)
    assert "1 have no valid semantic mask and 0 have one" in str(task.boxes.explain_separate_batches("train"))
    with pytest.raises(InputError, match="--joint-batches shared: of the images"):
        make_task(data, joint_batches="shared").boxes.get_index("train")


def test_square_evaluation_has_one_size_per_part(data: Path) -> None:
    loader = make_task(data, seg_imgsz=96).build_eval_loader("val", rect=False, pad=0.0)
    sizes = {(batch.kind, tuple(batch.images.shape[2:])) for batches in loader for batch in batches}
    assert sizes == {("", (64, 64)), (SEMANTIC, (96, 96))}


def test_crops_have_the_shape_of_the_images_on_the_grid(data: Path) -> None:
    task = make_task(data, SemanticTask, imgsz=96, seg_imgsz=130)
    augmentation = task._build_augmentation(task.get_index("train"))
    assert (augmentation.base, augmentation.crop_hw) == (160, (64, 96))
    task = make_task(data, SemanticTask, imgsz=96, seg_imgsz=130, stride=64)
    assert task._build_augmentation(task.get_index("train")).crop_hw == (64, 128)


def test_rare_classes_weigh_more_with_constant_mean() -> None:
    pixels = np.array([900, 100, 0])
    weights = compute_rarity_weights(pixels)
    assert weights[0] < weights[1] < weights[2]
    assert float(np.dot(weights, pixels) / pixels.sum()) == pytest.approx(1.0)
    assert weights[1] / weights[0] == pytest.approx(np.log(1.92) / np.log(1.12))
    assert compute_rarity_weights(np.zeros(2, int)) == pytest.approx([1 / np.log(1.02)] * 2)


def test_class_weights_follow_the_labels(data: Path) -> None:
    pixels = np.array([20 * 48, 8 * 48, 0])
    assert make_task(data, SemanticTask, class_weights=True).compute_class_weights() == compute_rarity_weights(pixels)
    assert make_task(data, SemanticTask).compute_class_weights() is None


def test_predicted_mask_is_plotted_where_the_image_is() -> None:
    batch = Batch(
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(0, 6),
        ["a.jpg"],
        [Letterbox((8, 16), ratio_wh=(0.5, 0.5), pad_wh=(0, 2))],
    )
    predictions = [Prediction(semantic_mask=torch.ones(8, 16, dtype=torch.uint8))]
    drawn = get_plotted_mask(batch, 0, predictions, 255)
    assert drawn is not None and drawn.shape == (8, 8)
    assert (drawn[2:6] == 1).all() and (drawn[:2] == 255).all() and (drawn[6:] == 255).all()


def test_outputs_of_exported_networks() -> None:
    rows, logits = torch.zeros(1, 4, 7), torch.zeros(1, 3, 8, 8)
    assert to_joint_output((rows, logits)) == JointOutput(rows, logits)
    assert to_joint_output(JointOutput(1, 2)) == JointOutput(1, 2)
