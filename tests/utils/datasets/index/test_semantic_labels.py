from __future__ import annotations

import logging
import re
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.config.base import ROOT
from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.datasets.index.data_yaml import DataSpec, load_spec
from utils.datasets.index.labels import load_index
from utils.datasets.index.semantic_labels import add_semantic_masks, load_semantic_index
from utils.datasets.semantic import SemanticDataset
from utils.imaging.read import ImageError
from utils.imaging.semantic_files import read_semantic_mask

SIZE_HW = (20, 30)


def write_pair(image: Path, mask: Path, values: np.ndarray | None = None) -> None:
    """A noise image and a semantic mask (by default left half 0, right half 1)."""
    if values is None:
        values = np.zeros(SIZE_HW, np.uint8)
        values[:, 15:] = 1
    for file, pixels in ((image, np.random.default_rng(0).integers(0, 255, (*SIZE_HW, 3))), (mask, values)):
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), pixels.astype(np.uint8))


def make_set(folder: Path, count: int = 3, extra: str = "") -> DataSpec:
    for n in range(count):
        write_pair(folder / "images" / "train" / f"{n}.png", folder / "masks" / "train" / f"{n}.png")
    file = folder / "set.yaml"
    file.write_text(f"path: .\ntrain: images/train\nval: images/train\nsemantic:\n  names: [sea, land]\n{extra}")
    return load_spec(file)


def test_index_of_a_small_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = make_set(tmp_path)
    with caplog.at_level(logging.INFO):
        index = load_semantic_index(spec, "train")
    assert "3 images with semantic masks, 0 corrupt; 100.0% of pixels labelled" in caplog.text
    assert index.names == {0: "sea", 1: "land"}
    assert index.semantic_masks == [str(tmp_path / "masks" / "train" / f"{n}.png") for n in range(3)]
    assert index.num_objects == 0
    assert index.pixels is not None
    assert index.pixels.tolist() == [[300, 300]] * 3
    assert (tmp_path / "masks" / "train.cache").is_file()
    assert index.subset([2, 0]).pixels.shape == (2, 2)  # type: ignore[union-attr]


def test_cache_gives_the_same_and_notices_changes(tmp_path: Path) -> None:
    spec = make_set(tmp_path)
    first, second = (load_semantic_index(spec, "train") for _ in range(2))
    assert first.paths == second.paths
    assert first.semantic_masks == second.semantic_masks
    np.testing.assert_array_equal(first.pixels, second.pixels)
    write_pair(tmp_path / "new.png", tmp_path / "masks" / "train" / "1.png", np.full(SIZE_HW, 1))
    assert load_semantic_index(spec, "train").pixels.tolist()[1] == [0, 600]  # type: ignore[union-attr]


