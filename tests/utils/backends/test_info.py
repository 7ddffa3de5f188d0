"""Metadata of exported files: what is written comes back, what others wrote is read, code stays text."""

from __future__ import annotations

from typing import Any

import pytest

from utils.backends.info import ModelInfo
from utils.core.errors import InputError

FULL = ModelInfo(
    stride=64,
    names={0: "traffic light", 7: "чашка"},
    task="segment",
    channels=4,
    imgsz=(320, 640),
    batch=2,
    dynamic=True,
    nms=True,
    normalized=True,
    version="1.2",
)


def test_text_round_trip() -> None:
    assert ModelInfo.from_values(FULL.to_strings(), place="m.onnx") == FULL


def test_plain_values_round_trip() -> None:
    assert ModelInfo.from_values(FULL.to_values(), place="m") == FULL
    assert ModelInfo.from_values(ModelInfo().to_values(), place="m") == ModelInfo()


def test_metadata_of_the_original() -> None:
    info = ModelInfo.from_values({"stride": "32", "names": "{0: 'person', 1: 'bicycle'}"}, place="yolov5s.onnx")
    assert info == ModelInfo(stride=32, names={0: "person", 1: "bicycle"})
    listed = ModelInfo.from_values({"stride": 32, "names": ["a", "b"], "shape": [1, 3, 640, 640]}, place="x")
    assert listed.names == {0: "a", 1: "b"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": "__import__('os').system('echo x')"}, r"m\.onnx: metadata names: .* is not plain data"),
        ({"names": "{0: open('/etc/passwd')}"}, "is not plain data"),
        ({"names": "3"}, "is not a list or mapping of class names"),
        ({"names": {"zero": "a"}}, "is not class names by number"),
        ({"names": {float("inf"): "a"}}, "is not class names by number"),
        ({"names": {-1: "a"}}, "metadata names: '-1' is not a class number below 100000"),
        ({"names": {10**9: "a"}}, "metadata names: '1000000000' is not a class number below 100000"),
        ({"names": [["a"]]}, "is not a class name of up to 1000 characters"),
        ({"names": ["a" * 2000]}, "is not a class name of up to 1000 characters"),
        ({"names": "[" * 100_000}, "is not plain data"),
        ({"names": "9" * 100_000}, "is not plain data"),
        ({"stride": "many"}, "metadata stride: 'many' is not a whole number"),
        ({"stride": 32.5}, "is not a whole number up to 1024"),
        ({"stride": float("nan")}, "is not a whole number up to 1024"),
        ({"stride": 10**400}, "is not a whole number up to 1024"),
        ({"stride": [32]}, "is not a whole number up to 1024"),
        ({"channels": 1e9}, "metadata channels: '1000000000.0' is not a whole number up to 4096"),
        ({"batch": "1e99"}, "metadata batch: '1e99' is not a whole number up to 4096"),
        ({"stride": -32}, "is not a whole number"),
        ({"stride": "1000000"}, "metadata stride: '1000000' is not a whole number up to 1024"),
        ({"imgsz": "[640]"}, "is not height and width"),
        ({"imgsz": 6.5}, "is not height and width"),
        ({"imgsz": True}, "is not height and width"),
        ({"imgsz": [640, "640"]}, "is not height and width"),
        ({"semantic": {"names": {"0": "a"}, "ignore": float("inf")}}, "is not a description of semantic classes"),
        ({"semantic": [1]}, "is not a description of semantic classes"),
        ({"imgsz": [1000000, 1000000]}, "is not height and width up to 16384"),
        ({"task": "dance"}, "task: 'dance' is none of detect"),
    ],
)
def test_invalid_metadata_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ModelInfo.from_values(values, place="m.onnx")
    assert len(str(caught.value)) < 200
