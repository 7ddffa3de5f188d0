"""train.py and val.py with joint and semantic networks on tiny sets: files, columns, exact resume, error messages."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from interruptions import assert_same_run, stop_after_first_epoch
from torch import Tensor

import train
import val
from utils.core.errors import InputError
from utils.core.types import Batch
from utils.tasks.networks import load_checkpoint
from utils.train.trainer import Trainer

QUICK: dict[str, Any] = {
    "weights": "",
    "cfg": "yolov5n-psp.yaml",
    "hyp": "hyp.joint-small.yaml",
    "imgsz": 64,
    "batch_size": 4,
    "workers": 0,
    "device": "cpu",
}
MEASURE: dict[str, Any] = {"imgsz": 64, "workers": 0, "device": "cpu", "noplots": True}
BOX_METRICS = ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def semantic_data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_data` with a semantic mask for each image: ground, bright, dark, and an ignored border."""
    root = tmp_path_factory.mktemp("semantic") / "set"
    shutil.copytree(tiny_data.parent, root, ignore=shutil.ignore_patterns("*.cache"))
    for image in sorted(root.glob("images/*/*.jpg")):
        gray = cv2.imread(str(image), cv2.IMREAD_GRAYSCALE)
        classes = np.where(gray > 180, 1, np.where(gray < 60, 2, 0)).astype(np.uint8)
        classes[:2] = 255
        file = root / "masks" / image.parent.name / f"{image.stem}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), classes)
    file = root / "semantic.yaml"
    file.write_text(
        "path: .\ntrain: images/train\nval: images/val\nnames: {0: square, 1: disc}\n"
        "semantic: {masks: masks, names: {0: ground, 1: bright, 2: dark}}\n"
    )
    return file


