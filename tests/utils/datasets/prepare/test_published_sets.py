"""Published data sets: data YAML files, and preparers on tiny archives of the real layout served on loopback."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from loopback import IMAGE, make_spec, put, tar_bytes, write_tar, write_zip
from scipy.io import savemat

from utils.config.base import ROOT
from utils.core.errors import InputError
from utils.datasets.index.class_folders import load_class_data, load_class_index
from utils.datasets.index.data_yaml import load_spec, read_spec
from utils.datasets.index.labels import load_index
from utils.datasets.index.verify import check_rows
from utils.datasets.prepare import objects365
from utils.datasets.prepare.imagenet import prepare_imagenet
from utils.datasets.prepare.sku110k import read_sku110k_annotations
from utils.datasets.prepare.visdrone import read_visdrone_annotation
from utils.datasets.prepare.xview import TYPE_IDS, read_xview_objects

BOX = [0.2, 0.2, 0.2, 0.2]  # of left 10, top 5, width 20, height 10 in images of 100x50
Served = tuple[Path, str]

TABLE = {  # classes and splits
    "coco.yaml": (80, "train2017.txt", "val2017.txt", "test-dev2017.txt"),
    "coco128.yaml": (80, "images/train2017", "images/train2017", None),
    "coco128-seg.yaml": (80, "images/train2017", "images/train2017", None),
    "VOC.yaml": (20, None, "images/test2007", "images/test2007"),
    "Argoverse.yaml": (
        8,
        "Argoverse-1.1/images/train/",
        "Argoverse-1.1/images/val/",
        "Argoverse-1.1/images/test/",
    ),
    "GlobalWheat2020.yaml": (1, None, ["images/ethz_1"], None),
    "Objects365.yaml": (365, "images/train", "images/val", None),
    "SKU-110K.yaml": (1, "train.txt", "val.txt", "test.txt"),
    "VisDrone.yaml": (
        10,
        "VisDrone2019-DET-train/images",
        "VisDrone2019-DET-val/images",
        "VisDrone2019-DET-test-dev/images",
    ),
    "xView.yaml": (60, "images/autosplit_train.txt", "images/autosplit_val.txt", None),
    "ImageNet.yaml": (1000, "train", "val", None),
}


@pytest.mark.parametrize("name", TABLE)
def test_data_yaml(name: str) -> None:
    spec = read_spec(ROOT / "data" / name)
    num_classes, *splits = TABLE[name]
    assert spec.num_classes == len(set(spec.names.values())) == num_classes
    for split, expected in zip(("train", "val", "test"), splits, strict=True):
        if expected is not None:
            assert spec.raw[split] == expected
    assert str(spec.raw["path"]).startswith("../datasets/")


def test_global_wheat_splits_share_no_site() -> None:
    spec = read_spec("GlobalWheat2020.yaml")
    assert [len(spec.raw[split]) for split in ("train", "val", "test")] == [7, 1, 4]
    assert not set(spec.raw["train"]) & set(spec.raw["test"])


def yaml_text(path: str, splits: Mapping[str, str], names: str, download: str, address: str = "") -> str:
    lines = [f"path: {path}", *(f"{key}: {value}" for key, value in splits.items()), f"names: {names}"]
    return "\n".join([*lines, f"download: builtin:{download}", *([f"source: {address}/"] if address else [])])


# -- VisDrone ---------------------------------------------------------------------------------------------------------


def test_visdrone(tmp_path: Path, served: Served, caplog: pytest.LogCaptureFixture) -> None:
    folder, address = served
    lines = "10,5,20,10,1,4,0,0\n0,0,9,9,0,0,0,0\n0,0,9,9,1,11,0,0\n0,0,100,50,1,1,0,1,\n1,1,0,3,1,2,0,0\n"
    parts = ("VisDrone2019-DET-train", "VisDrone2019-DET-val", "VisDrone2019-DET-test-dev")
    for part in parts:
        files = {f"{part}/images/0001.jpg": IMAGE, f"{part}/annotations/0001.txt": lines.encode()}
        write_zip(folder / f"{part}.zip", files)
    write_zip(folder / "VisDrone2019-DET-test-challenge.zip", {"VisDrone2019-DET-test-challenge/images/1.jpg": IMAGE})
    splits = {key: f"{part}/images" for key, part in zip(("train", "val", "test"), parts, strict=True)}
    names = "[" + ", ".join(read_spec("VisDrone.yaml").names.values()) + "]"
    with caplog.at_level(logging.INFO):
        spec = make_spec(tmp_path, yaml_text("VisDrone", splits, names, "visdrone", address))
    for split in splits:
        index = load_index(spec, split)
        assert index.classes.tolist() == [3, 0]  # categories start from 1
        assert index.boxes_xywhn.tolist() == [pytest.approx(BOX), pytest.approx([0.5, 0.5, 1, 1])]
    assert "1 rows dropped; 2 regions ignored by the benchmark skipped" in caplog.text
    assert "0001.txt:5: box" in caplog.text  # has no width


def test_bad_visdrone_lines(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.txt:1: '1,2,x' is not a VisDrone annotation"):
        read_visdrone_annotation(put(tmp_path / "a.txt", b"1,2,x\n"), (50, 100), 10)
    with pytest.raises(InputError, match=r"a\.txt:2: byte 0xe9 is not UTF-8"):
        read_visdrone_annotation(put(tmp_path / "a.txt", b"\ncaf\xe9\n"), (50, 100), 10)
    odd = b"nan,inf,1e308,-1e308,1,1\n1,2,3,4,nan,nan\n1e300,1,1,1,1,1.5\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels, ignored = read_visdrone_annotation(put(tmp_path / "a.txt", odd), (50, 100), 10)
        assert (len(check_rows(labels, 10).rows), ignored) == (0, 1)


# -- SKU-110K ---------------------------------------------------------------------------------------------------------


def test_sku110k(tmp_path: Path, served: Served) -> None:
    folder, address = served
    files = {}
    for split in ("train", "val", "test"):
        rows = f"{split}_0.jpg,10,5,30,15,object,100,50\n{split}_0.jpg,0,0,100,50,object,100,50\n"
        rows += f"{split}_1.jpg,10,5,30,15,object,100,50\n"
        files[f"SKU110K_fixed/annotations/annotations_{split}.csv"] = rows.encode()
        files |= {f"SKU110K_fixed/images/{split}_{i}.jpg": IMAGE for i in range(2)}
    write_tar(folder / "SKU110K_fixed.tar.gz", files)
    splits = {split: f"{split}.txt" for split in ("train", "val", "test")}
    spec = make_spec(tmp_path, yaml_text("SKU-110K", splits, "[object]", "sku-110k", address))
    for split in splits:
        index = load_index(spec, split)
        assert [Path(path).name for path in index.paths] == [f"{split}_0.jpg", f"{split}_1.jpg"]
        assert index.boxes_xywhn[2].tolist() == pytest.approx(BOX)
    assert sorted(path.name for path in spec.root.iterdir() if path.is_dir()) == [
        ".fetched",
        "annotations",
        "images",
        "labels",
    ]


@pytest.mark.parametrize(
    "line",
    [
        *("a.jpg,1,2,3", "a.jpg,x,2,3,4,object,10,10", "a.jpg,1,2,3,4,object,0,10", "a.jpg,1,2,3,4,object,nan,10"),
        *("a.jpg,1,2,3,4,object,inf,10", "a.jpg,1,2,3,4,object,1e300,10", "a" * 200_000),
    ],
)
def test_bad_sku110k_lines(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match=r"a\.csv:2: not name, x1, y1, x2, y2, class, width, height"):
        read_sku110k_annotations(put(tmp_path / "a.csv", f"b.jpg,1,2,3,4,object,10,10\n{line}\n".encode()))


# -- Argoverse --------------------------------------------------------------------------------------------------------


def argoverse_files(sequence_prefix: str = "") -> dict[str, bytes]:
    files = {"Argoverse-1.1/tracking/test/f9/ring_front_center/ring_front_center_9.jpg": IMAGE}
    for split, sequence in (("train", "f1"), ("val", "f2")):
        place = f"{split}/{sequence}/ring_front_center"
        files[f"Argoverse-1.1/tracking/{place}/ring_front_center_7.jpg"] = IMAGE
        annotation = {"id": 0, "image_id": 0, "category_id": 2, "bbox": [10, 5, 20, 10], "iscrowd": False, "track": 3}
        content = {
            "categories": [{"id": k, "name": str(k)} for k in range(8)],
            "images": [{"id": 0, "sid": 0, "fid": 0, "name": "ring_front_center_7.jpg", "width": 100, "height": 50}],
            "annotations": [annotation, annotation | {"id": 1, "iscrowd": True}],
            "sequences": [sequence],
            "seq_dirs": [sequence_prefix + place],
            "coco_mapping": [0, 1, 2, 3, 5, 7, 9, 11],
        }
        files[f"Argoverse-HD/annotations/{split}.json"] = json.dumps(content).encode()
    return files


@pytest.mark.parametrize("prefix", ["", "Argoverse-1.1/tracking/"])
def test_argoverse(tmp_path: Path, served: Served, prefix: str) -> None:
    folder, address = served
    write_zip(folder / "Argoverse-HD-Full.zip", argoverse_files(prefix))
    splits = {split: f"Argoverse-1.1/images/{split}/" for split in ("train", "val", "test")}
    spec = make_spec(tmp_path, yaml_text("Argoverse", splits, "[a, b, c, d, e, f, g, h]", "argoverse", address))
    for split in ("train", "val"):
        index = load_index(spec, split)
        assert index.classes.tolist() == [2]  # the crowd is skipped
        assert index.boxes_xywhn[0].tolist() == pytest.approx(BOX)
    assert len(load_index(spec, "test", require_labels=False)) == 1


def test_argoverse_cannot_write_outside(tmp_path: Path, served: Served) -> None:
    folder, address = served
    write_zip(folder / "Argoverse-HD-Full.zip", argoverse_files("../../../../"))
    splits = {"train": "Argoverse-1.1/images/train/", "val": "x"}
    with pytest.raises(InputError, match="is outside the data set"):
        make_spec(tmp_path, yaml_text("Argoverse", splits, "[a, b, c, d, e, f, g, h]", "argoverse", address))


# -- Global Wheat -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", ["", "GlobalWheat2020/"])
def test_global_wheat(tmp_path: Path, served: Served, around: str) -> None:
    folder, address = served
    sites = [
        place.rpartition("/")[2] for key in ("train", "test") for place in read_spec("GlobalWheat2020.yaml").raw[key]
    ]
    images = {f"{site}/{site}_0.png": IMAGE for site in sites} | {f"{site}.json": b"{}" for site in sites}
    write_zip(folder / "global-wheat-codalab-official.zip", images)
    labels = {f"{around}labels/{site}/{site}_0.txt": b"0 0.2 0.2 0.2 0.2\n" for site in sites}
    write_zip(folder / "GlobalWheat2020_labels.zip", labels)
    splits = {"train": "[images/arvalis_1, images/usask_1]", "val": "[images/ethz_1]", "test": "[images/nau_1]"}
    spec = make_spec(tmp_path, yaml_text("GlobalWheat2020", splits, "[wheat_head]", "global-wheat", address))
    assert load_index(spec, "train").num_objects == 2
    assert load_index(spec, "test").boxes_xywhn[0].tolist() == pytest.approx(BOX)
    assert len(list((spec.root / "annotations").iterdir())) == len(sites) == 11


# -- Objects365 -------------------------------------------------------------------------------------------------------


def test_objects365(
    tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, address = served
    patches = {"train": ["train/patch0.tar.gz", "train/patch1.tar.gz"], "val": ["val/images/v2/patch16.tar.gz"]}
    assert patches["train"][0] in objects365.PATCHES["train"] and patches["val"][0] in objects365.PATCHES["val"]
    assert [len(archives) for archives in objects365.PATCHES.values()] == [51, 44]
    monkeypatch.setattr(objects365, "PATCHES", patches)
    for split, archives in patches.items():
        images, annotations = [], []
        for number, archive in enumerate(archives):
            patch, name = Path(archive).name.removesuffix(".tar.gz"), f"objects365_v2_{number:08d}.jpg"
            write_tar(folder / archive, {f"{patch}/{name}": IMAGE})
            images.append({"id": 900 + number, "file_name": f"images/v2/{patch}/{name}", "width": 100, "height": 50})
            row = {"id": number, "image_id": 900 + number, "category_id": 365, "bbox": [10, 5, 20, 10], "iscrowd": 0}
            annotations += [row, row | {"id": 50 + number, "category_id": 1}, row | {"iscrowd": 1}]
        images.append(images[0] | {"id": 7, "file_name": "images/v2/patch9/gone.jpg"})
        categories = [{"id": k, "name": f"name {k}"} for k in range(1, 366)]
        content = {"images": images, "annotations": annotations[::-1], "categories": categories}
        file = f"zhiyuan_objv2_{split}.json"
        write_tar(folder / split / f"zhiyuan_objv2_{split}.tar.gz", {file: json.dumps(content).encode()})
    names = json.dumps([f"c{k}" for k in range(365)])
    splits = {"train": "images/train", "val": "images/val"}
    with caplog.at_level(logging.INFO):
        spec = make_spec(tmp_path, yaml_text("Objects365", splits, names, "objects365", address))
    index = load_index(spec, "train")
    assert [Path(path).parent.name for path in index.paths] == ["patch0", "patch1"]
    assert index.classes.tolist() == [0, 364, 0, 364]
    assert index.boxes_xywhn[0].tolist() == pytest.approx(BOX)
    assert load_index(spec, "val").num_objects == 2
    assert "2 crowd regions and 1 images missing in the archives skipped" in caplog.text


def test_objects365_cannot_write_outside(tmp_path: Path) -> None:
    put(tmp_path / "images/a.jpg", IMAGE)
    image = {"id": 1, "file_name": "../a.jpg", "width": 100, "height": 50}
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    annotations = put(tmp_path / "train.json", json.dumps(content).encode())
    objects365._write_patch_labels(annotations, tmp_path, "train", 1)
    assert not list(tmp_path.rglob("*.txt"))


# -- xView ------------------------------------------------------------------------------------------------------------


def xview_archives(root: Path, images: int) -> None:
    tif = cv2.imencode(".tif", np.full((50, 100, 3), 90, np.uint8))[1].tobytes()
    features = []
    for number in range(images):
        common = {"image_id": f"{number}.tif", "bounds_imcoords": "10,5,30,15", "type_id": 18}
        for change in ({}, {"type_id": 94}, {"type_id": 75}, {"bounds_imcoords": ""}):
            features.append({"type": "Feature", "properties": common | change})
    write_zip(root / "train_images.zip", {f"train_images/{i}.tif": tif for i in range(images)})
    write_zip(root / "val_images.zip", {"val_images/900.tif": tif})
    geojson = json.dumps({"type": "FeatureCollection", "features": features}).encode()
    write_zip(root / "train_labels.zip", {"xView_train.geojson": geojson})


def test_xview(tmp_path: Path) -> None:
    assert len(TYPE_IDS) == len(set(TYPE_IDS)) == 60
    names = read_spec("xView.yaml").names
    assert (names[TYPE_IDS.index(18)], names[TYPE_IDS.index(94)]) == ("Small Car", "Tower")
    assert (names[TYPE_IDS.index(57)], names[TYPE_IDS.index(73)]) == ("Straddle Carrier", "Building")
    splits = {"train": "images/autosplit_train.txt", "val": "images/autosplit_val.txt"}
    text = yaml_text("xView", splits, json.dumps(list(names.values())), "xview")
    with pytest.raises(
        InputError, match=r"train_images\.zip, val_images\.zip, train_labels\.zip not found; .*registration"
    ):
        make_spec(tmp_path, text)
    xview_archives(tmp_path / "xView", 10)
    spec = make_spec(tmp_path, text)
    train, val = load_index(spec, "train"), load_index(spec, "val")
    assert (len(train), len(val)) == (9, 1)
    assert not {*train.paths} & {*val.paths}
    assert val.classes.tolist() == [5, 59]  # type 75 and the object without a box are skipped
    assert val.boxes_xywhn[0].tolist() == pytest.approx(BOX)


@pytest.mark.parametrize(
    "feature",
    [
        *({"properties": {"type_id": 18}}, {"properties": None}, 5),
        *(
            {"properties": {"image_id": 1, "bounds_imcoords": "", "type_id": v}}
            for v in (float("inf"), float("nan"), [])
        ),
        {"properties": {"image_id": 1, "bounds_imcoords": 5, "type_id": 18}},
    ],
)
def test_bad_xview_features(tmp_path: Path, feature: Any) -> None:
    file = put(tmp_path / "a.geojson", json.dumps({"features": [feature]}).encode())
    with pytest.raises(InputError, match=r"a\.geojson: features\[0\] is not an object of xView"):
        read_xview_objects(file)


# -- ImageNet ---------------------------------------------------------------------------------------------------------


def imagenet_archives(root: Path, wnids: tuple[str, str] = ("n02000001", "n01000002")) -> None:
    """The development kit does not number classes alphabetically: here class 1 is the second by name."""
    train = {f"{wnid}.tar": tar_bytes({f"{wnid}_{i}.JPEG": IMAGE for i in range(3)}) for wnid in wnids}
    write_tar(root / "ILSVRC2012_img_train.tar", {name: data for name, data in train.items() if "/" not in name})
    val = {f"ILSVRC2012_val_{i:08d}.JPEG": IMAGE for i in (1, 2, 3)}
    write_tar(root / "ILSVRC2012_img_val.tar", val)
    synsets = np.zeros(3, [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])
    for row, (number, wnid) in enumerate([(1, wnids[0]), (2, wnids[1]), (1001, "n03")]):
        synsets[row] = (number, wnid, 0)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    kit = "ILSVRC2012_devkit_t12/data"
    truth = b"2\n1\n2\n"
    files = {f"{kit}/meta.mat": meta.getvalue(), f"{kit}/ILSVRC2012_validation_ground_truth.txt": truth}
    write_tar(root / "ILSVRC2012_devkit_t12.tar.gz", files)


def test_imagenet(tmp_path: Path) -> None:
    (tmp_path / "set.yaml").write_text(
        yaml_text("imagenet", {"train": "train", "val": "val"}, "[hen, dog]", "imagenet")
    )
    with pytest.raises(
        InputError, match=r"ILSVRC2012_img_train\.tar, .* not found; this data set requires registration"
    ):
        load_class_data(tmp_path / "set.yaml")
    imagenet_archives(tmp_path / "imagenet")
    spec = load_class_data(tmp_path / "set.yaml")
    index = load_class_index(spec, "val")
    labels = {
        Path(path).stem: (int(number), Path(path).parent.name)
        for path, number in zip(index.paths, index.classes, strict=True)
    }
    assert labels == {
        "ILSVRC2012_val_00000001": (0, "n01000002"),
        "ILSVRC2012_val_00000002": (1, "n02000001"),
        "ILSVRC2012_val_00000003": (0, "n01000002"),
    }
    assert len(load_class_index(spec, "train")) == 6
    assert not list((tmp_path / "imagenet").rglob("n*.tar"))


def test_imagenet_cannot_write_outside(tmp_path: Path) -> None:
    imagenet_archives(tmp_path / "imagenet", ("n02000001", "../../outside"))
    with pytest.raises(InputError, match=r"'../../outside' is not a WordNet id"):
        prepare_imagenet(tmp_path / "imagenet", {})
    assert not (tmp_path / "outside").exists()


def test_imagenet_by_name_names_the_download_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path))
    with pytest.raises(InputError, match=r"image-net\.org.* put the archives into"):
        load_class_data("imagenet")


# -- all together -----------------------------------------------------------------------------------------------------


def test_bundled_yaml_with_a_mirror(tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """VisDrone.yaml of data/ with a `source`."""
    folder, address = served
    for part in ("train", "val", "test-dev", "test-challenge"):
        name = f"VisDrone2019-DET-{part}"
        files = {f"{name}/images/0001.jpg": IMAGE, f"{name}/annotations/0001.txt": b"10,5,20,10,1,10,0,0\n"}
        write_zip(folder / f"{name}.zip", files)
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path / "sets"))
    text = (ROOT / "data" / "VisDrone.yaml").read_text()
    (tmp_path / "VisDrone.yaml").write_text(f"{text}source: {address}\n")
    spec = load_spec(tmp_path / "VisDrone.yaml")
    assert spec.root == tmp_path / "sets" / "VisDrone"
    index = load_index(spec, "val")
    assert [spec.names[int(label)] for label in index.classes] == ["motor"]
