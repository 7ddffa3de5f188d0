"""detect.py with semantic segmentation, from the command line and from Python."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from semantic_nets import CLASSES, paint_image, write_checkpoint

import detect
import export
import hubconf
from utils.core.errors import InputError
from utils.imaging.read import imwrite, read_image

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wéights")
    return {task: write_checkpoint(folder, task) for task in ("joint", "semantic")}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, size_hw in (("a.jpg", (48, 96)), ("tall.png", (90, 40))):
        imwrite(folder / name, paint_image(size_hw)[0])
    return folder


def list_files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def read_pixels(file: Path) -> np.ndarray:
    return np.array(Image.open(file))


@pytest.mark.parametrize("task", ["joint", "semantic"])
def test_output_files(task: str, weights: dict[str, Path], images: Path, tmp_path: Path, run_script: Run) -> None:
    flags = ("--imgsz", "96", "--device", "cpu", "--save-as-video", "--submit", "--save-txt", "--project", tmp_path)
    result = run_script("detect.py", "--weights", weights[task], "--source", images, *flags)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    written = [name for name in list_files(tmp_path / "exp") if not name.startswith("labels")]
    assert written == [
        "a.jpg", "a_color.png", "a_mask.png", "all_images.mp4", "results/a_pred.png", "results/tall_pred.png",
        "tall.png", "tall_color.png", "tall_mask.png",
    ]  # fmt: skip
    results = hubconf.custom(weights[task], device="cpu")([images / "a.jpg"], size=96)
    for name, size_hw in (("a", (48, 96)), ("tall", (90, 40))):
        mask = read_pixels(tmp_path / f"exp/{name}_mask.png")
        assert mask.shape == size_hw
        assert mask.max() < 3
        colors = np.array(CLASSES.palette, np.uint8)
        assert np.array_equal(read_pixels(tmp_path / f"exp/{name}_color.png"), colors[mask])
        assert np.array_equal(read_pixels(tmp_path / f"exp/results/{name}_pred.png"), np.array([7, 23, 26])[mask])
    assert np.array_equal(results.semantic[0], read_pixels(tmp_path / "exp/a_mask.png"))
    class_names = [f"{name} " in result.stderr for name in CLASSES.names.values()]
    assert any(class_names)
    warning = "WARNING --save-txt: ignored in task 'semantic'"
    assert (warning in result.stderr) == (task == "semantic")
    assert (tmp_path / "exp/labels/a.txt").is_file() == (task == "joint")
    assert (tmp_path / "exp/labels").exists() == (task == "joint")


def test_overlay_blends_60_percent_image_with_40_percent_colors(
    weights: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    detect.run(weights=str(weights["semantic"]), source=str(images / "tall.png"), imgsz=96, project=str(tmp_path))
    overlay = read_image(tmp_path / "exp/tall.png").astype(float)
    plain, color = (read_image(f).astype(float) for f in (images / "tall.png", tmp_path / "exp/tall_color.png"))
    assert np.abs(overlay - (0.6 * plain + 0.4 * color)).max() <= 1


def test_submit_needs_semantic_masks(tmp_path: Path, weights: dict[str, Path], images: Path) -> None:
    from tiny_jobs import NAMES, TINY_GRAPH

    from models.checkpoint import save_checkpoint
    from models.yolo import DetectionModel

    model, file = DetectionModel(TINY_GRAPH), tmp_path / "boxes.pt"
    save_checkpoint(file, {"task": "detect", "yaml": model.yaml, "names": NAMES, "model": model.state_dict()})
    with pytest.raises(InputError, match=r"--submit: .*boxes.pt predicts no semantic masks; leave the flag out"):
        detect.run(weights=str(file), source=str(images), imgsz=96, submit=True, project=str(tmp_path))


def test_nosave_with_submit_writes_only_the_submission(weights: dict[str, Path], images: Path, tmp_path: Path) -> None:
    options = {"source": str(images), "imgsz": 96, "nosave": True, "submit": True, "project": str(tmp_path)}
    detect.run(weights=str(weights["joint"]), **options)
    assert list_files(tmp_path) == ["exp/results/a_pred.png", "exp/results/tall_pred.png"]


def test_exported_file_gives_the_same_masks(weights: dict[str, Path], images: Path, tmp_path: Path) -> None:
    summary = export.run(weights=str(weights["joint"]), include="onnx", imgsz=[96, 96], device="cpu")
    (file,) = summary.files if hasattr(summary, "files") else summary
    options = {"source": str(images / "tall.png"), "imgsz": 96, "project": str(tmp_path), "device": "cpu"}
    detect.run(weights=str(file), name="onnx", **options)
    mask = read_pixels(tmp_path / "onnx/tall_mask.png")
    assert mask.shape == (90, 40)
    results = hubconf.custom(file, device="cpu")([images / "tall.png"], size=96)
    assert np.array_equal(results.semantic[0], mask)