BAD_MASKS = {
    "missing": (lambda mask: mask.unlink(), r"masks/train/1.png: no such semantic mask; .*images/train/1.png"),
    "damaged": (lambda mask: mask.write_bytes(b"\x89PNG broken"), r"1.png: cannot read the semantic mask"),
    "cut short": (lambda mask: mask.write_bytes(mask.read_bytes()[:60]), r"1.png: cannot read the semantic mask"),
    "size": (
        lambda mask: Image.fromarray(np.zeros((30, 20), np.uint8)).save(mask),
        r"1.png: 20x30 pixels, but its image has 30x20",
    ),
    "value": (
        lambda mask: Image.fromarray(np.full(SIZE_HW, 9, np.uint8)).save(mask),
        r"1.png: value 9 is neither a class \(0-1\) nor ignored \(255\); fix the mask, or map",
    ),
    "colors": (
        lambda mask: Image.new("RGB", SIZE_HW[::-1]).save(mask),
        "one byte per pixel .gray or palette., but the mode is RGB; save class numbers",
    ),
    "16 bits": (lambda mask: Image.fromarray(np.zeros(SIZE_HW, np.uint16)).save(mask), "one byte per pixel"),
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_invalid_masks_are_reported_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    spec = make_set(tmp_path)
    spoil, message = BAD_MASKS[kind]
    spoil(tmp_path / "masks" / "train" / "1.png")
    index = load_semantic_index(spec, "train")
    assert [Path(path).stem for path in index.paths] == ["0", "2"]
    assert index.semantic_masks is not None
    assert [Path(path).stem for path in index.semantic_masks] == ["0", "2"]
    (warning,) = (record.message for record in caplog.records if record.levelno == logging.WARNING)
    assert re.search(message, warning)


def test_a_broken_image_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = make_set(tmp_path)
    (tmp_path / "images" / "train" / "0.png").write_bytes(b"no image")
    assert len(load_semantic_index(spec, "train")) == 2
    assert "0.png: damaged, or not an image" in caplog.text


def test_nothing_usable(tmp_path: Path) -> None:
    spec = make_set(tmp_path)
    shutil.rmtree(tmp_path / "masks" / "train")
    with pytest.raises(
        InputError, match=r"none of the 3 images is usable.*expected the first semantic mask in .*masks/train/0.png"
    ):
        load_semantic_index(spec, "train")


def test_set_without_semantic_masks(tmp_path: Path) -> None:
    make_set(tmp_path)
    (tmp_path / "boxes.yaml").write_text("path: .\ntrain: images/train\nval: images/train\nnames: [a]\n")
    with pytest.raises(InputError, match="key 'semantic' is missing"):
        load_semantic_index(load_spec(tmp_path / "boxes.yaml"), "train")


def test_images_in_another_folder(tmp_path: Path) -> None:
    write_pair(tmp_path / "photos" / "0.png", tmp_path / "masks" / "0.png")
    (tmp_path / "set.yaml").write_text("path: .\ntrain: photos\nval: photos\nsemantic: {names: [a, b]}\n")
    with pytest.raises(InputError, match="not below a folder images; set images and masks, or layout"):
        load_semantic_index(load_spec(tmp_path / "set.yaml"), "train")


def test_id_map_counts_and_reads(tmp_path: Path) -> None:
    spec = make_set(tmp_path, extra="  id_map: {1: 0, 0: 1}\n")
    write_pair(tmp_path / "n.png", tmp_path / "masks" / "train" / "0.png", np.full(SIZE_HW, 33))
    index = load_semantic_index(spec, "train")
    assert index.pixels is not None
    assert index.pixels.tolist() == [[0, 0], [300, 300], [300, 300]]
    for cache in (None, "ram", "disk"):
        dataset = SemanticDataset(index, imgsz=32, hyp=Hyperparameters(), augment=False, cache=cache)
        swapped, unknown = dataset[1], dataset[0]
        assert (swapped.original_mask[:, :15] == 1).all()  # type: ignore[index]
        assert np.unique(swapped.semantic_mask).tolist() == [0, 1, 255]
        assert (unknown.original_mask == 255).all()
        assert (unknown.semantic_mask == 255).all()


def test_palette_and_few_bit_images(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)
    for bits in (2, 4, 8):
        image = Image.fromarray(values, "P")
        image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
        image.save(tmp_path / f"palette{bits}.png", bits=bits)
        np.testing.assert_array_equal(read_semantic_mask(str(tmp_path / f"palette{bits}.png")), values)
    for bits in (2, 4):
        packed = write_gray_png(tmp_path / f"gray{bits}.png", values, bits)
        np.testing.assert_array_equal(read_semantic_mask(packed), values)
    Image.fromarray(values > 1).save(tmp_path / "one bit.png")
    np.testing.assert_array_equal(read_semantic_mask(str(tmp_path / "one bit.png")), values > 1)
    with pytest.raises(ImageError, match="cannot read the semantic mask"):
        read_semantic_mask(str(tmp_path))


def write_gray_png(file: Path, values: np.ndarray, bits: int) -> str:
    """A gray PNG of 2 or 4 bits a pixel (constructed: our encoders write 8)."""
    rows = b""
    for row in values:
        packed = 0
        for value in row:
            packed = packed << bits | int(value)
        rows += b"\0" + packed.to_bytes(len(row) * bits // 8, "big")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return str(file)


def test_boxes_and_semantic_masks_together(tmp_path: Path) -> None:
    spec = make_set(tmp_path, 4)
    (tmp_path / "both.yaml").write_text((tmp_path / "set.yaml").read_text() + "names: [ship]\n")
    for n in (0, 2, 3):
        label = tmp_path / "labels" / "train" / f"{n}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"0 0.5 0.5 0.{n + 1} 0.2\n")
    (tmp_path / "masks" / "train" / "2.png").unlink()
    boxes, maps = load_index(load_spec(tmp_path / "both.yaml"), "train"), load_semantic_index(spec, "train")
    both = add_semantic_masks(boxes, maps)
    assert [Path(path).stem for path in both.paths] == ["0", "1", "3"]
    assert both.semantic_masks is not None
    assert [Path(path).stem for path in both.semantic_masks] == ["0", "1", "3"]
    np.testing.assert_allclose(both.boxes_xywhn[:, 2], [0.1, 0.4])
    assert both.names == {0: "ship"}
    assert both.pixels is not None
    assert len(both.pixels) == 3


def test_second_set_of_a_joint_yaml(tmp_path: Path) -> None:
    make_set(tmp_path / "maps")
    (tmp_path / "images").mkdir()
    write_pair(tmp_path / "images" / "a.png", tmp_path / "unused.png")
    (tmp_path / "boxes.yaml").write_text("path: .\ntrain: images\nval: images\nnames: [ship]\n")
    (tmp_path / "joint.yaml").write_text("detection: boxes.yaml\nsemantic: maps/set.yaml\n")
    index = load_semantic_index(load_spec(tmp_path / "joint.yaml"), "val")
    assert len(index) == 3
    assert index.names == {0: "sea", 1: "land"}


def test_custom_layout(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_pair(tmp_path / "segimages" / split / "a.jpg", tmp_path / "seglabels" / split / "a.png")
        write_pair(tmp_path / "detdata" / "images" / split / "b.jpg", tmp_path / "unused.png")
    (tmp_path / "custom.yaml").write_text(
        "path: .\ntrain: detdata/images/train\nval: detdata/images/val\nnames: [crack]\nsemantic: {layout: custom, "
        "names: [background, crack], train: segimages/train, val: segimages/val}\n"
    )
    index = load_semantic_index(load_spec(tmp_path / "custom.yaml"), "val")
    assert index.paths == [str(tmp_path / "segimages" / "val" / "a.jpg")]
    assert index.semantic_masks == [str(tmp_path / "seglabels" / "val" / "a.png")]


def test_cityscapes_layout(tmp_path: Path) -> None:
    """Label ids 7 and 26 are road and car, 4 is static; -1 cannot be in a PNG of bytes but as 255."""
    values = np.zeros(SIZE_HW, np.uint8)
    values[:5], values[5:10], values[10:15], values[15:] = 7, 26, 4, 255
    root = tmp_path / "citys"
    for split, city in (("train", "bonn"), ("train", "ulm"), ("val", "jena")):
        image = root / "leftImg8bit" / split / city / f"{city}_000000_000019_leftImg8bit.png"
        mask = root / "gtFine" / split / city / f"{city}_000000_000019_gtFine_labelIds.png"
        write_pair(image, mask, values)
    text = (ROOT / "data" / "cityscapes-semantic.yaml").read_text()
    (tmp_path / "c.yaml").write_text(text.replace("path: ../datasets/cityscapes", f"path: {root}"))
    spec = load_spec(tmp_path / "c.yaml")
    index = load_semantic_index(spec, "train")
    assert len(index) == 2
    assert index.pixels is not None
    assert {spec.semantic.classes.names[c]: n for c, n in enumerate(index.pixels[0].tolist()) if n} == {  # type: ignore[union-attr]
        "road": 150,
        "car": 150,
    }
    semantic_mask = SemanticDataset(index, imgsz=32, hyp=Hyperparameters(), augment=False).load_semantic_mask(0)
    assert np.unique(semantic_mask).tolist() == [0, 13, 255]
    assert (root / "gtFine" / "train.cache").is_file()
    assert len(load_semantic_index(spec, "val")) == 1


def test_voc_lists(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    for name in ("2007_1", "2007_2", "2007_3"):
        write_pair(root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_1\n2007_3\n")
    (tmp_path / "voc.yaml").write_text(
        "path: VOC2012\ntrain: ImageSets/Segmentation/train.txt\nval: ImageSets/Segmentation/train.txt\n"
        "semantic: {layout: voc, names: [background, thing]}\n"
    )
    index = load_semantic_index(load_spec(tmp_path / "voc.yaml"), "train")
    assert [Path(path).name for path in index.paths] == ["2007_1.jpg", "2007_3.jpg"]


def test_camvid(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "camvid"
    folder.mkdir()
    for part in ("images", "masks", "labels"):
        (folder / part / "val").mkdir(parents=True)
        for file in sorted((shared / "data" / "camvid" / part / "val").iterdir())[:6]:
            shutil.copyfile(file, folder / part / "val" / file.name)
    text = (shared / "data" / "camvid" / "camvid.yaml").read_text()
    (folder / "camvid.yaml").write_text(text.replace("images/train", "images/val"))
    spec = load_spec(folder / "camvid.yaml")
    index = load_semantic_index(spec, "val")
    assert len(index) == 6
    assert list(index.names.values())[:2] == ["sky", "building"]
    both = add_semantic_masks(load_index(spec, "val"), index)
    assert both.num_objects > 0
    assert len(both) == 6
    assert both.semantic_masks == index.semantic_masks
