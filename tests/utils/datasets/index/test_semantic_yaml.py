from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.core.errors import InputError
from utils.datasets.index.data_yaml import load_spec, read_spec
from utils.datasets.index.semantic_yaml import LAYOUTS, MaskRule, parse_semantic

HERE = Path("set.yaml")
TWO = {"names": {0: "sea", 1: "land"}}


def test_defaults() -> None:
    spec = parse_semantic(TWO, source=HERE)
    assert spec.classes.names == {0: "sea", 1: "land"}
    assert spec.classes.ignore == 255
    assert spec.classes.source_ids is None
    assert len(set(spec.classes.palette)) == 2
    assert spec.id_map is None
    assert np.flatnonzero(spec.valid).tolist() == [0, 1, 255]
    assert spec.rule == MaskRule("images", "masks")


def test_the_class_names_are_the_default() -> None:
    assert parse_semantic({"masks": "m"}, source=HERE, names={0: "a"}).classes.names == {0: "a"}
    with pytest.raises(InputError, match=r"set.yaml: semantic: key 'names' is missing"):
        parse_semantic({"masks": "m"}, source=HERE)


def test_another_value_is_ignored() -> None:
    spec = parse_semantic({**TWO, "ignore": 11}, source=HERE)
    assert spec.classes.ignore == 255  # in memory
    assert spec.id_map is not None
    assert spec.id_map[[0, 1, 11, 255]].tolist() == [0, 1, 255, 255]
    assert np.flatnonzero(spec.valid).tolist() == [0, 1, 11]


def test_id_map() -> None:
    table = {7: 0, 3: 1, 9: 1, 4: 255, -1: 255}
    spec = parse_semantic({**TWO, "id_map": table}, source=HERE)
    assert spec.id_map is not None
    assert spec.id_map.dtype == np.uint8
    assert spec.id_map[[7, 3, 9, 4, 0, 255]].tolist() == [0, 1, 1, 255, 255, 255]
    assert spec.classes.source_ids == (7, 3)
    assert spec.valid.all()


def test_palette_as_list_or_map() -> None:
    colors = ((1, 2, 3), (4, 5, 6))
    for given in ([[1, 2, 3], [4, 5, 6]], {1: [4, 5, 6], 0: [1, 2, 3]}, {"0": [1, 2, 3], "1": [4, 5, 6]}):
        assert parse_semantic({**TWO, "palette": given}, source=HERE).classes.palette == colors


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ([1], r"semantic: \[1\] is not a map"),
        ({**TWO, "mask": "m"}, "unknown key 'mask', did you mean masks"),
        ({"names": {0: "a", 2: "b"}}, "semantic: names: class numbers must run from 0 to 1"),
        ({"names": ["a", None]}, "the name of class 1 is None"),
        ({**TWO, "ignore": 1}, "ignore: 1 must be between 2 and 255"),
        ({**TWO, "ignore": "x"}, "ignore: 'x' must be between"),
        ({**TWO, "palette": [[1, 2, 3]]}, "palette: 1 colors for 2 classes"),
        ({**TWO, "palette": [[1, 2, 3], [1, 2, 300]]}, "palette: color .* of class 1 is not an RGB triple"),
        ({**TWO, "palette": "red"}, "palette: 'red' is not a list"),
        ({**TWO, "palette": {0: [1, 2, 3], 5: [1, 2, 3]}}, r"palette: has colors for \[0, 5\]"),
        ({**TWO, "id_map": [1]}, r"id_map: \[1\] is not a map"),
        ({**TWO, "id_map": {256: 0}}, "id_map: 256 is not a value of 0 to 255"),
        ({**TWO, "id_map": {"road": 0}}, "id_map: 'road' is not a value"),
        ({**TWO, "id_map": {7: 2}}, "id_map: 7 is mapped to 2, but classes are 0 to 1"),
        ({**TWO, "id_map": {7: 0}}, r"id_map: no value is mapped to class 1 \(land\)"),
        ({**TWO, "layout": "kitti"}, "layout: 'kitti' is not one of beside, cityscapes"),
        ({**TWO, "masks": 3}, "masks: 3 is not the name of a folder"),
        ({**TWO, "masks": "a\0b"}, r"masks: 'a.x00b' is not the name of a folder"),
        ({**TWO, "images": "/"}, "images: '/' is not the name of a folder"),
        ({"names": [str(n) for n in range(256)]}, "names: number the classes .* up to 254"),
    ],
)
def test_mistakes_are_reported(block: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"set.yaml: semantic.*{message}|set.yaml: {message}"):
        parse_semantic(block, source=HERE)


