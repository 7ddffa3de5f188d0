"""segment/*.py on a tiny set: files, columns, exact resume, error messages."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from confident_jobs import randomize_weights_
from interruptions import assert_same_run, stop_after_first_epoch
from tiny_jobs import NAMES, build_tiny_model

import export
import hubconf
import train as plain_train
from models.checkpoint import save_checkpoint
from segment import predict, train, val
from utils.core.errors import InputError
from utils.ops.rle import decode_rle
from utils.tasks.networks import load_model

QUICK: dict[str, Any] = {
    "weights": "",
    "cfg": "yolov5n-seg.yaml",
    "imgsz": 64,
    "batch_size": 4,
    "workers": 0,
    "device": "cpu",
}
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def polygon_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data YAML with 10 training and 5 validation images (96x64) of bright triangles and dark squares."""
    root = tmp_path_factory.mktemp("polygons")
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 5)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            frame, rows = rng.integers(90, 130, (64, 96, 3)).astype(np.uint8), []
            for label in rng.integers(2, size=0 if number == 1 else 3).tolist():
                unit = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]] if label else [[-1, 1], [1, 1], [0, -1]])
                half = rng.uniform(7, 14)
                points = unit * half + rng.uniform(half, (96 - half, 64 - half))
                cv2.fillPoly(frame, [points.astype(np.int32)], (20, 10, 30) if label else (230, 240, 250))
                rows.append(f"{label} " + " ".join(f"{v:.6f}" for v in (points / (96, 64)).flat) + "\n")
            cv2.imwrite(str(root / f"images/{split}/{number:03d}.jpg"), frame)
            (root / f"labels/{split}/{number:03d}.txt").write_text("".join(rows))
    file = root / "polygons.yaml"
    file.write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: triangle, 1: square}\n")
    return file


@pytest.fixture(scope="module")
def trained(polygon_data: Path, tmp_path_factory: pytest.TempPathFactory, run_script: Run) -> Path:
    """Run folder of three epochs, from the command line."""
    project = tmp_path_factory.mktemp("trained")
    flags = [text for name, value in QUICK.items() for text in (f"--{name.replace('_', '-')}", value)]
    result = run_script("segment/train.py", "--data", polygon_data, "--project", project, "--epochs", 3, *flags)
    assert result.returncode == 0, result.stderr
    return project / "exp"


def test_output_files(trained: Path) -> None:
    names = {p.relative_to(trained).as_posix() for p in trained.rglob("*") if p.is_file()}
    curves = {f"{kind}{curve}_curve.png" for kind in ("Box", "Mask") for curve in ("PR", "P", "R", "F1")}
    expected = {
        *("opt.yaml", "hyp.yaml", "results.csv", "results.png", "labels.jpg", "confusion_matrix.png"),
        *("train_batch0.jpg", "val_batch0_labels.jpg", "val_batch0_pred.jpg", "weights/last.pt", "weights/best.pt"),
    }
    assert expected | curves <= names, (expected | curves) - names


def test_columns_of_results_csv(trained: Path) -> None:
    lines = (trained / "results.csv").read_text().splitlines()
    losses = ("box_loss", "seg_loss", "obj_loss", "cls_loss")
    metrics = ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")
    assert [name.strip() for name in lines[0].split(",")] == [
        "epoch",
        *(f"train/{name}" for name in losses),
        *(f"metrics/{name}({kind})" for kind in "BM" for name in metrics),
        *(f"val/{name}" for name in losses),
        *("x/lr0", "x/lr1", "x/lr2"),
    ]
    assert len(lines) == 4 and {len(cell) for line in lines for cell in line.split(",")} == {23}


def test_resumed_run_equals_an_uninterrupted_one(trained: Path, polygon_data: Path, tmp_path: Path) -> None:
    stop_after_first_epoch(train.run, data=str(polygon_data), project=str(tmp_path), epochs=3, **QUICK)
    train.run(resume=str(tmp_path / "exp/weights/last.pt"))
    assert_same_run(tmp_path / "exp", trained)


