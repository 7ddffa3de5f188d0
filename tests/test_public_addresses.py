"""Public addresses: names that other programs import, and their arguments."""

from __future__ import annotations

import importlib
import json
import logging
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from utils import dataloaders, general, plots, torch_utils
from utils.augmentations import letterbox
from utils.core.logging import LOGGER
from utils.dataloaders import LoadImages
from utils.metrics import ConfusionMatrix, ap_per_class, bbox_iou, box_iou, fitness

ROOT = Path(__file__).resolve().parents[1]
ADDRESSES = {
    "models.common": "AutoShape Conv DetectMultiBackend Detections",
    "models.experimental": "Ensemble attempt_load",
    "models.yolo": "ClassificationModel Detect DetectionModel Model SegmentationModel",
    "utils.augmentations": "letterbox",
    "utils.dataloaders": "IMG_FORMATS VID_FORMATS LoadImages LoadScreenshots LoadStreams",
    "utils.general": "LOGGER Profile check_file check_img_size check_imshow check_requirements clip_boxes colorstr cv2 "
    "increment_path make_divisible non_max_suppression print_args scale_boxes scale_coords strip_optimizer xywh2xyxy "
    "xywhn2xyxy xyxy2xywh xyxy2xywhn",
    "utils.metrics": "ConfusionMatrix ap_per_class bbox_iou box_iou fitness",
    "utils.plots": "Annotator colors plot_results save_one_box",
    "utils.torch_utils": "de_parallel fuse_conv_and_bn model_info prune select_device smart_inference_mode sparsity "
    "time_sync",
}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    monkeypatch.setattr(LOGGER, "propagate", True)
    with caplog.at_level(logging.INFO, LOGGER.name):
        yield caplog


