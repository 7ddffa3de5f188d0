"""Class folders: what `--data` may be, how classes are numbered, and what is said of broken sets."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.class_sets import CLASSES, write_class_set
from utils.core.errors import InputError
from utils.datasets.index import class_folders
from utils.datasets.index.class_folders import (
    build_folder_spec,
    find_class_root,
    load_class_data,
    load_class_index,
    match_class_folders,
    read_data,
)
from utils.imaging.read import imwrite


def write_png(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    imwrite(file, np.zeros((20, 20, 3), np.uint8))


def test_splits_and_names_of_a_folder(tmp_path: Path) -> None:
    root = write_class_set(tmp_path / "ein Satz", splits={"train": 3, "val": 2, "test": 1})
    spec = load_class_data(root)
    assert spec.names == dict(enumerate(CLASSES))
    assert {split: source.paths[0].name for split, source in spec.splits.items()} == {
        "train": "train",
        "val": "test",  # preferred
        "test": "test",
    }
    index = load_class_index(spec, "train")
    assert index.classes.tolist() == [0, 0, 0, 1, 1, 1]
    assert index.sizes_hw.tolist() == [[32, 40]] * 6
    assert [Path(p).parent.name for p in index.paths] == [CLASSES[c] for c in index.classes]


def test_the_index_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_class_data(write_class_set(tmp_path / "set"))
    first = load_class_index(spec, "val")
    monkeypatch.setattr(class_folders, "verify_images", lambda *_: pytest.fail("verified again"))
    again = load_class_index(spec, "val")
    assert again.paths == first.paths
    assert again.classes.tolist() == first.classes.tolist()


def test_a_damaged_image_is_reported_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_class_set(tmp_path / "set")
    broken = root / "train" / CLASSES[1] / "0.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing else")
    with caplog.at_level("INFO"):
        index = load_class_index(load_class_data(root), "train")
    assert len(index) == 15
    assert str(broken) not in index.paths
    assert f"{broken}: damaged" in caplog.text
    assert "15 images of 2 classes, 7 to 8 each; 1 corrupt" in caplog.text


def test_a_class_without_images_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_class_set(tmp_path / "set")
    (root / "train" / "zebra").mkdir()
    spec = load_class_data(root)
    index = load_class_index(spec, "train")
    assert spec.num_classes == 3
    assert set(index.classes.tolist()) == {0, 1}
    assert "train: no images of 'zebra'" in caplog.text


def test_broken_sets_are_explained(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no folder train, val or test; expected train/<class>/.*utils\.datasets crops"
    ):
        load_class_data(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="no class folders"):
        load_class_data(tmp_path)
    only_train = load_class_data(write_class_set(tmp_path / "set", splits={"train": 1}))
    with pytest.raises(InputError, match="no split 'val', only train"):
        load_class_index(only_train, "val")
    both = write_class_set(tmp_path / "other")
    (both / "val" / "zebra").mkdir()
    with pytest.raises(InputError, match="zebra: val: not the name of a class; classes: 'a dark one'"):
        load_class_index(load_class_data(both), "val")


def test_yaml_names_match_folders_by_order_or_by_name(tmp_path: Path) -> None:
    root = write_class_set(tmp_path / "set")
    yaml = root / "set.yaml"
    yaml.write_text("train: train\nval: val\nnames: [dark, bright]\n")
    spec = load_class_data(yaml)
    assert match_class_folders(spec) == {CLASSES[0]: 0, CLASSES[1]: 1}
    yaml.write_text(f"train: train\nval: val\nnames: ['{CLASSES[1]}', '{CLASSES[0]}', other]\n", encoding="utf-8")
    index = load_class_index(load_class_data(yaml), "val")
    assert [Path(p).parent.name for p in index.paths] == [CLASSES[1 - c] for c in index.classes]
    yaml.write_text("train: train\nval: val\nnames: [dark, bright, other]\n")
    with pytest.raises(InputError, match="3 names, but 2 class folders"):
        load_class_index(load_class_data(yaml), "train")


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("train/loop", ".."),
        ("train/0", "."),
        ("train/b/up", "../.."),
        ("train/a/other", "../b"),
        ("train/0", "a"),
        ("train/broken", "nowhere"),
    ],
)
def test_images_belong_to_the_class_of_their_real_folder(link: str, target: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("a", "b"):
        write_png(root / "train" / name / "deep" / "1.png")
        write_png(root / "val" / name / "1.png")
    (root / link).symlink_to(target)
    spec = load_class_data(root)
    index = load_class_index(spec, "train")
    assert [os.path.relpath(path, root) for path in index.paths] == ["train/a/deep/1.png", "train/b/deep/1.png"]
    assert [spec.names[number] for number in index.classes.tolist()] == ["a", "b"]


def test_pipes_and_files_beside_class_folders(tmp_path: Path) -> None:
    root = write_class_set(tmp_path / "set", splits={"train": 1})
    os.mkfifo(root / "train" / "pipe")
    os.mkfifo(root / "train" / CLASSES[0] / "pipe.png")
    write_png(root / "train" / "1.png")
    write_png(root / "train" / ".hidden" / "1.png")
    assert len(load_class_index(load_class_data(root), "train")) == 2


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", b"red \x1b[31m"])
def test_names_of_class_folders_can_be_shown(name: bytes, tmp_path: Path) -> None:
    root = write_class_set(tmp_path / "set", splits={"train": 1})
    os.mkdir(os.fsencode(root / "train") + b"/" + name)  # noqa: PTH102 (pathlib takes no bytes)
    with pytest.raises(InputError, match="not UTF-8 or has control characters; rename the folder") as error:
        load_class_data(root)
    assert str(error.value).startswith(f"{root / 'train'}: ") and str(error.value).isprintable()


def test_a_detection_set_is_not_a_class_set(tiny_data: Path) -> None:
    with pytest.raises(InputError, match=r"utils\.datasets crops"):
        load_class_index(load_class_data(tiny_data), "train")


def test_known_sets_are_downloaded_into_the_datasets_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path))
    downloads: list[tuple[str, Path]] = []

    def download_dataset(url: str, root: Path) -> None:
        downloads.append((url, root))
        write_class_set(root)

    monkeypatch.setattr(class_folders, "download_dataset", download_dataset)
    assert read_data("imagenette160").names == {}
    assert not downloads
    spec = load_class_data("imagenette160")
    assert downloads == [(f"{class_folders.RELEASE}/imagenette160.zip", tmp_path / "imagenette160")]
    assert spec.names == dict(enumerate(CLASSES))
    load_class_data("imagenette160")
    assert len(downloads) == 1
    assert find_class_root("../datasets/mnist") == Path("../datasets/mnist").resolve()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("imagenet", "this data set requires registration"),
        ("some/imagenet", "requires registration"),
        ("imagenete", "known names: imagenette"),
        ("some/where", "no such folder"),
    ],
)
def test_unknown_names(name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path))
    with pytest.raises(InputError, match=why):
        load_class_data(name)


def test_builtin_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path))
    monkeypatch.setattr("utils.datasets.prepare.shapes_classes.SCENES", {"train": 3, "val": 3})
    spec = load_class_data("builtin:shapes-cls")
    index = load_class_index(spec, "train")
    assert spec.root == tmp_path / "shapes-cls"
    assert len(index) > 3
    assert (index.sizes_hw.min(axis=0) >= 10).all()
    counts = np.bincount(index.classes, minlength=5)
    assert counts.sum() == len(index)
    assert build_folder_spec(spec.root).names == spec.names