@pytest.mark.parametrize(
    "options",
    [
        {"single_cls": True, "no_overlap": True, "mask_ratio": 2, "rect": True},
        {"multi_scale": True, "image_weights": True, "mask_ratio": 8, "autobalance": True},
        {"quad": True, "cache": "ram", "hyp": {"copy_paste": 1.0, "degrees": 20.0, "mixup": 1.0, "flipud": 0.5}},
    ],
    ids=lambda options: "-".join(options),
)
def test_flags_train(options: dict[str, Any], polygon_data: Path, tmp_path: Path) -> None:
    if "hyp" in options:
        base = Path(__file__).parents[2] / "data/hyps/hyp.scratch-low.yaml"
        text = base.read_text() + "".join(f"\n{name}: {value}" for name, value in options["hyp"].items())
        (tmp_path / "hyp.yaml").write_text(drop_duplicate_keys(text))
        options = options | {"hyp": str(tmp_path / "hyp.yaml")}
    result = train.run(data=str(polygon_data), project=str(tmp_path), epochs=1, **QUICK, **options)
    assert len(result.metrics) == 8 and all(np.isfinite(value) for value in result.metrics.values())


def drop_duplicate_keys(text: str) -> str:
    """Keep the last value of each key of a flat YAML mapping."""
    return "\n".join({line.split(":")[0]: line for line in text.splitlines() if ":" in line}.values())