@pytest.fixture(scope="session")
def two_sets(tiny_data: Path, semantic_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data YAML with one set for boxes and a smaller one for semantic masks."""
    root = tmp_path_factory.mktemp("two")
    images = sorted(semantic_data.parent.glob("images/train/*.jpg"))[:5]
    (root / "train.txt").write_text("".join(f"{image}\n" for image in images))
    semantic = semantic_data.read_text().replace("path: .", f"path: {semantic_data.parent}")
    (root / "maps.yaml").write_text(semantic.replace("train: images/train", f"train: {root / 'train.txt'}"))
    (root / "both.yaml").write_text(f"detection: {tiny_data}\nsemantic: maps.yaml\n")
    return root / "both.yaml"


@pytest.fixture(scope="module")
def trained(two_sets: Path, tmp_path_factory: pytest.TempPathFactory, run_script: Run) -> Path:
    """Run folder of two epochs over two sets, from the command line."""
    project = tmp_path_factory.mktemp("trained")
    flags = [text for name, value in QUICK.items() for text in (f"--{name.replace('_', '-')}", value)]
    result = run_script("train.py", "--data", two_sets, "--project", project, "--epochs", 2, *flags)
    assert result.returncode == 0, result.stderr
    assert "3 batches of 4 per epoch" in result.stderr  # 12 images with boxes; the semantic loader restarts
    return project / "exp"


def test_output_files(trained: Path) -> None:
    names = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    expected = {
        *("results.csv", "results.png", "labels.jpg", "confusion_matrix.png", "PR_curve.png", "weights/last.pt"),
        *("semantic_confusion_matrix.png", "semantic_iou.png", "train_batch0.jpg", "train_batch0_semantic.jpg"),
        *("val_batch0_labels.jpg", "val_batch0_pred.jpg"),
        *("val_batch0_semantic_labels.jpg", "val_batch0_semantic_pred.jpg", "weights/best.pt"),
    }
    assert expected <= names, expected - names


def test_columns_of_results_csv(trained: Path) -> None:
    lines = (trained / "results.csv").read_text().splitlines()
    losses = ("box_loss", "obj_loss", "cls_loss", "sem_loss")
    assert [name.strip() for name in lines[0].split(",")] == [
        "epoch",
        *(f"train/{name}" for name in losses),
        *(f"metrics/{name}" for name in (*BOX_METRICS, "mIoU", "pixel_accuracy")),
        *(f"val/{name}" for name in losses),
        *("x/lr0", "x/lr1", "x/lr2"),
    ]
    numbers = [[float(cell) for cell in line.split(",")] for line in lines[1:]]
    assert len(numbers) == 2 and np.isfinite(numbers).all()


def test_checkpoint_has_box_and_semantic_classes(trained: Path) -> None:
    checkpoint = load_checkpoint(trained / "weights/best.pt")
    assert checkpoint.task == "joint" and checkpoint.names == {0: "square", 1: "disc"}
    assert checkpoint.model.semantic is not None
    assert checkpoint.model.semantic.names == {0: "ground", 1: "bright", 2: "dark"}


def test_resumed_run_equals_an_uninterrupted_one(trained: Path, two_sets: Path, tmp_path: Path) -> None:
    stop_after_first_epoch(train.run, data=str(two_sets), project=str(tmp_path), epochs=2, noplots=True, **QUICK)
    train.run(resume=str(tmp_path / "exp/weights/last.pt"))
    assert_same_run(tmp_path / "exp", trained)


def test_val_agrees_with_training(trained: Path, two_sets: Path, tmp_path: Path) -> None:
    metrics, per_class, _ = val.run(
        weights=str(trained / "weights/best.pt"), data=str(two_sets), project=str(tmp_path), **MEASURE
    )
    assert len(metrics) == 10 and per_class.shape == (2,)
    lines = [line.split(",") for line in (trained / "results.csv").read_text().splitlines()]
    column = [name.strip() for name in lines[0]].index("metrics/mIoU")
    best = max(float(line[column]) for line in lines[1:])
    assert metrics[4] == pytest.approx(best, abs=0.02)  # best.pt stores FP16


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({"balance": "shortest", "seg_loss": "ohem", "seg_batch_size": 2, "seg_imgsz": 96}, 3),
        ({"cfg": "yolov5n-bise.yaml", "seg_loss": "focal", "aux_weights": [0.4, 0.4], "class_weights": True}, 3),
        ({"multi_scale": True, "image_weights": True, "task_weights": [1, 0], "class_weights": [1, 2, 3]}, 3),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_flags_train(
    options: dict[str, Any], batches: int, two_sets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        result = train.run(data=str(two_sets), project=str(tmp_path), epochs=1, noplots=True, **QUICK | options)
    assert len(result.metrics) == 6 and all(np.isfinite(value) for value in result.metrics.values())
    assert f" {batches} batches of 4 per epoch" in caplog.text


@pytest.mark.parametrize(("joint_batches", "kinds"), [("auto", {""}), ("own", {"", "semantic"})])
def test_joint_batches_of_a_set_with_both_labels(
    joint_batches: str, kinds: set[str], semantic_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds_used: set[str] = set()
    prepare_images = Trainer._prepare_images

    def record_kind(self: Trainer, batch: Batch, iteration: int) -> Tensor:
        kinds_used.add(batch.kind)
        assert batch.semantic_masks is not None or not (batch.kind or joint_batches == "auto")
        return prepare_images(self, batch, iteration)

    monkeypatch.setattr(Trainer, "_prepare_images", record_kind)
    result = train.run(
        data=str(semantic_data), project=str(tmp_path), epochs=1, noplots=True, joint_batches=joint_batches, **QUICK
    )
    assert kinds_used == kinds and len(result.metrics) == 6


def test_semantic_network(semantic_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = QUICK | {"cfg": "yolov5n-sem.yaml"}
    result = train.run(data=str(semantic_data), project=str(tmp_path), epochs=2, **options)
    assert set(result.metrics) == {"metrics/mIoU", "metrics/pixel_accuracy"}
    folder = tmp_path / "exp"
    for name in ("train_batch0.jpg", "val_batch0_labels.jpg", "val_batch0_pred.jpg", "semantic_iou.png"):
        assert (folder / name).is_file()
    metrics, per_class, _ = val.run(
        weights=str(folder / "weights/best.pt"),
        data=str(semantic_data),
        project=str(tmp_path),
        task="speed",
        save_json=True,
        **MEASURE,
    )
    assert "WARNING --save-json: ignored in task 'semantic'" in caplog.text
    assert len(metrics) == 3 and per_class.shape == (3,)


def test_unusable_options_are_refused(tiny_data: Path, semantic_data: Path, two_sets: Path, tmp_path: Path) -> None:
    def start(data: Path, **options: Any) -> None:
        train.run(data=str(data), project=str(tmp_path), epochs=1, **QUICK | options)

    with pytest.raises(InputError, match=r"tiny\.yaml: key 'semantic' is missing"):
        start(tiny_data)
    with pytest.raises(InputError, match="--quad joins images with boxes only"):
        start(semantic_data, quad=True)
    with pytest.raises(InputError, match=r"--joint-batches shared: .* names a set for each"):
        start(two_sets, joint_batches="shared")
    with pytest.raises(InputError, match="--class-weights: 2 numbers for the 3 semantic classes"):
        start(semantic_data, class_weights=[1.0, 2.0])
    with pytest.raises(InputError, match="one of task 'joint', task 'detect' needs Detect as its last layer"):
        start(semantic_data, task="detect")
    with pytest.raises(InputError, match="one of task 'detect', task 'joint' needs Detect and a semantic head"):
        start(semantic_data, task="joint", cfg="yolov5n.yaml")
    with pytest.raises(InputError, match="one of task 'joint', task 'semantic' needs a semantic head and no Detect"):
        start(semantic_data, task="semantic")
    with pytest.raises(InputError, match="--image-weights: not for task 'semantic'"):
        start(semantic_data, cfg="yolov5n-sem.yaml", image_weights=True)
