"""Settings of export.py."""

from __future__ import annotations

from typing import Any

import pytest

from utils.config.export import ExportConfig
from utils.core.errors import InputError

FLAGS_OF_THE_ORIGINAL = """
--data --weights --imgsz --img --img-size --batch-size --device --half --inplace --keras --optimize --int8
--per-tensor --dynamic --cache --simplify --opset --verbose --workspace --nms --agnostic-nms --topk-per-class
--topk-all --iou-thres --conf-thres --include
"""


def test_all_flags_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ExportConfig.from_args(["--help"])
    text = capsys.readouterr().out
    assert not [flag for flag in FLAGS_OF_THE_ORIGINAL.split() if flag not in text]


def test_defaults() -> None:
    config = ExportConfig.from_args([]).check()
    assert (config.size_hw, config.include, config.device, config.opset) == ((640, 640), ["torchscript"], "cpu", None)
    assert (config.calibration_data, config.nms_max_det, config.conf_thres, config.iou_thres) == (
        "",
        100,
        0.25,
        0.45,
    )


def test_single_values_become_lists() -> None:
    config = ExportConfig.from_kwargs(weights="a.pt", img=320, include="onnx", data="x.yaml").check()
    assert (config.weights, config.size_hw, config.include) == (["a.pt"], (320, 320), ["onnx"])
    assert config.calibration_data == "x.yaml"
    assert ExportConfig.from_args(["--img", "320", "640"]).size_hw == (320, 640)
    assert ExportConfig.from_args(["--topk-all", "7"]).nms_max_det == 7
    assert ExportConfig.from_args(["--topk-all", "7", "--max-det", "9"]).nms_max_det == 9


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"imgsz": [1, 2, 3]}, "--imgsz 1 2 3: expected one side, or height and width"),
        ({"half": True, "int8": True}, "--half and --int8 cannot be combined; use one of them"),
        ({"include": []}, "--include: give at least one format"),
    ],
)
def test_contradicting_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExportConfig.from_kwargs(**values).check()


@pytest.mark.parametrize("flags", [["--workspace", "0"], ["--batch-size", "0"], ["--opset", "x"], ["--iou-thres", "2"]])
def test_wrong_values_end_with_status_2(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        ExportConfig.from_args(flags)
    assert stop.value.code == 2