@pytest.mark.parametrize("module", ADDRESSES)
def test_addresses(module: str) -> None:
    for name in ADDRESSES[module].split():
        assert getattr(importlib.import_module(module), name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = importlib.import_module(module).nothing


STAR_NAMES = {  # what programs use after `from MODULE import *`
    "models.common": "AutoShape C3 Conv DetectMultiBackend Image Path autoShape cv2 letterbox math nn np pd torch",
    "models.experimental": "C3 Conv Ensemble MixConv2d attempt_download attempt_load nn np torch",
    "models.yolo": "C3 Concat Conv Detect Ensemble Model SPPF attempt_load deepcopy nn parse_model select_device torch",
    "utils.augmentations": "LOGGER T TF bbox_ioa cv2 letterbox math np random resample_segments torch",
    "utils.datasets": "F LoadImages Path Pool check_file cv2 json letterbox np os random repeat torch yaml",
    "utils.general": "Path ThreadPool check_img_size contextlib cv2 np os pd torch urllib xyxy2xywh yaml",
    "utils.metrics": "Path ap_per_class box_iou np plt torch",
    "utils.plots": "Annotator Image Path colors cv2 np os pd plot_one_box plt torch xywh2xyxy",
    "utils.torch_utils": "F LOGGER Path deepcopy math nn os select_device time time_sync torch",
}


@pytest.mark.parametrize("module", STAR_NAMES)
def test_star_imports(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"star_import_of_{module.replace('.', '_')}"
    (tmp_path / f"{name}.py").write_text(f"from {module} import *\n")
    monkeypatch.syspath_prepend(tmp_path)
    program = vars(importlib.import_module(name))
    assert set(STAR_NAMES[module].split()) <= set(program)
    modules = {"np": np, "cv2": cv2, "torch": torch, "Path": Path, "nn": torch.nn, "math": math, "Image": Image}
    assert all(program[key] is value for key, value in modules.items() if key in program)


@pytest.mark.parametrize("first", ["models.common", "utils.general", "utils.metrics"])
def test_each_may_be_imported_first(first: str) -> None:
    """In a new process, without earlier imports."""
    name = ADDRESSES[first].split()[1]
    code = f"from {first} import {name}; print({name}.__name__)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.stdout.strip() == name, process.stderr


def test_detection_script(shared: Path, tmp_path: Path) -> None:
    """A typical script: load, letterbox, inference, NMS, scale boxes, draw."""
    from models.common import DetectMultiBackend

    device = torch_utils.select_device("cpu")
    model = DetectMultiBackend(shared / "weights/yolov5n.pt", device=device, dnn=False, data=None, fp16=False)
    imgsz = general.check_img_size((640, 640), s=model.stride)
    dataset = LoadImages(str(shared / "data/images"), img_size=imgsz[0], stride=model.stride, auto=model.pt)
    model.warmup(imgsz=(1, 3, *imgsz))
    timers, lines = [general.Profile() for _ in range(3)], {}
    golden = np.load(shared / "reference/golden/yolov5n_coco.npz")
    for path, im, im0s, vid_cap, s in dataset:
        with timers[0]:
            im = torch.from_numpy(im).to(model.device)
            im = (im.half() if model.fp16 else im.float()) / 255
        with timers[1], torch.no_grad():
            pred = model(im[None], augment=False, visualize=False)
        with timers[2]:
            pred = general.non_max_suppression(pred, 0.25, 0.45, None, False, max_det=1000)
        (det,) = pred
        annotator = plots.Annotator(im0s.copy(), line_width=3, example=str(model.names))
        det[:, :4] = general.scale_boxes(im[None].shape[2:], det[:, :4], im0s.shape).round()
        for *xyxy, conf, cls in reversed(det):
            annotator.box_label(xyxy, f"{model.names[int(cls)]} {conf:.2f}", color=plots.colors(int(cls), True))
            plots.save_one_box(xyxy, im0s, file=tmp_path / "crops" / f"{Path(path).stem}.jpg", BGR=True)
        cv2.imwrite(str(tmp_path / Path(path).name), annotator.result())
        lines[Path(path).stem] = s
        expected = golden[f"{Path(path).stem}_nms_detect"]
        np.testing.assert_allclose(det[:, :4], expected[:, :4], atol=1e-4 * max(im0s.shape))
        np.testing.assert_allclose(det[:, 4:], expected[:, 4:], atol=1e-4)
        assert vid_cap is None
    assert sorted(lines) == ["bus", "zidane"]
    assert all(timer.t > 0 for timer in timers)
    assert len(list((tmp_path / "crops").glob("bus*.jpg"))) == 5


# -- boxes ------------------------------------------------------------------------------------------------------------


def test_box_conversions_keep_further_columns() -> None:
    rows = torch.tensor([[10.0, 20, 30, 60, 0.5, 7]])
    centered = general.xyxy2xywh(rows)
    assert centered.tolist() == [[20, 40, 20, 40, 0.5, 7]]
    assert general.xywh2xyxy(centered).tolist() == rows.tolist() == [[10, 20, 30, 60, 0.5, 7]]
    assert general.xyxy2xywhn(rows, w=100, h=80)[0, :4].tolist() == pytest.approx([0.2, 0.5, 0.2, 0.5])
    corners = general.xywhn2xyxy(np.array([[0.2, 0.5, 0.2, 0.5]]), 100, 80, padw=1, padh=2)
    assert corners[0].tolist() == pytest.approx([11, 22, 31, 62])
    outside = np.array([[-10.0, 0, 50, 90]])
    assert general.xyxy2xywhn(outside, w=100, h=80, clip=True).tolist() == [[0.25, 0.5, 0.5, 1]]


def test_scale_boxes_against_the_reference(shared: Path) -> None:
    golden = np.load(shared / "reference/golden/boxes.npz")
    boxes = torch.from_numpy(golden["a"].copy())
    scaled = general.scale_boxes((384, 640), boxes, (720, 1280))
    assert scaled is boxes  # in place
    np.testing.assert_allclose(scaled, golden["a_scaled_384x640_to_720x1280"], atol=1e-3)
    shifted = general.scale_coords((64, 64), torch.tensor([[12.0, 6, 22, 26]]), (30, 30, 3), ((2.0, 2.0), (2, 4)))
    assert shifted.tolist() == [[5, 1, 10, 11]]


def test_clip_boxes_in_place() -> None:
    boxes = torch.tensor([[-5.0, 2, 200, 300]])
    general.clip_boxes(boxes, (100, 150))
    assert boxes.tolist() == [[0, 2, 150, 100]]


def test_letterbox_against_the_reference(shared: Path) -> None:
    golden = np.load(shared / "reference/golden/letterbox.npz")
    for case, settings in enumerate(json.loads(str(golden["meta"]))):
        shape = settings["new_shape"]
        padded, ratio, pad = letterbox(
            golden[f"in{case}"],
            shape if isinstance(shape, int) else tuple(shape),
            auto=settings["auto"],
            scaleFill=settings["scale_fill"],
            scaleup=settings["scaleup"],
            stride=settings["stride"],
        )
        np.testing.assert_array_equal(padded, golden[f"out{case}"])
        assert ratio == pytest.approx(settings["ratio"])
        assert pad == pytest.approx(settings["pad"])


def test_letterbox_with_a_colored_border() -> None:
    padded, _, _ = letterbox(np.full((10, 20, 3), 9, np.uint8), (20, 20), color=(1, 2, 3), auto=False)
    assert padded[0, 0].tolist() == padded[-1, -1].tolist() == [1, 2, 3]
    assert padded[10, 10].tolist() == [9, 9, 9]


# -- metrics ----------------------------------------------------------------------------------------------------------


def test_overlaps_against_the_reference(shared: Path) -> None:
    golden = np.load(shared / "reference/golden/boxes.npz")
    a, b = torch.from_numpy(golden["a"]), torch.from_numpy(golden["b"])
    np.testing.assert_allclose(box_iou(a, b), golden["iou_matrix"], atol=1e-5)
    for name, kind in (("iou", {}), ("giou", {"GIoU": True}), ("diou", {"DIoU": True}), ("ciou", {"CIoU": True})):
        ious = bbox_iou(a, b, xywh=False, **kind)
        assert ious.shape == (64, 1)
        np.testing.assert_allclose(ious[:, 0], golden[name], atol=1e-5)
    one = bbox_iou(general.xyxy2xywh(a[:1]), general.xyxy2xywh(b))
    np.testing.assert_allclose(one[:, 0], golden["iou_matrix"][0], atol=1e-5)


def test_ap_per_class_against_the_reference(shared: Path, tmp_path: Path) -> None:
    golden = np.load(shared / "reference/golden/ap.npz")
    inputs = [golden[name] for name in ("tp", "conf", "pred_cls", "target_cls")]
    tp, fp, p, r, f1, ap, classes = ap_per_class(*inputs, plot=True, save_dir=tmp_path, names=["a", "b"], prefix="Box")
    for values, name in ((p, "p"), (r, "r"), (f1, "f1"), (ap, "ap")):
        np.testing.assert_allclose(values, golden[name], atol=1e-6)
    assert tp.shape == fp.shape == classes.shape == p.shape
    assert (tmp_path / "BoxPR_curve.png").is_file()


def test_fitness() -> None:
    assert fitness(np.array([[0.1, 0.2, 0.5, 0.4, 9.0]])).tolist() == pytest.approx([0.1 * 0.5 + 0.9 * 0.4])


def test_confusion_matrix_against_the_reference(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = np.load(shared / "reference/golden/confusion.npz")
    matrix = ConfusionMatrix(nc=4)
    for detections, labels in zip(golden["detections"], golden["labels"], strict=True):
        matrix.process_batch(detections, labels)
    np.testing.assert_array_equal(matrix.matrix, golden["matrix"])
    tp, fp = matrix.tp_fp()
    np.testing.assert_array_equal(tp, golden["matrix"].diagonal()[:-1])
    np.testing.assert_array_equal(tp + fp, golden["matrix"].sum(axis=1)[:-1])
    matrix.plot(save_dir=tmp_path, names=["a", "b", "c", "d"])
    assert (tmp_path / "confusion_matrix.png").is_file()
    matrix.print()
    assert len(capsys.readouterr().out.splitlines()) == 5


# -- drawing ----------------------------------------------------------------------------------------------------------


def test_annotator() -> None:
    im = np.zeros((80, 100, 3), np.uint8)
    annotator = plots.Annotator(im, line_width=2)
    annotator.box_label(torch.tensor([20.0, 30, 60, 70]), "", color=(1, 2, 250))
    assert annotator.result() is im
    assert im[50, 20].tolist() == [1, 2, 250]
    assert im[50, 40].tolist() == [0, 0, 0]
    annotator.text((5, 5), "x", txt_color=(0, 9, 0), anchor="top")
    assert (im[4:12, 4:12] == (0, 9, 0)).all(axis=2).any()
    read_only = np.zeros((80, 100, 3), np.uint8)
    read_only.flags.writeable = False
    for image in (read_only, Image.new("RGB", (100, 80)), np.zeros((80, 100), np.uint8)):
        other = plots.Annotator(image)
        other.box_label([20, 30, 60, 70], "label")
        assert (other.result()[50, 20] == 128).all()
    assert not read_only.any()


def test_save_one_box(tmp_path: Path) -> None:
    im = np.zeros((100, 200, 3), np.uint8)
    im[..., 0] = np.arange(200)
    crop = plots.save_one_box(torch.tensor([50, 40, 90, 60]), im, file=tmp_path / "new" / "a.png", BGR=True)
    assert crop.shape == (31, 51, 3)  # 20 * 1.02 + 10 = 30.4 around 50, 40 * 1.02 + 10 = 50.8 around 70
    assert crop[0, :, 0].tolist() == list(range(44, 95))
    plots.save_one_box([50, 40, 90, 60], im, file=tmp_path / "new" / "a.jpg", BGR=True)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.jpg", "a2.jpg"]
    square = plots.save_one_box([50, 40, 90, 60], im, gain=1, pad=0, square=True, save=False)
    assert square.shape == (40, 40, 3)
    assert square[0, 0].tolist() == [0, 0, 50]  # from RGB to BGR


# -- settings, files, log ---------------------------------------------------------------------------------------------


def test_sizes() -> None:
    assert general.check_img_size(640) == 640
    assert general.check_img_size([600, 320], s=torch.tensor([8, 16, 64])) == [640, 320]
    assert general.check_img_size(32, s=32, floor=64) == 64
    assert general.make_divisible(33, 8) == 40
    assert general.make_divisible(33, torch.tensor([8, 32])) == 64


def test_increment_path(tmp_path: Path) -> None:
    assert general.increment_path(tmp_path / "exp", mkdir=True).is_dir()
    assert general.increment_path(tmp_path / "exp").name == "exp2"
    assert general.increment_path(tmp_path / "exp", exist_ok=True).name == "exp"
    assert general.increment_path(str(tmp_path / "exp"), sep="_", mkdir=True).name == "exp_2"
    assert general.increment_path(tmp_path / "exp", sep="_").name == "exp_3"


# -- sources ----------------------------------------------------------------------------------------------------------


def test_formats() -> None:
    assert {"jpg", "png", "webp"} <= set(dataloaders.IMG_FORMATS)
    assert {"mp4", "avi"} <= set(dataloaders.VID_FORMATS)