@pytest.mark.parametrize(
    ("layout", "image", "mask"),
    [
        ("beside", "d/images/train/a/x.jpg", "d/masks/train/a/x.png"),
        ("beside", "images/images/x.y.jpg", "images/masks/x.y.png"),
        (
            "cityscapes",
            "c/leftImg8bit/val/bonn/bonn_0_1_leftImg8bit.png",
            "c/gtFine/val/bonn/bonn_0_1_gtFine_labelIds.png",
        ),
        (
            "cityscapes-trainids",
            "c/leftImg8bit/val/bonn/b_leftImg8bit.png",
            "c/gtFine/val/bonn/b_gtFine_labelTrainIds.png",
        ),
        ("bdd100k", "b/images/10k/train/00.jpg", "b/labels/sem_seg/masks/train/00.png"),
        ("bdd100k-2018", "b/seg/images/train/00.jpg", "b/seg/labels/train/00_train_id.png"),
        ("custom", "r/segimages/val/x.png", "r/seglabels/val/x.png"),
        ("voc", "VOC2012/JPEGImages/2007_1.jpg", "VOC2012/SegmentationClass/2007_1.png"),
        ("beside", "images/x.jpg", None),
        ("cityscapes-trainids", "c/leftImg8bit/val/bdd/00.jpg", "c/gtFine/val/bdd/00.png"),
    ],
)
def test_layouts(layout: str, image: str, mask: str | None) -> None:
    found = LAYOUTS[layout].mask_path(image.replace("/", os.sep))
    assert found == (None if mask is None else mask.replace("/", os.sep))


def test_a_layout_with_another_folder(tmp_path: Path) -> None:
    spec = parse_semantic({**TWO, "layout": "custom", "masks": "coarse/labels/"}, source=HERE)
    assert spec.rule.mask_path("r/segimages/val/x.png") == "r/coarse/labels/val/x.png"
    apart = parse_semantic({**TWO, "masks": str(tmp_path)}, source=HERE)
    assert apart.rule.mask_path("r/images/val/x.jpg") == str(tmp_path / "val" / "x.png")


def write_set(folder: Path, name: str, text: str) -> Path:
    (folder / "images" / "train").mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f"path: .\ntrain: images/train\nval: images/train\n{text}")
    return file


