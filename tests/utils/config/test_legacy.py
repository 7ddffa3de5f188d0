"""Flags, keywords and files of older releases."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.config.base import BaseConfig
from utils.config.detect import DetectConfig
from utils.config.export import ExportConfig
from utils.config.train import TrainConfig
from utils.config.val import ValConfig
from utils.core.errors import InputError


@pytest.mark.parametrize(
    ("kind", "argv", "expected"),
    [
        (TrainConfig, ["--adam"], {"optimizer": "Adam"}),
        (TrainConfig, ["--notest"], {"noval": True}),
        (TrainConfig, ["--cache-images", "--adam"], {"cache": "ram", "optimizer": "Adam"}),
        (TrainConfig, ["--linear-lr"], {"cos_lr": False}),
        (TrainConfig, ["--save_period", "3"], {"save_period": 3}),
        (TrainConfig, ["--no-save"], {"nosave": True}),
        (TrainConfig, ["--base-size=96"], {"seg_imgsz": 96}),
        (TrainConfig, ["--cac", "disk", "--noval"], {"cache": "disk", "noval": True}),  # prefixes stay
        (ValConfig, ["--base-size", "1024"], {"seg_imgsz": 1024}),
        (DetectConfig, ["--no-save"], {"nosave": True}),
        (ExportConfig, ["--grid", "--include", "onnx"], {"include": ["onnx"]}),
    ],
)
def test_old_flags_work(kind: type[BaseConfig], argv: list[str], expected: dict[str, object]) -> None:
    config = kind.from_args(argv)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("kind", "argv", "text"),
    [
        (TrainConfig, ["--logdir", "x"], "--logdir: not supported; set the folder with --project and --name"),
        (TrainConfig, ["--segdata", "data/citys"], "--segdata: not supported; --data takes one YAML with the keys"),
        (ValConfig, ["--merge"], "--merge: not supported; non-maximum suppression keeps"),
        (DetectConfig, ["--output=x"], "--output: not supported; set the folder with --project"),
        (ExportConfig, ["--train"], "--train: not supported; exported files have decoded boxes"),
        (ExportConfig, ["--mlmodel"], "--mlmodel: not supported; --include coreml writes an .mlpackage"),
    ],
)
def test_old_flags_without_replacement_name_what_to_use(kind: type[BaseConfig], argv: list[str], text: str) -> None:
    with pytest.raises(InputError, match=text):
        kind.from_args(argv)


def test_old_keywords() -> None:
    config = TrainConfig.from_kwargs(adam=True, notest=False, cache_images=True, linear_lr=False, base_size=64)
    assert (config.optimizer, config.noval, config.cache, config.seg_imgsz) == ("Adam", False, "ram", 64)
    assert config.explicit == {"optimizer", "cache", "seg_imgsz"}
    with pytest.raises(InputError, match="--train: not supported"):
        ExportConfig.from_kwargs(train=True)
    assert ExportConfig.from_kwargs(train=False).explicit == frozenset()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"cfg": "a/yolov5s_city_seg.yaml"}, "--cfg a/yolov5s_city_seg.yaml: a file of Multi-YOLOv5; use --cfg "
         "yolov5s-psp.yaml"),
        ({"cfg": "yolov5m_citybdd_seg.yaml"}, "use --cfg yolov5m-psp.yaml"),
        ({"data": "cityscapes_det.yaml"}, "--data cityscapes_det.yaml: a file of Multi-YOLOv5; convert the boxes"),
        ({"data": "data/citys"}, "--data cityscapes-semantic.yaml"),
    ],
)  # fmt: skip
def test_files_of_the_fork_are_answered(values: dict[str, str], text: str) -> None:
    with pytest.raises(InputError, match=text):
        TrainConfig.from_kwargs(**values)


def test_a_file_of_such_a_name_is_used(tmp_path: Path) -> None:
    file = tmp_path / "cityscapes_det.yaml"
    file.write_text("train: .\n")
    assert TrainConfig.from_kwargs(data=str(file)).data == str(file)
