"""Semantic masks of images: geometry, results, files, the hub's model, ensembles."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from semantic_nets import CLASSES, build_network, paint_image, write_checkpoint
from torch import Tensor

from models.experimental import Ensemble
from models.yolo import JointOutput
from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.pytorch import PyTorchBackend
from utils.core.errors import InputError
from utils.core.files import UniqueNames
from utils.datasets.sources.frames import SourceFrame
from utils.imaging.read import imwrite, read_image
from utils.imaging.semantic_classes import SemanticClasses
from utils.predict.autoshape import AutoShape
from utils.predict.predictor import Predictor
from utils.predict.writers import MediaWriter, SemanticMaskWriter, SlideshowWriter, SubmissionWriter
from utils.tasks.networks import load_model
from utils.tasks.options import PostprocessOptions
from utils.tasks.registry import find_task
from utils.tasks.results import DrawStyle, Result

CPU = torch.device("cpu")
OPTIONS = PostprocessOptions(0.25, 0.45, max_det=1000, multi_label=False, original=True)  # as of detect.py
SIZES = [(40, 100), (96, 48), (64, 64), (31, 77)]


class ColorReader(ExportedBackend):
    """A runtime whose logits are the red, green and blue of the image; in a joint task it has no detections."""

    def __init__(self, task: str, fixed_hw: tuple[int, int] | None = None) -> None:
        names = {0: "square", 1: "disc"} if task == "joint" else CLASSES.names
        info = ModelInfo(names=names, task=task, semantic=CLASSES)
        super().__init__("colors.x", info, device=CPU, input_shape=(None, None, *(fixed_hw or (None, None))))

    def run(self, images: Tensor) -> list[Tensor]:
        rows = [torch.zeros(len(images), 4, 7)] if self.task == "joint" else []
        return [*rows, images * 10]


@pytest.mark.parametrize("task", ["semantic", "joint"])
@pytest.mark.parametrize("fixed_hw", [None, (64, 160)])
def test_semantic_masks_are_aligned_with_the_image(task: str, fixed_hw: tuple[int, int] | None) -> None:
    """With any letterbox padding."""
    backend = ColorReader(task, fixed_hw)
    predictor = Predictor(backend, OPTIONS, size_hw=(64, 64))
    for size_hw in SIZES:
        frame, classes = paint_image(size_hw)
        (prediction,), _ = predictor.predict([frame])
        assert prediction.semantic_mask is not None
        assert (prediction.semantic_mask.shape, prediction.semantic_mask.dtype) == (size_hw, torch.uint8)
        assert (prediction.boxes is None) == (task == "semantic")
        assert (prediction.semantic_mask.numpy() == classes).mean() > 0.95  # pixels beside edges are between two colors


@pytest.mark.parametrize("task", ["semantic", "joint"])
def test_hub_semantic_masks_have_image_size(task: str) -> None:
    frames, maps = zip(*map(paint_image, SIZES), strict=True)
    model = AutoShape(ColorReader(task), verbose=False)
    results = model([Image.fromarray(frame[..., ::-1]) for frame in frames], size=128)
    assert results.semantic is not None
    for semantic_mask, expected in zip(results.semantic, maps, strict=True):
        assert semantic_mask.dtype == np.uint8
        assert (semantic_mask == expected).mean() > 0.95
    assert results.semantic_classes == CLASSES
    assert [tuple(rows.shape) for rows in results.pred] == [(0, 6)] * 4
    first, second, *_ = results.tolist()
    assert second.semantic is not None
    assert np.array_equal(second.semantic[0], results.semantic[1])
    assert "röad 38%" in str(first)
    drawn = results.render()[0].astype(int)
    pure = results.semantic[0] == maps[0]
    colors = np.array(CLASSES.palette)[maps[0]]
    assert np.abs(drawn - (0.6 * frames[0][..., ::-1] + 0.4 * colors))[pure].max() <= 1


@pytest.mark.parametrize("task", ["semantic", "joint"])
def test_pytorch_networks_through_the_hub_model(task: str) -> None:
    model = AutoShape(build_network(task), verbose=False)
    assert (model.semantic, model.task) == (CLASSES, task)
    frame, _ = paint_image((48, 96))
    plain, augmented = model(frame, size=96), model(frame, size=96, augment=True)
    assert plain.semantic is not None and augmented.semantic is not None
    assert plain.semantic[0].shape == augmented.semantic[0].shape == (48, 96)
    images = torch.rand(2, 3, 64, 96)
    raw = model(images)
    with torch.inference_mode():
        wanted: Any = build_network(task)(images)
    if task == "semantic":
        torch.testing.assert_close(raw, wanted, rtol=1e-4, atol=1e-4)
        assert len(plain.pred[0]) == 0
    else:
        assert isinstance(raw, JointOutput)
        torch.testing.assert_close(raw.detection, wanted.detection[0], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(raw.semantic, wanted.semantic, rtol=1e-4, atol=1e-4)
        assert len(plain.pred[0]) > 0


def test_boxes_of_a_joint_network_are_those_of_its_detector() -> None:
    """Logits are not mistaken for mask prototypes."""
    model = build_network("joint")
    frame, _ = paint_image((64, 96))
    predictor = Predictor(PyTorchBackend(model, device=CPU), OPTIONS)
    (joint,), _ = predictor.predict([frame])
    detection = find_task("detect").build_postprocess(OPTIONS)
    predictor.postprocess = lambda preds, batch: detection(preds.detection, batch)
    (boxes,), _ = predictor.predict([frame])
    assert joint.boxes is not None and boxes.boxes is not None
    assert len(boxes.boxes) > 0
    assert torch.equal(joint.boxes, boxes.boxes)
    assert joint.bitmaps is None


@pytest.mark.parametrize("task", ["semantic", "joint"])
def test_ensembles_join_probabilities(task: str, tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path, task)
    pair = load_model([file, file])
    assert isinstance(pair, Ensemble)
    assert pair.semantic == CLASSES
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        one: Any = load_model(file)(images)
        both: Any = pair(images)
    logits, joined = (one, both) if task == "semantic" else (one.semantic, both.semantic)
    torch.testing.assert_close(joined.softmax(1), logits.softmax(1), rtol=1e-4, atol=1e-5)
    if task == "joint":
        assert torch.equal(both.detection[0], torch.cat([one.detection[0]] * 2, dim=1))


def test_members_of_an_ensemble_have_the_same_task(tmp_path: Path) -> None:
    files = [write_checkpoint(tmp_path, "joint"), write_checkpoint(tmp_path, "semantic")]
    with pytest.raises(InputError, match=r"tiny semantic.pt: task semantic, but .*tiny joint.pt has task joint"):
        load_model(files)


def result(path: str, size_hw: tuple[int, int] = (40, 60), number: int | None = None) -> Result:
    frame, classes = paint_image(size_hw)
    source = SourceFrame(path, frame // 2, f"image 1/1 {path}", number, 10.0)
    boxes = np.array([[5, 5, 20, 20, 0.9, 1]], np.float32)
    return Result(source, boxes, {0: "cat", 1: "dog"}, semantic_mask=classes, semantic=CLASSES)


def test_summary_and_drawing() -> None:
    one = result("a.png")
    assert one.summarize() == "1 dog, röad 38%, sky 38%, car 25%"
    assert [name for name, _ in one.compute_class_shares()] == ["röad", "sky", "car"]
    drawing = one.draw(DrawStyle(hide_labels=True))
    far = drawing[35, 55].tolist()  # outside of the box: half red under red
    assert far == [0, 0, round(0.6 * 127 + 0.4 * 255)]
    few = Result(one.source, one.boxes, one.names, semantic_mask=np.full((40, 60), 255, np.uint8), semantic=CLASSES)
    assert few.summarize() == "1 dog"  # pixels of no class are not counted


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_files_of_semantic_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = UniqueNames()
    writers = [MediaWriter(tmp_path, DrawStyle(), names), SemanticMaskWriter(tmp_path, names)]
    with caplog.at_level(logging.WARNING, logger="openyolov5"):
        for path in ("in/ünï.jpg", "in/ünï_mask.png"):  # the second as the first one's mask is called
            for writer in writers:
                writer.write(result(path))
    for writer in writers:
        writer.close()
    stem = "ünï_mask"
    wanted = ["ünï.jpg", "ünï_color.png", f"{stem}.png", f"{stem}_2.png", f"{stem}_color.png", f"{stem}_mask.png"]
    assert files(tmp_path) == sorted(wanted)
    assert "in/ünï_mask.png: output named ünï_mask_2.png" in caplog.text
    frame, classes = paint_image((40, 60))
    stored = np.array(Image.open(tmp_path / "ünï_mask.png"))
    assert np.array_equal(stored, classes)
    assert np.array_equal(read_image(tmp_path / "ünï_color.png"), frame)


def test_submission_has_the_label_numbers_of_the_data_set(tmp_path: Path) -> None:
    writer = SubmissionWriter(tmp_path / "results")
    writer.write(result("in/a.jpg"))
    writer.write(result("in/clip.mp4", number=1))
    writer.close()
    assert files(tmp_path) == ["results/a_pred.png"]
    _, classes = paint_image((40, 60))
    assert np.array_equal(np.array(Image.open(tmp_path / "results/a_pred.png")), np.array([7, 23, 26])[classes])


def test_detections_write_no_semantic_masks(tmp_path: Path) -> None:
    plain = Result(SourceFrame("a.png", np.zeros((8, 8, 3), np.uint8), "a"), np.zeros((0, 6), np.float32), {})
    for writer in (SemanticMaskWriter(tmp_path, UniqueNames()), SubmissionWriter(tmp_path)):
        writer.write(plain)
        writer.close()
    assert files(tmp_path) == []


def test_slideshow_pads_other_sizes(tmp_path: Path) -> None:
    writer = SlideshowWriter(tmp_path, DrawStyle())
    for path, size_hw in (("a.png", (48, 64)), ("b.png", (90, 30)), ("c.png", (48, 64))):
        writer.write(result(path, size_hw))
    writer.write(result("film.mp4", number=1))
    writer.close()
    capture = cv2.VideoCapture(str(tmp_path / "all_images.mp4"))
    shown = []
    while (reading := capture.read())[0]:
        shown.append(reading[1])
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    assert (len(shown), fps) == (3, 30)
    assert {frame.shape for frame in shown} == {(48, 64, 3)}
    assert np.abs(shown[1][:, :16].astype(int) - 114).mean() < 12  # the tall image has borders
    assert np.abs(shown[0][:, :16].astype(int) - 114).mean() > 30


def test_slideshow_without_images_has_no_file(tmp_path: Path) -> None:
    SlideshowWriter(tmp_path, DrawStyle()).close()
    assert files(tmp_path) == []


def test_exported_file_without_class_names(tmp_path: Path) -> None:
    class Bare(ColorReader):
        def __init__(self) -> None:
            ExportedBackend.__init__(self, "x", ModelInfo(task="semantic"), device=CPU)

    frame, _ = paint_image((32, 64))
    assert Bare().semantic == SemanticClasses.from_count(255)
    imwrite(tmp_path / "a.png", frame)
    assert "0 38%" in str(AutoShape(Bare(), verbose=False)(tmp_path / "a.png", size=64))
