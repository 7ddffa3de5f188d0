"""CoreML packages: conversion and metadata; running them needs macOS."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_jobs import NAMES, build_tiny_job

from utils.core.errors import InputError
from utils.export.coreml import build_mil_nms_mask, export_coreml
from utils.export.nms_graph import nms_mask
from utils.ops.boxes import box_iou_matrix, xywh_to_xyxy


def list_operations(package: Path) -> list[str]:
    """List the operation types of a package."""
    tools = pytest.importorskip("coremltools")
    spec = tools.models.MLModel(str(package), skip_model_load=True).get_spec()
    blocks = next(iter(spec.mlProgram.functions.values())).block_specializations
    return [operation.type for operation in next(iter(blocks.values())).operations]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["full", "half", "int8"])
def test_package_holds_metadata(precision: str, tmp_path: Path) -> None:
    tools = pytest.importorskip("coremltools")
    job = build_tiny_job(tmp_path, **({} if precision == "full" else {precision: True}))
    package = export_coreml(job)
    assert package == tmp_path / "tiny mödel.mlpackage"
    assert sorted(p.name for p in tmp_path.iterdir()) == [package.name]
    spec = tools.models.MLModel(str(package), skip_model_load=True).get_spec()
    (source,), (output,) = spec.description.input, spec.description.output
    image = source.type.imageType
    assert (source.name, image.height, image.width) == ("image", 64, 96)
    assert image.colorSpace == tools.proto.FeatureTypes_pb2.ImageFeatureType.RGB
    assert (output.name, list(output.type.multiArrayType.shape)) == ("output0", [1, 2 * (8 * 12 + 4 * 6), 7])
    stored = spec.description.metadata.userDefined
    assert (stored["stride"], stored["names"], stored["task"]) == ("16", str(NAMES), "detect")
    kinds = list_operations(package)
    assert ("cast" in kinds) == (precision == "half")
    assert ("constexpr_affine_dequantize" in kinds) == (precision == "int8")


@pytest.mark.slow
def test_nms_is_part_of_the_package(tmp_path: Path) -> None:
    tools = pytest.importorskip("coremltools")
    package = export_coreml(build_tiny_job(tmp_path, nms=True))
    export_coreml(build_tiny_job(tmp_path, nms=True, half=True))  # over the first one
    spec = tools.models.MLModel(str(package), skip_model_load=True).get_spec()
    assert list(spec.description.output[0].type.multiArrayType.shape) == [1, 20, 6]
    assert spec.description.metadata.userDefined["nms"] == "True"
    assert "non_maximum_suppression" in list_operations(package)


def test_unsupported_batch_size(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--batch-size 4: CoreML supports batch size 1 only"):
        export_coreml(build_tiny_job(tmp_path, batch=4))


def build_mock_builder(padding: int) -> Any:
    """Mock of coremltools' Builder with the documented operators in NumPy.

    Args:
        padding: value of unused indices of NMS, which is undocumented.
    """

    def suppress(
        boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, score_threshold: float, max_boxes: int
    ) -> tuple[None, None, np.ndarray, np.ndarray]:
        assert boxes.dtype == scores.dtype == np.float32
        ious = box_iou_matrix(*[xywh_to_xyxy(torch.from_numpy(boxes[0]))] * 2).numpy()
        kept: list[int] = []
        for row in np.argsort(-scores[0, :, 0], kind="stable"):
            if scores[0, row, 0] >= score_threshold and not (ious[row, kept] > iou_threshold).any():
                kept.append(int(row))
        kept = kept[:max_boxes]
        return None, None, np.array([kept + [padding] * (max_boxes - len(kept))]), np.array([len(kept)])

    def scatter(data: np.ndarray, indices: np.ndarray, updates: np.ndarray, axis: int, mode: str) -> np.ndarray:
        assert (axis, mode) == (0, "max")
        np.maximum.at(data, indices, updates)
        return data

    kinds = {"fp32": np.float32}
    return SimpleNamespace(
        split=lambda x, num_splits, axis: np.split(x, num_splits, axis),
        sub=lambda x, y: x - y,
        add=lambda x, y: x + np.float32(y),
        mul=lambda x, y: x * np.float32(y),
        abs=lambda x: np.abs(x),
        maximum=lambda x, y: np.maximum(x, y),
        reduce_max=lambda x, axes, keep_dims: x.max(axis=tuple(axes), keepdims=keep_dims),
        cast=lambda x, dtype: x.astype(kinds[dtype]),
        expand_dims=lambda x, axes: np.expand_dims(x, tuple(axes)),
        squeeze=lambda x, axes: np.squeeze(x, tuple(axes)),
        concat=lambda values, axis: np.concatenate(values, axis),
        fill=lambda shape, value: np.full(shape, value, np.float32),
        less=lambda x, y: np.array(x) < y,
        greater=lambda x, y: x > y,
        non_maximum_suppression=suppress,
        scatter=scatter,
    )


@pytest.mark.parametrize("padding", [-1, 0, 7])
@pytest.mark.parametrize("count", [0, 60])
def test_mock_nms_equals_pytorch(padding: int, count: int) -> None:
    rng = np.random.default_rng(count)
    corners = rng.random((1, 80, 2)) * 600
    boxes = np.concatenate([corners, corners + 20 + rng.random((1, 80, 2)) * 100], axis=-1).astype(np.float32)
    scores = np.where(np.arange(80) < count, rng.random((1, 80)), 0.0).astype(np.float32)
    groups = rng.integers(0, 3, (1, 80))
    mask = build_mil_nms_mask(build_mock_builder(padding), boxes, scores, groups, 0.1, 0.45, 80)
    expected = nms_mask(*map(torch.from_numpy, (boxes, scores, groups)), 3, 0.1, 0.45, 80)
    assert mask.tolist() == expected.tolist()
    assert mask.any() == (count > 0)
