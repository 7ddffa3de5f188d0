from __future__ import annotations

import errno
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.index.data_yaml import DataSpec, SplitSource, load_spec
from utils.datasets.index.labels import _cache_file, box_to_polygon, get_label_path, load_index
from utils.datasets.index.listing import list_images
from utils.datasets.index.semantic_labels import get_cache_file
from utils.imaging.read import imwrite


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, logger=LOGGER.name)
    return caplog


def image(path: Path, size_hw: tuple[int, int] = (20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    imwrite(path, np.zeros((*size_hw, 3), np.uint8))
    return path


def make_set(root: Path, labels: dict[str, str | None], names: str = "[a, b, c]") -> DataSpec:
    """A data set whose train and val are the same folder of small images; None means no label file."""
    (root / "labels" / "train").mkdir(parents=True, exist_ok=True)
    for stem, text in labels.items():
        image(root / "images" / "train" / f"{stem}.png")
        if text is not None:
            (root / "labels" / "train" / f"{stem}.txt").write_text(text)
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/train\nnames: {names}")
    return load_spec(root / "data.yaml")


def test_index_of_a_small_set(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    spec = make_set(tmp_path, {"x": "1 .5 .5 .2 .2\n7 .5 .5 .2 .2\n0 .1 .1 .1 .1", "y": None, "z": ""})
    image(tmp_path / "images" / "train" / "deep" / "er" / "w.bmp", (40, 50))
    (tmp_path / "images" / "train" / "notes.md").write_text("not an image")
    (tmp_path / "images" / "train" / "broken.jpg").write_text("nothing")
    index = load_index(spec, "train")
    assert [Path(path).name for path in index.paths] == ["w.bmp", "x.png", "y.png", "z.png"]
    assert index.sizes_hw.tolist() == [[40, 50], [20, 30], [20, 30], [20, 30]]
    assert index.offsets.tolist() == [0, 0, 2, 2, 2]
    assert index.classes.tolist() == [1, 0]
    assert (index.classes.dtype, index.boxes_xywhn.dtype, index.sizes_hw.dtype) == (np.int32, np.float32, np.int32)
    assert (index.names, index.polygons) == ({0: "a", 1: "b", 2: "c"}, None)
    assert f"{tmp_path}/labels/train/x.txt:2: class 7, but the data YAML names 3 classes (0-2)" in log.text
    assert log.messages[-1] == (
        "train: 4 images, 3 backgrounds (2 without a label file), 1 corrupt; 2 objects, 1 rows dropped, 0 boxes clipped"
    )


def test_the_cache_gives_the_same_index_and_findings(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    spec = make_set(tmp_path, {"x": "1 .1 .1 .4 .1 .3 .5\n9 .5 .5 .2 .2", "y": "0 .5 .5 .2 .2"})
    first, messages = load_index(spec, "train"), list(log.messages)
    cache = tmp_path / "labels" / "train.cache"
    assert sorted(p.name for p in (tmp_path / "labels").iterdir()) == ["train", "train.cache"]
    assert not cache.read_bytes().startswith(b"\x80")  # no pickle
    written = cache.stat().st_mtime_ns
    log.clear()
    second = load_index(spec, "train")
    assert log.messages == messages
    assert cache.stat().st_mtime_ns == written
    assert second.paths == first.paths
    for name in ("sizes_hw", "offsets", "classes", "boxes_xywhn"):
        assert (getattr(first, name) == getattr(second, name)).all()
        assert getattr(first, name).dtype == getattr(second, name).dtype
    assert first.polygons is not None
    assert second.polygons is not None
    assert (first.polygons.points == second.polygons.points).all()
    assert second.labels(1)[2][0][0].tolist() == box_to_polygon(np.array([0.5, 0.5, 0.2, 0.2])).tolist()  # type: ignore[index]


def test_the_cache_notices_changes(tmp_path: Path) -> None:
    spec = make_set(tmp_path, {"x": "1 .5 .5 .2 .2", "y": None})
    assert load_index(spec, "train").num_objects == 1
    (tmp_path / "labels" / "train" / "y.txt").write_text("0 .5 .5 .2 .2")
    assert load_index(spec, "train").num_objects == 2
    label = tmp_path / "labels" / "train" / "x.txt"
    label.write_text("2 .5 .5 .2 .2")  # as long as before
    os.utime(label, ns=(1, 1))
    assert load_index(spec, "train").classes.tolist() == [2, 0]
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/train\nnames: [a, b]")
    assert load_index(load_spec(tmp_path / "data.yaml"), "train").classes.tolist() == [0]


class Malicious:
    """Unpickling it would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("kind", ["pickle", "npy", "text", "npz", "earlier format"])
def test_foreign_files_named_like_the_cache_are_never_unpickled(tmp_path: Path, kind: str) -> None:
    spec = make_set(tmp_path, {"x": "1 .5 .5 .2 .2"})
    cache, target = tmp_path / "labels" / "train.cache", tmp_path / "pwned"
    with open(cache, "wb") as stream:
        if kind == "pickle":
            pickle.dump(Malicious(target), stream)
        elif kind == "npy":
            np.save(stream, np.array({"hash": Malicious(target)}, dtype=object), allow_pickle=True)
        elif kind == "npz":
            np.savez(stream, about=np.array([Malicious(target)], dtype=object))
        elif kind == "earlier format":
            stream.write(b"openyolov5 arrays\n" + (2).to_bytes(8, "little") + b"{}" + bytes(64))
        else:
            stream.write(b"PK\x03\x04 but no archive")
    assert load_index(spec, "train").num_objects == 1
    assert not target.exists()
    assert b"path_text" in cache.read_bytes()


def test_a_read_only_folder_costs_one_warning(
    tmp_path: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_set(tmp_path, {"x": "1 .5 .5 .2 .2"})

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("utils.datasets.index.cache.atomic_write", refuse)
    assert load_index(spec, "train").num_objects == 1
    assert [p.name for p in (tmp_path / "labels").iterdir()] == ["train"]
    assert sum("cannot be written (Read-only file system)" in message for message in log.messages) == 1


def test_messages_are_limited_unless_verbose(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    spec = make_set(tmp_path, {"x": "0 .5 .5 .2 .2\n" + "8 .5 .5 .2 .2\n" * 15})
    load_index(spec, "train")
    assert sum("class 8" in message for message in log.messages) == 10
    assert "... and 5 more (--verbose shows all)" in log.text
    log.clear()
    load_index(spec, "train", verbose=True)
    assert sum("class 8" in message for message in log.messages) == 15


def test_single_cls_with_polygons(tmp_path: Path) -> None:
    spec = make_set(tmp_path, {"x": "1 .1 .1 .4 .1 .3 .5\n2 .5 .5 .2 .2"})
    index = load_index(spec, "train", single_cls=True)
    assert index.classes.tolist() == [0, 0]
    assert index.names == {0: "item"}
    assert index.polygons is not None
    assert len(index.polygons) == 2
    one = make_set(tmp_path / "one", {"x": "0 .5 .5 .2 .2"}, names="[cell]")
    assert load_index(one, "train", single_cls=True).names == {0: "cell"}


def test_no_labels(tmp_path: Path) -> None:
    spec = make_set(tmp_path, {"x": None, "y": None})
    with pytest.raises(InputError, match=r"no labels found; expected the first in .*labels/train/x\.txt"):
        load_index(spec, "train")
    assert len(load_index(spec, "train", require_labels=False)) == 2


def test_backgrounds_only(tmp_path: Path) -> None:
    spec = make_set(tmp_path, {"x": "", "y": "\n"})
    with pytest.raises(InputError, match="train: all label files are empty"):
        load_index(spec, "train")
    assert len(load_index(spec, "val")) == 2  # valid: counts false positives


def test_no_valid_rows(tmp_path: Path) -> None:
    spec = make_set(tmp_path, {"x": "0 .5 .5 0 0", "y": "7 .5 .5 .1 .1"})
    with pytest.raises(InputError, match="train: all 2 label rows are invalid, see the warnings above"):
        load_index(spec, "train")


def test_split_errors(tmp_path: Path) -> None:
    spec = make_set(tmp_path, {"x": None})
    with pytest.raises(InputError, match="no split 'test', only train, val"):
        load_index(spec, "test")
    (tmp_path / "images" / "train" / "x.png").write_text("broken")
    with pytest.raises(InputError, match="none of the 1 images can be read"):
        load_index(spec, "train")
    (tmp_path / "images" / "train" / "x.png").unlink()
    with pytest.raises(InputError, match="train: no images under"):
        load_index(spec, "train")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/a/images/train/x.jpg", "/a/labels/train/x.txt"),
        ("/a/images/images/b/x.y.png", "/a/images/labels/b/x.y.txt"),
        ("/a/images/x.jpg", "/a/labels/x.txt"),
        ("/a/myimages/x.jpg", "/a/myimages/x.txt"),
    ],
)
def test_label_path(image: str, label: str) -> None:
    assert get_label_path(image) == label


def test_lists_folders_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [image(tmp_path / "set" / "images" / name) for name in ("b.png", "a.png", "sub/c.png")]
    b, a, c = map(str, files)
    assert list_images(tmp_path / "set", tmp_path) == [a, b, c]
    assert list_images(tmp_path / "set" / "**" / "[ac].png", tmp_path) == [a, c]
    assert list_images(files[0], tmp_path) == [b]
    listing = tmp_path / "set" / "list.txt"
    listing.write_text(f"./images/b.png\n\n{a}\nset/images/sub/c.png\n")
    assert list_images(listing, tmp_path) == [b, a, c]
    listing.write_text("images/sub/c.png\n")
    assert list_images(listing, tmp_path / "nowhere") == [c]
    (tmp_path / "set" / "images" / "._a.png").write_text("resource fork")
    np.save(tmp_path / "set" / "images" / "a.npy", np.zeros((20, 20, 3), np.uint8))
    np.save(tmp_path / "set" / "images" / "d.npy", np.zeros((20, 20, 3), np.uint8))
    assert list_images(tmp_path / "set", tmp_path) == [a, b, str(tmp_path / "set" / "images" / "d.npy"), c]


def test_lines_of_a_list_are_relative_to_the_folder_of_the_first_existing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    b = image(tmp_path / "set" / "images" / "b.png")
    listing = tmp_path / "lists" / "list.txt"
    listing.parent.mkdir()
    listing.write_text("# images\nimages/gone.png\nimages/b.png\n")
    assert list_images(listing, tmp_path / "set") == [str(b.with_name("gone.png")), str(b)]


def test_caches_of_images_in_the_root_folder() -> None:
    source = SplitSource("val", (Path("/*.jpg"),))
    assert _cache_file(source, ["/a.jpg"]).parent == get_cache_file(["/a.png"], source).parent == Path("/")


def test_duplicate_images_are_reported(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    make_set(tmp_path, {"x": "1 .5 .5 .2 .2", "y": "0 .5 .5 .2 .2"})
    (tmp_path / "data.yaml").write_text("train: [images/train, images/train]\nval: images/train\nnames: [a, b]")
    spec = load_spec(tmp_path / "data.yaml")
    assert len(load_index(spec, "train").paths) == 4 and len(load_index(spec, "val").paths) == 2
    assert log.text.count("images are duplicates") == 1
    assert "data.yaml: train: 2 of 4 images are duplicates and are used each time" in log.text


def test_lists_and_several_paths_have_their_own_caches(tmp_path: Path) -> None:
    make_set(tmp_path, {"x": "1 .5 .5 .2 .2", "y": "0 .5 .5 .2 .2"})
    (tmp_path / "list.txt").write_text("./images/train/y.png\n")
    (tmp_path / "data.yaml").write_text("train: [list.txt, images/train]\nval: list.txt\nnames: [a, b]")
    spec = load_spec(tmp_path / "data.yaml")
    assert load_index(spec, "val").classes.tolist() == [0]
    assert load_index(spec, "train").classes.tolist() == [0, 1, 0]
    assert (tmp_path / "list.cache").is_file()
    assert len(list((tmp_path / "labels").glob("train.*.cache"))) == 1


def test_bccd_counts(shared: Path) -> None:
    """Figures of the data set's README: 4,886 boxes, of which 372, 4,153 and 361 are of the three classes."""
    spec = load_spec(shared / "data" / "bccd" / "bccd.yaml")
    indices = [load_index(spec, split) for split in ("train", "val", "test")]
    assert sum(map(len, indices)) == 364
    counts = sum(np.bincount(index.classes, minlength=3) for index in indices)
    assert counts.tolist() == [372, 4153, 361]
    assert all((index.sizes_hw == [480, 640]).all() for index in indices)
