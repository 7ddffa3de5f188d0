"""Downloads of whole data sets from small archives of the real layout served on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from loopback import IMAGE, make_spec, put, write_tar, write_zip

from utils.core.errors import InputError
from utils.datasets.index.data_yaml import load_spec
from utils.datasets.index.labels import load_index


@pytest.mark.parametrize("prefix", ["tiny/", ""], ids=["folder inside", "bare"])
def test_url_of_an_archive(tmp_path: Path, served: tuple[Path, str], prefix: str) -> None:
    folder, address = served
    files = {f"{prefix}images/train/a.jpg": IMAGE, f"{prefix}labels/train/a.txt": b"0 .5 .5 .2 .2\n"}
    write_zip(folder / "tiny.zip", files)
    text = f"path: sets/tiny\ntrain: images/train\nval: images/train\nnames: [a]\ndownload: {address}/tiny.zip\n"
    spec = make_spec(tmp_path, text)
    assert spec.root == tmp_path / "sets" / "tiny"
    assert sorted(p.name for p in spec.root.iterdir()) == ["images", "labels"]
    assert load_index(spec, "train").num_objects == 1
    assert [p.name for p in (tmp_path / "sets").iterdir()] == ["tiny"]


def test_several_urls_for_one_set(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    write_zip(folder / "images.zip", {"images/train/a.jpg": IMAGE})
    write_zip(folder / "labels.zip", {"labels/train/a.txt": b"0 .5 .5 .2 .2\n"})
    text = (
        "path: tiny\ntrain: images/train\nval: images/train\nnames: [a]\n"
        f"download: ['{address}/images.zip', '{address}/labels.zip']\n"
    )
    assert load_index(make_spec(tmp_path, text), "val").num_objects == 1


def test_archive_cannot_write_outside(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    write_zip(folder / "evil.zip", {"../../evil.txt": b"x", "images/train/a.jpg": IMAGE})
    text = f"path: tiny\ntrain: images/train\nval: images/train\nnames: [a]\ndownload: {address}/evil.zip"
    with pytest.raises(InputError, match=r"evil\.zip"):
        make_spec(tmp_path, text)
    assert not list(tmp_path.rglob("evil.txt"))
    assert not list(tmp_path.rglob(".unpacked-*"))


def test_url_cannot_write_or_remove_outside(tmp_path: Path, served: tuple[Path, str]) -> None:
    """Escaped slashes, and the folder of an interrupted earlier download."""
    folder, address = served
    write_zip(folder / "evil.zip", {"images/train/a.jpg": IMAGE, "labels/train/a.txt": b"0 .5 .5 .2 .2\n"})
    put(tmp_path / "sets" / "tiny" / ".fetched" / "evil.zip.part", b"")
    other = put(tmp_path / "sets" / "other" / "a.jpg", IMAGE)
    text = (
        f"path: sets/tiny\ntrain: images/train\nval: images/train\nnames: [a]\ndownload: {address}/..%2F..%2Fevil.zip"
    )
    assert load_index(make_spec(tmp_path, text), "train").num_objects == 1
    assert other.exists()
    assert sorted(p.name for p in (tmp_path / "sets").iterdir()) == ["other", "tiny"]


@pytest.mark.parametrize("place", ["home", "sets/.config/autostart"])
def test_a_download_does_not_write_among_settings(place: str, tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    write_tar(folder / "SKU110K_fixed.tar.gz", {"SKU110K_fixed/.bashrc": b"theirs"})
    root = tmp_path / place
    if place == "home":
        put(root / ".bashrc", b"mine")
    text = f"path: {root}\ntrain: train.txt\nval: val.txt\nnames: [a]\nsource: {address}\ndownload: builtin:sku-110k\n"
    with pytest.raises(InputError, match=r"path: .*(has hidden files \(\.bashrc\)|is in a hidden folder)"):
        make_spec(tmp_path, text)
    assert [path.read_bytes() for path in root.glob("**/*")] == ([b"mine"] if place == "home" else [])


def test_a_download_completes_a_folder_of_data(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    write_zip(folder / "tiny.zip", {"images/train/a.jpg": IMAGE, "labels/train/a.txt": b"0 .5 .5 .2 .2\n"})
    root = tmp_path / "sets" / "tiny"
    put(root / "images" / "other" / "b.jpg", IMAGE)
    put(root / ".DS_Store", b"")
    text = f"path: {root}\ntrain: images/train\nval: images/train\nnames: [a]\ndownload: {address}/tiny.zip"
    assert make_spec(tmp_path, text).root == root
    assert (root / "images/train/a.jpg").is_file() and (root / "images/other/b.jpg").is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent.zip", "absent.zip: the server answered 404"), ("page.html", "not an archive")],
)
def test_unusable_urls(tmp_path: Path, served: tuple[Path, str], name: str, message: str) -> None:
    text = f"path: tiny\ntrain: images/train\nval: images/train\nnames: [a]\ndownload: {served[1]}/{name}"
    with pytest.raises(InputError, match=message):
        make_spec(tmp_path, text)


def test_archive_without_the_split(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    write_zip(folder / "tiny.zip", {"readme.txt": b"nothing"})
    text = f"path: tiny\ntrain: images/train\nval: images/train\nnames: [a]\ndownload: {address}/tiny.zip"
    with pytest.raises(InputError, match="train: 'images/train' not found under"):
        make_spec(tmp_path, text)


def voc_files(year: str, sets: dict[str, list[str]]) -> dict[str, bytes]:
    xml = (
        "<annotation><size><width>100</width><height>50</height></size><object><name>dog</name><difficult>{}</difficult>"
        "<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>15</ymax></bndbox></object></annotation>"
    )
    files, kit = {}, f"VOCdevkit/VOC{year}"
    for name, stems in sets.items():
        files[f"{kit}/ImageSets/Main/{name}.txt"] = "".join(f"{stem}\n" for stem in stems).encode()
        for stem in stems:
            files[f"{kit}/JPEGImages/{stem}.jpg"] = IMAGE
            files[f"{kit}/Annotations/{stem}.xml"] = xml.format(int(stem.endswith("9"))).encode()
    return files


def test_voc(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    trainval = {"train": ["000001", "000009"], "val": ["000003"]}
    write_tar(folder / "voc2007" / "VOCtrainval_06-Nov-2007.tar", voc_files("2007", trainval))
    write_tar(folder / "voc2007" / "VOCtest_06-Nov-2007.tar", voc_files("2007", {"test": ["000005"]}))
    sets_2012 = {"train": ["2008_000001"], "val": ["2008_000002"]}
    write_tar(folder / "voc2012" / "VOCtrainval_11-May-2012.tar", voc_files("2012", sets_2012))
    text = (
        "path: VOC\ntrain: [images/train2012, images/train2007, images/val2012, images/val2007]\nval: images/test2007\n"
        f"names: {{0: cat, 1: dog}}\ndownload: builtin:voc\nsource: {address}/\n"
    )
    spec = make_spec(tmp_path, text)
    train = load_index(spec, "train")
    assert sorted(Path(path).stem for path in train.paths) == [
        "000001",
        "000003",
        "000009",
        "2008_000001",
        "2008_000002",
    ]
    assert train.classes.tolist() == [1, 1, 1, 1]  # 000009 is marked difficult
    assert train.boxes_xywhn[0].tolist() == pytest.approx([0.2, 0.2, 0.2, 0.2])
    assert load_index(spec, "val").num_objects == 1


def test_coco(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served

    def instances(stem: str) -> bytes:
        image = {"id": 1, "file_name": f"{stem}.jpg", "width": 100, "height": 50}
        row = {"image_id": 1, "category_id": 18, "bbox": [10, 5, 20, 10], "segmentation": [[10, 5, 30, 5, 30, 15]]}
        crowd = row | {"id": 2, "iscrowd": 1}
        rows = [row | {"id": 1, "iscrowd": 0}, crowd]
        categories = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
        return json.dumps({"images": [image], "annotations": rows, "categories": categories}).encode()

    splits = {"train2017": "000000000009", "val2017": "000000000139"}
    files = {f"annotations/instances_{split}.json": instances(stem) for split, stem in splits.items()}
    write_zip(folder / "annotations" / "annotations_trainval2017.zip", files)
    test = json.dumps({"images": [{"id": 3, "file_name": "000000000001.jpg"}]}).encode()
    write_zip(folder / "annotations" / "image_info_test2017.zip", {"annotations/image_info_test-dev2017.json": test})
    for split, stem in {**splits, "test2017": "000000000001"}.items():
        write_zip(folder / "zips" / f"{split}.zip", {f"{split}/{stem}.jpg": IMAGE})
    text = (
        "path: coco\ntrain: train2017.txt\nval: val2017.txt\ntest: test-dev2017.txt\nnames: {0: cat, 1: dog}\n"
        f"download: builtin:coco\nsource: {address}\n"
    )
    spec = make_spec(tmp_path, text)
    for split, stem in (("train", "000000000009"), ("val", "000000000139")):
        index = load_index(spec, split)
        assert [Path(path).stem for path in index.paths] == [stem]
        assert index.classes.tolist() == [1]
        assert index.boxes_xywhn[0].tolist() == pytest.approx([0.2, 0.2, 0.2, 0.2])
        assert index.polygons is None
    assert len(load_index(spec, "test", require_labels=False)) == 1
    assert not list((tmp_path / "coco").rglob("*.zip"))


def test_interrupted_download_resumes(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    trainval = {"train": ["000001"], "val": ["000003"]}
    first = folder / "voc2007" / "VOCtrainval_06-Nov-2007.tar"
    write_tar(first, voc_files("2007", trainval))
    text = (
        "path: VOC\ntrain: images/train2007\nval: images/test2007\nnames: {0: cat, 1: dog}\n"
        f"download: builtin:voc\nsource: {address}/\n"
    )
    with pytest.raises(InputError, match=r"VOCtest_06-Nov-2007\.tar: the server answered 404"):
        make_spec(tmp_path, text)
    first.unlink()  # must not be requested again
    write_tar(folder / "voc2007" / "VOCtest_06-Nov-2007.tar", voc_files("2007", {"test": ["000005"]}))
    write_tar(folder / "voc2012" / "VOCtrainval_11-May-2012.tar", voc_files("2012", {"train": ["a"], "val": ["b"]}))
    assert load_index(make_spec(tmp_path, text), "train").num_objects == 1


def test_images_without_labels_are_not_a_complete_set(tmp_path: Path, served: tuple[Path, str]) -> None:
    """A run that is stopped after unpacking leaves images of all splits; the next run must write the labels."""
    folder, address = served
    for part in ("train", "val", "test-dev"):
        name = f"VisDrone2019-DET-{part}"
        files = {f"{name}/images/1.jpg": IMAGE, f"{name}/annotations/1.txt": b"10,5,20,10,1,1,0,0\n"}
        write_zip(folder / f"{name}.zip", files)
    text = (
        "path: v\ntrain: VisDrone2019-DET-train/images\nval: VisDrone2019-DET-val/images\nnames: [walker]\n"
        f"download: builtin:visdrone\nsource: {address}\n"
    )
    with pytest.raises(InputError, match=r"VisDrone2019-DET-test-challenge\.zip: the server answered 404"):
        make_spec(tmp_path, text)
    with pytest.raises(InputError, match="test-challenge"):  # and not "no labels found"
        make_spec(tmp_path, text)
    write_zip(folder / "VisDrone2019-DET-test-challenge.zip", {"VisDrone2019-DET-test-challenge/images/2.jpg": IMAGE})
    assert load_index(make_spec(tmp_path, text), "val").num_objects == 1
    folder.rename(tmp_path / "gone")  # a complete set needs no downloads
    assert load_index(make_spec(tmp_path, text), "val").num_objects == 1


def test_manual_set_after_a_failed_download(tmp_path: Path, served: tuple[Path, str]) -> None:
    text = f"path: v\ntrain: images\nval: images\nnames: [a]\ndownload: builtin:visdrone\nsource: {served[1]}\n"
    with pytest.raises(InputError, match="404"):
        make_spec(tmp_path, text)
    put(tmp_path / "v" / "images" / "a.jpg", IMAGE)
    put(tmp_path / "v" / "labels" / "a.txt", b"0 .5 .5 .2 .2\n")
    assert load_index(make_spec(tmp_path, text), "val").num_objects == 1


def test_archive_as_data_yaml(tmp_path: Path) -> None:
    text = "path: ../datasets/tiny\ntrain: images/train\nval: images/train\nnames: [a]\n"
    files = {"images/train/a.jpg": IMAGE, "labels/train/a.txt": b"0 .5 .5 .2 .2\n", "tiny.yaml": text.encode()}
    write_zip(tmp_path / "tiny.zip", files)
    for _ in range(2):
        spec = load_spec(tmp_path / "tiny.zip")
        assert spec.root == tmp_path / "tiny"
        assert load_index(spec, "val").num_objects == 1
    write_zip(tmp_path / "none.zip", {"readme.txt": b"x"})
    with pytest.raises(InputError, match=r"none\.zip: 0 YAML files in it, expected one"):
        load_spec(tmp_path / "none.zip")