def test_val_writes_polygons_and_run_length_codes(trained: Path, polygon_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    options = {"data": str(polygon_data), "imgsz": 64, "workers": 0, "device": "cpu", "project": str(tmp_path)}
    numbers, per_class, _ = val.run(
        weights=str(trained / "weights/best.pt"), conf_thres=1e-5, save_json=True, save_hybrid=True, **options
    )
    assert len(numbers) == 12 and per_class.shape == (2,)
    items = json.loads((tmp_path / "exp/best_predictions.json").read_text())
    assert items
    for item in items[:20]:
        mask = decode_rle(item["segmentation"])
        assert mask is not None and mask.shape == (64, 96)
        left, top, width, height = item["bbox"]
        rows, columns = np.nonzero(mask)
        if len(rows):
            assert left - 1 <= columns.min() and columns.max() <= left + width
            assert top - 1 <= rows.min() and rows.max() <= top + height
    lines = (tmp_path / "exp/labels/000.txt").read_text().splitlines()
    labels = (polygon_data.parent / "labels/val/000.txt").read_text().splitlines()
    for written, label in zip(lines, labels, strict=False):
        assert [float(v) for v in written.split()] == pytest.approx([float(v) for v in label.split()], abs=1e-5)
    assert len(lines) > len(labels)
    places = np.array([float(v) for line in lines for v in line.split()[1:]])
    assert all(len(line.split()) % 2 and len(line.split()) >= 7 for line in lines)
    assert (places >= 0).all() and (places <= 1).all()


def test_predict_writes_masks_polygons_and_transparent_crops(trained: Path, polygon_data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"source": str(polygon_data.parent / "images/val/000.jpg"), "imgsz": 64, "device": "cpu"}
    for name, retina in (("plain", False), ("fine", True)):
        summary = predict.run(
            weights=str(trained / "weights/best.pt"),
            conf_thres=1e-5,
            max_det=6,
            save_txt=True,
            save_conf=True,
            save_crop=True,
            retina_masks=retina,
            project=str(tmp_path),
            name=name,
            **options,
        )
        assert summary.images == 1
        drawn = cv2.imread(str(tmp_path / name / "000.jpg"))
        assert drawn.shape == (64, 96, 3)
        lines = (tmp_path / name / "labels/000.txt").read_text().splitlines()
        assert len(lines) == 6 and all(len(line.split()) % 2 == 0 and len(line.split()) >= 8 for line in lines)
        crops = list((tmp_path / name / "crops").rglob("*.png"))
        assert len(crops) == 6
        crop = cv2.imread(str(crops[0]), cv2.IMREAD_UNCHANGED)
        assert crop.shape[2] == 4 and set(np.unique(crop[..., 3])) <= {0, 255}


def test_ensemble_keeps_the_prototypes_of_each_member(trained: Path, polygon_data: Path) -> None:
    file = str(trained / "weights/best.pt")
    alone, twice = load_model(file), load_model([file, file])
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        rows, prototypes, _ = alone(images)
        joined, both = twice(images)
    assert both.shape[1] == 2 * prototypes.shape[1] and joined.shape[1] == 2 * rows.shape[1]
    for start, codes in ((0, joined[0, : rows.shape[1], 7:]), (1, joined[0, rows.shape[1] :, 7:])):
        masks = torch.einsum("nc,chw->nhw", codes[:5], both[0])
        torch.testing.assert_close(masks, torch.einsum("nc,chw->nhw", rows[0, :5, 7:], prototypes[0]))
        assert (codes[:, 32 - 32 * start : 64 - 32 * start] == 0).all()


def test_detector_weights_are_transferred(polygon_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = QUICK | {"cfg": "yolov5n.yaml"}
    detector = plain_train.run(data=str(polygon_data), project=str(tmp_path), name="d", epochs=1, noplots=True, **plain)
    config = QUICK | {"weights": str(detector.last)}
    with caplog.at_level("INFO"):
        train.run(data=str(polygon_data), project=str(tmp_path), name="s", epochs=1, noplots=True, **config)
    assert "Transferred 342/367 items" in caplog.text
    with pytest.raises(InputError, match=r"one of task 'detect', task 'segment' needs Segment .*yolov5s-seg\.yaml"):
        train.run(data=str(polygon_data), project=str(tmp_path), **config | {"cfg": ""})


def test_box_labels_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train: the labels are boxes; segmentation needs polygons"):
        train.run(data=str(tiny_data), project=str(tmp_path), **QUICK)
    with pytest.raises(InputError, match="one of task 'segment', task 'detect' needs Detect as its last layer"):
        plain_train.run(data=str(tiny_data), project=str(tmp_path), task="detect", **QUICK)


def test_evolution_has_mask_columns(polygon_data: Path, tmp_path: Path) -> None:
    options = {**QUICK, "epochs": 1, "noplots": True, "noautoanchor": True, "batch_size": 10}
    train.run(data=str(polygon_data), evolve=2, project=str(tmp_path), **options)
    header, *rows = (tmp_path / "exp/evolve.csv").read_text().splitlines()
    columns = [cell.strip() for cell in header.split(",")]
    assert columns[3:5] == ["metrics/mAP_0.5:0.95(B)", "metrics/precision(M)"]
    assert columns[8:13] == ["val/box_loss", "val/seg_loss", "val/obj_loss", "val/cls_loss", "lr0"]
    assert len(rows) == 2


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A segmenter with random weights that detects many objects with spread scores."""
    model = build_tiny_model("segment")
    randomize_weights_(model)
    file = tmp_path_factory.mktemp("lively") / "seg.pt"
    values = {"task": "segment", "yaml": model.yaml, "names": NAMES, "model": model.state_dict()}
    save_checkpoint(file, values)
    return str(file)


def test_exported_segmenter_equals_its_checkpoint(lively: str, polygon_data: Path, tmp_path: Path) -> None:
    (file,) = export.run(weights=lively, include="onnx", imgsz=[64, 96], dynamic=True)
    image = str(polygon_data.parent / "images/val/000.jpg")
    metrics, lines = [], []
    for number, weights in enumerate((lively, file)):
        options = {"weights": weights, "imgsz": 96, "device": "cpu", "project": str(tmp_path / str(number))}
        metrics.append(val.run(data=str(polygon_data), workers=0, noplots=True, **options)[0])
        predict.run(source=image, save_txt=True, save_conf=True, nosave=True, max_det=9, **options)
        lines.append((tmp_path / str(number) / "exp/labels/000.txt").read_text().splitlines())
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-3)
    assert len(lines[0]) == 9
    for expected, line in zip(*lines, strict=True):
        assert [float(v) for v in line.split()] == pytest.approx([float(v) for v in expected.split()], abs=1e-3)


def test_single_cls_with_polygons(lively: str, polygon_data: Path, tmp_path: Path) -> None:
    """Any detection may match any object, so recall is higher than per class."""
    options = {"weights": lively, "data": str(polygon_data), "imgsz": 96, "workers": 0, "device": "cpu"}
    options |= {"project": str(tmp_path), "noplots": True}
    (numbers, per_class, _), (together, of_one, _) = (val.run(single_cls=flag, **options) for flag in (False, True))
    assert (len(per_class), len(of_one)) == (2, 1)
    assert together[1] > numbers[1] and together[5] >= numbers[5], "recall of boxes, and of masks"


def test_hub_masks_of_an_exported_segmenter(lively: str, polygon_data: Path) -> None:
    (file,) = export.run(weights=lively, include="torchscript", imgsz=96)
    image = cv2.copyMakeBorder(cv2.imread(str(polygon_data.parent / "images/val/000.jpg")), 0, 32, 0, 0, 0)
    masks = [hubconf.custom(weights, device="cpu")(image, size=96).masks[0].dense() for weights in (lively, file)]
    assert len(masks[0]) > 5 and masks[0].any(axis=(1, 2)).sum() > 5
    for expected, mask in zip(*masks, strict=True):
        assert (expected & mask).sum() >= 0.99 * (expected | mask).sum()
