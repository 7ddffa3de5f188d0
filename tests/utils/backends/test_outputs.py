"""Outputs of exported files against their metadata."""

from __future__ import annotations

import pytest
import torch

from utils.backends.info import ModelInfo
from utils.backends.outputs import check_outputs
from utils.core.errors import InputError

NAMES = {0: "a", 1: "b"}
Shapes = list[tuple[int, ...]]
ROWS = (1, 8, 7)
PROTOTYPES = (1, 4, 16, 16)


@pytest.mark.parametrize(
    ("task", "shapes"),
    [
        pytest.param("detect", [ROWS], id="rows"),
        pytest.param("detect", [ROWS, (1, 3, 4, 4, 7), (1, 3, 2, 2, 7)], id="official, raw heads too"),
        pytest.param("detect", [(1, 8, 11), PROTOTYPES], id="official segmenter"),
        pytest.param("segment", [(1, 8, 11), PROTOTYPES], id="segmenter"),
        pytest.param("classify", [(1, 2)], id="classifier"),
        pytest.param("semantic", [(1, 2, 16, 16)], id="semantic masks"),
        pytest.param("joint", [ROWS, (1, 3, 16, 16)], id="joint"),
    ],
)
def test_outputs_that_fit(task: str, shapes: Shapes) -> None:
    check_outputs("m.x", ModelInfo(task=task, names=NAMES), [torch.zeros(shape) for shape in shapes])
    check_outputs("m.x", ModelInfo(task=task), [torch.zeros(shape) for shape in shapes])


def test_rows_of_nms() -> None:
    check_outputs("m.x", ModelInfo(names=NAMES, nms=True), [torch.zeros(1, 100, 6)])


@pytest.mark.parametrize(
    ("info", "shapes", "said"),
    [
        pytest.param(
            {"task": "classify"}, [ROWS], r"task classify and 2 classes, but .* shape \(1, 8, 7\)", id="no classifier"
        ),
        pytest.param({"nms": True}, [ROWS], r"task detect with nms and 2 classes, but", id="no NMS inside"),
        pytest.param({"task": "segment"}, [ROWS], "task segment and 2 classes, but", id="no prototypes"),
        pytest.param({"task": "semantic"}, [ROWS], "task semantic and 2 classes, but", id="no semantic masks"),
        pytest.param({"task": "joint"}, [ROWS], "task joint and 2 classes, but", id="one of two"),
        pytest.param({}, [(1, 8, 85)], r"task detect and 2 classes, but .* \(1, 8, 85\)", id="other classes"),
        pytest.param({}, [(1, 1000)], "task detect and 2 classes, but", id="logits"),
        pytest.param({}, [], "has shape none", id="nothing"),
    ],
)
def test_unexpected_outputs_are_refused(info: dict[str, object], shapes: Shapes, said: str) -> None:
    with pytest.raises(InputError, match=f"^m\\.x: its metadata says .*{said}.*; export it again$"):
        check_outputs("m.x", ModelInfo(names=NAMES, **info), [torch.zeros(shape) for shape in shapes])  # type: ignore[arg-type]


@pytest.mark.parametrize("shapes", [[(1, 3, 8, 8, 7), (1, 3, 4, 4, 7)], [(1, 21, 8, 8), (1, 21, 4, 4), (1, 21, 2, 2)]])
def test_raw_feature_maps_are_named(shapes: Shapes) -> None:
    with pytest.raises(
        InputError, match=r"^m\.x: its outputs are raw feature maps \(1, .*; export the checkpoint again"
    ):
        check_outputs("m.x", ModelInfo(names=NAMES), [torch.zeros(shape) for shape in shapes])