class TestDataYaml:
    def test_a_set_with_semantic_masks_only(self, tmp_path: Path) -> None:
        spec = load_spec(write_set(tmp_path, "maps.yaml", "semantic: {names: [sea, land]}\n"))
        assert spec.names == {0: "sea", 1: "land"}
        assert spec.semantic is not None
        assert spec.semantic_set is None

    def test_boxes_and_semantic_masks(self, tmp_path: Path) -> None:
        spec = load_spec(write_set(tmp_path, "both.yaml", "names: [ship]\nsemantic: {names: [sea, land]}\n"))
        assert spec.names == {0: "ship"}
        assert spec.semantic is not None
        assert spec.semantic.num_classes == 2

    def test_neither_names_nor_semantic_names(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="key 'names' is missing"):
            load_spec(write_set(tmp_path, "bad.yaml", "semantic: {masks: m}\n"))

    def test_two_sets(self, tmp_path: Path) -> None:
        write_set(tmp_path / "boxes", "boxes.yaml", "names: [ship]\n")
        write_set(tmp_path / "maps", "maps.yaml", "semantic: {names: [sea, land]}\n")
        joint = tmp_path / "joint.yaml"
        joint.write_text("detection: boxes/boxes.yaml\nsemantic: maps/maps.yaml\n")
        for spec in (load_spec(joint), read_spec(joint), load_spec(joint, prepare=False)):
            assert spec.names == {0: "ship"}
            assert spec.root == tmp_path / "boxes"
            assert spec.semantic_set is not None
            assert spec.semantic_set.root == tmp_path / "maps"
            assert spec.semantic is spec.semantic_set.semantic

    def test_two_sets_found_as_data_would_be(self, tmp_path: Path) -> None:
        write_set(tmp_path, "maps.yaml", "semantic: {names: [sea, land]}\n")
        joint = tmp_path / "joint.yaml"
        joint.write_text("detection: coco128.yaml\nsemantic: maps.yaml\n")
        assert len(read_spec(joint).names) == 80

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("detection: boxes.yaml\n", "semantic: None; a joint data YAML names two others"),
            ("detection: boxes.yaml\nsemantic: {names: [a]}\n", "semantic: {.*} ?; a joint data YAML names two"),
            ("detection: nowhere.yaml\nsemantic: maps.yaml\n", "detection: 'nowhere.yaml' not found next to it"),
            ("detection: boxes.yaml\nsemantic: boxes.yaml\n", "semantic: .*boxes.yaml has no key semantic"),
            ("detection: joint.yaml\nsemantic: maps.yaml\n", "detection: .*joint.yaml is a joint data YAML itself"),
        ],
    )
    def test_joint_mistakes(self, tmp_path: Path, text: str, message: str) -> None:
        write_set(tmp_path, "boxes.yaml", "names: [ship]\n")
        write_set(tmp_path, "maps.yaml", "semantic: {names: [sea, land]}\n")
        joint = tmp_path / "joint.yaml"
        joint.write_text(text)
        with pytest.raises(InputError, match=f"joint.yaml: {message}"):
            load_spec(joint)

    def test_missing_images_of_the_second_set(self, tmp_path: Path) -> None:
        write_set(tmp_path, "boxes.yaml", "names: [ship]\n")
        maps = tmp_path / "maps.yaml"
        maps.write_text("path: gone\ntrain: images/other\nval: images/other\nsemantic: {names: [sea, land]}\n")
        joint = tmp_path / "joint.yaml"
        joint.write_text("detection: boxes.yaml\nsemantic: maps.yaml\n")
        assert read_spec(joint).semantic_set is not None
        with pytest.raises(InputError, match=r"maps.yaml: train: 'images/other' not found"):
            load_spec(joint)

    def test_a_block_with_its_own_splits(self, tmp_path: Path) -> None:
        """The layout with segimages/, seglabels/ and detdata/."""
        for folder in ("segimages/train", "segimages/val", "detdata/images/train", "detdata/images/val"):
            (tmp_path / folder).mkdir(parents=True)
        file = tmp_path / "custom.yaml"
        text = (
            "path: .\ntrain: detdata/images/train\nval: detdata/images/val\nnames: [crack]\n"
            "semantic:\n  layout: custom\n  names: [background, crack]\n  train: segimages/train\n"
        )
        file.write_text(text + "  val: segimages/val\n")
        spec = load_spec(file)
        assert spec.splits["train"].paths == (tmp_path / "detdata/images/train",)
        assert spec.semantic_set is not None
        assert spec.semantic_set.splits["train"].paths == (tmp_path / "segimages/train",)
        assert spec.semantic_set.names == {0: "background", 1: "crack"}
        file.write_text(text)
        with pytest.raises(InputError, match="semantic: val is missing"):
            load_spec(file)
        file.write_text(text + "  val: segimages/nowhere\n")
        with pytest.raises(InputError, match="val: 'segimages/nowhere' not found"):
            load_spec(file)
