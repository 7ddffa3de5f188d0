"""Settings of detect.py: flags, prefixes and keyword arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.config.detect import DetectConfig
from utils.core.errors import InputError


def test_defaults() -> None:
    config = DetectConfig.from_args([]).check()
    assert (config.weights, config.source, config.size_hw) == (["yolov5s.pt"], "data/images", (640, 640))
    assert (config.conf_thres, config.iou_thres, config.max_det) == (0.25, 0.45, 1000)
    assert (config.project, config.name, config.vid_stride, config.classes) == ("runs/detect", "exp", 1, None)


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (["--weights", "a.pt", "b.pt"], "weights", ["a.pt", "b.pt"]),
        (["--img", "320"], "size_hw", (320, 320)),
        (["--img-size", "320", "640"], "size_hw", (320, 640)),
        (["--conf", "0.4"], "conf_thres", 0.4),
        (["--iou", "0.5"], "iou_thres", 0.5),
        (["--classes", "0", "2"], "classes", [0, 2]),
        (["--line", "5"], "line_thickness", 5),
        (["--agnostic"], "agnostic_nms", True),
        (["--vid", "4"], "vid_stride", 4),
        (["--save-format", "1"], "save_format", 1),
        (["--threads", "2"], "threads", 2),
    ],
)
def test_flags_and_their_prefixes(argv: list[str], field: str, value: object) -> None:
    assert getattr(DetectConfig.from_args(argv).check(), field) == value


@pytest.mark.parametrize(
    "flag",
    [
        "--conf-thres=1.5",
        "--imgsz=0",
        "--save-format=2",
        "--vid-stride=0",
        "--threads=0",
        "--stream-timeout=-1",
        "--nope",
    ],
)
def test_wrong_values_end_with_status_2(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        DetectConfig.from_args([flag])
    assert stop.value.code == 2
    assert flag.split("=")[0] in capsys.readouterr().err


def test_single_values_become_lists() -> None:
    config = DetectConfig.from_kwargs(weights=Path("a.pt"), imgsz=320, classes=3, source=Path("photos")).check()
    assert (config.weights, config.size_hw, config.classes, config.source) == (["a.pt"], (320, 320), [3], "photos")
    assert DetectConfig.from_kwargs(imgsz=(256, 320)).check().size_hw == (256, 320)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"imgsz": [1, 2, 3]}, "--imgsz 1 2 3: expected one side, or height and width"),
        ({"visualize": True, "weights": ["a.pt", "b.pt"]}, "--visualize supports one model"),
        ({"visualize": True, "augment": True}, "--visualize and --augment cannot be combined"),
    ],
)
def test_invalid_settings(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DetectConfig.from_kwargs(**values).check()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="unknown option confidence; known: agnostic_nms"):
        DetectConfig.from_kwargs(confidence=0.5)
