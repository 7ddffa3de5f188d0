from __future__ import annotations

import hashlib
import json
from pathlib import Path
from shutil import copyfile

import cv2
import numpy as np
import pytest

from utils.config.base import ROOT
from utils.core.errors import InputError
from utils.datasets.index.data_yaml import load_spec
from utils.datasets.prepare import shapes
from utils.datasets.prepare.shapes import CLASSES, SIDES, SIZE, Scene, clip_polygon, draw_scene, prepare_shapes
from utils.imaging.read import read_image


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """The first 60 training images."""
    return [draw_scene(np.random.default_rng((shapes.SEED, 0, i))) for i in range(60)]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "COUNTS", {"train": 4, "val": 2})


def test_difficulty(scenes: list[Scene]) -> None:
    objects = [shape for scene in scenes for shape in scene.shapes]
    sides = np.array([np.ptp(shape.outline_xy, axis=0) for shape in objects])
    covered = np.array([1 - shape.visible / shape.inside.sum() for shape in objects])
    assert len(CLASSES) >= 5
    assert {shape.label for shape in objects} == set(range(len(CLASSES)))
    assert sides.min() >= SIDES[0] == 12
    assert sides.max() <= SIDES[1] == 200
    assert (sides.max(1) < 24).mean() > 0.1
    assert (sides.max(1) > 120).mean() > 0.1
    assert (covered > 0.1).mean() >= 0.25
    assert sum(not scene.shapes for scene in scenes) >= 1


def test_visible_counts_match_the_owner_map(scenes: list[Scene]) -> None:
    for scene in scenes:
        shown = np.bincount(scene.owner.ravel() + 1, minlength=len(scene.shapes) + 1)[1:]
        assert shown.tolist() == [shape.visible for shape in scene.shapes]
        assert all(shape.visible >= 0.35 * shape.full_area for shape in scene.shapes)


def test_semantic_masks_match_polygons(scenes: list[Scene]) -> None:
    """Painting polygons from large to small reproduces the semantic mask, except for pixels on the outlines."""
    for scene in scenes:
        painted = np.zeros((SIZE, SIZE), np.uint8)
        for shape in scene.shapes:
            corners = np.rint((shape.outline_xy - 0.5) * 16).astype(np.int32)
            cv2.fillPoly(painted, [corners], shape.label + 1, cv2.LINE_8, 4)
        assert (painted != scene.semantic_mask()).mean() < 0.02


def test_files_are_consistent(tmp_path: Path, few: None) -> None:
    root = tmp_path / "sets" / "shapes"
    prepare_shapes(root, {})
    assert [p.name for p in root.parent.iterdir()] == ["shapes"]
    for split, count in (("train", 4), ("val", 2)):
        content = json.loads((root / "annotations" / f"{split}.json").read_text())
        assert len(content["images"]) == count
        for image in content["images"]:
            stem = Path(image["file_name"]).stem
            assert read_image(root / "images" / split / image["file_name"]).shape == (SIZE, SIZE, 3)
            assert read_image(root / "masks" / split / f"{stem}.png", channels=1).max() <= len(CLASSES)
            lines = (root / "labels" / split / f"{stem}.txt").read_text().splitlines()
            rows = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            assert len(lines) == len(rows)
            for line, row in zip(lines, rows, strict=True):
                label, *values = line.split()
                assert int(label) == row["category_id"]
                assert np.array(values, float) * SIZE == pytest.approx(row["segmentation"][0], abs=0.01)


def test_images_are_reproducible(tmp_path: Path, few: None) -> None:
    def digest(root: Path) -> str:
        prepare_shapes(root, {})
        files = sorted(p for p in root.rglob("*") if p.is_file())
        return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()

    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_shapes_yaml_generates_the_set_on_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: None) -> None:
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path))
    (tmp_path / "clone/data").mkdir(parents=True)  # the real one may have the set already
    copyfile(ROOT / "data/shapes.yaml", tmp_path / "clone/data/shapes.yaml")
    monkeypatch.setattr("utils.datasets.index.data_yaml.ROOT", tmp_path / "clone")
    monkeypatch.chdir(tmp_path)
    spec = load_spec("shapes.yaml")
    assert spec.root == tmp_path / "shapes"
    assert tuple(spec.names.values()) == CLASSES
    assert len(list((spec.root / "images" / "train").iterdir())) == 4
    assert load_spec("shapes.yaml").splits == spec.splits


def test_folder_with_other_files_is_unchanged(tmp_path: Path, few: None) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        prepare_shapes(tmp_path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_two_processes_may_generate_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: None) -> None:
    write_split, root = shapes._write_split, tmp_path / "shapes"

    def slower(work: Path, split: str, number: int, count: int) -> None:
        if split == "val" and not root.exists():
            monkeypatch.setattr(shapes, "_write_split", write_split)
            prepare_shapes(root, {})  # another process that finishes first
        write_split(work, split, number, count)

    monkeypatch.setattr(shapes, "_write_split", slower)
    prepare_shapes(root, {})
    assert [p.name for p in tmp_path.iterdir()] == ["shapes"]
    assert len(list((root / "images" / "train").iterdir())) == 4


def test_unwritable_folder(tmp_path: Path, few: None) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"YOLOv5_DATASETS_DIR.*: cannot be created: "):
        prepare_shapes(tmp_path / "file" / "shapes", {})


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        pytest.param([[1, 1], [3, 1], [3, 3]], [[1, 1], [3, 1], [3, 3]], id="inside"),
        pytest.param([[-2, 2], [2, 2], [2, 4], [-2, 4]], [[0, 2], [2, 2], [2, 4], [0, 4]], id="left"),
        pytest.param([[8, 8], [12, 8], [12, 12], [8, 12]], [[8, 8], [10, 8], [10, 10], [8, 10]], id="corner"),
        pytest.param([[20, 20], [30, 20], [30, 30]], [], id="outside"),
    ],
)
def test_clip_polygon(points: list[list[float]], expected: list[list[float]]) -> None:
    clipped = clip_polygon(np.array(points, float), 10)
    assert sorted(clipped.tolist()) == sorted(expected)
