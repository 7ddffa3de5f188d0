"""Tiny networks and export jobs for tests of converters and runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from models.yolo import BaseModel, ClassificationModel, DetectionModel, SegmentationModel
from utils.backends.info import ModelInfo
from utils.export.base import ExportJob, ExportNetwork, ExportOptions
from utils.export.nms_graph import GraphNms

TINY_GRAPH = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [
        [-1, 1, "Conv", [8, 6, 2, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C3", [16]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "SPPF", [16, 5]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 3], 1, "Concat", [1]],
        [-1, 1, "C3", [16, False]],
        [[8, 5], 1, "Detect", ["nc", "anchors"]],
    ],
}
NAMES = {0: "square", 1: "dïsc's"}
SEGMENT_HEAD = [*TINY_GRAPH["head"][:-1], [[8, 5], 1, "Segment", ["nc", "anchors", 8, 16]]]


def build_tiny_model(task: str = "detect") -> BaseModel:
    """Build a detector, segmenter (8 prototypes) or classifier of two classes with fixed random weights."""
    torch.manual_seed(0)
    if task == "classify":
        return ClassificationModel(TINY_GRAPH, nc=len(NAMES), cutoff=5)
    return SegmentationModel({**TINY_GRAPH, "head": SEGMENT_HEAD}) if task == "segment" else DetectionModel(TINY_GRAPH)


def build_tiny_job(folder: Path, *, weights: str = "tiny mödel.pt", task: str = "detect", **options: Any) -> ExportJob:
    """Build an export job of the fused network of `build_tiny_model`, strides 8 and 16; nothing is written.

    Args:
        options: fields of `ExportOptions`; images are 64x96 by default.
    """
    settings = ExportOptions(**{"imgsz": (64, 96), "conf_thres": 1e-5, "max_det": 20, **options})
    model = build_tiny_model(task).eval().requires_grad_(False).fuse()
    nms = None
    if settings.nms:
        limits = {"conf_thres": settings.conf_thres, "iou_thres": settings.iou_thres, "max_det": settings.max_det}
        nms = GraphNms(len(NAMES), agnostic=settings.agnostic, **limits)
    info = ModelInfo(
        stride=16,
        names=NAMES,
        task=task,
        imgsz=settings.imgsz,
        batch=settings.batch,
        dynamic=settings.dynamic,
        nms=settings.nms,
        version="0.0",
    )
    network = ExportNetwork(model, nms=nms, dynamic=settings.dynamic)
    return ExportJob(folder / weights, network, info, settings)
