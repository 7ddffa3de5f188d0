"""Small networks with semantic heads, and images whose colors are their classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_jobs import TINY_GRAPH

from models.checkpoint import save_checkpoint
from models.yolo import Detect
from utils.imaging.semantic_classes import SemanticClasses
from utils.tasks.networks import build_model

CLASSES = SemanticClasses({0: "röad", 1: "sky", 2: "car"}, ((255, 0, 0), (0, 255, 0), (0, 0, 255)), 255, (7, 23, 26))
HEAD = [[7, 5, 5], 1, "SegMaskPSP", ["n_segcls", 1, 24, False]]
JOINT_GRAPH: dict[str, Any] = {**TINY_GRAPH, "n_segcls": 3, "head": [*TINY_GRAPH["head"], HEAD]}  # type: ignore[misc]
SEMANTIC_GRAPH: dict[str, Any] = {k: v for k, v in JOINT_GRAPH.items() if k not in ("nc", "anchors")}
SEMANTIC_GRAPH["head"] = [*TINY_GRAPH["head"][:2], HEAD]  # type: ignore[index]
GRAPHS = {"joint": JOINT_GRAPH, "semantic": SEMANTIC_GRAPH}


def build_network(task: str) -> Any:
    """Build a network in evaluation mode whose outputs depend on the image; strides 8 and 16."""
    torch.manual_seed(0)
    model = build_model(GRAPHS[task])
    assert model.task == task
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            fan_in = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) * (2.5 / fan_in) ** 0.5
    for module in model.modules():
        if isinstance(module, Detect):
            for conv in module.m:
                conv.bias.data.zero_()
    model.semantic = CLASSES
    model.names = {0: "square", 1: "disc"} if task == "joint" else dict(CLASSES.names)
    return model.eval().requires_grad_(False)


def write_checkpoint(folder: Path, task: str) -> Path:
    """Write a checkpoint of such a network."""
    model = build_network(task)
    content = {"task": task, "yaml": model.yaml, "names": model.names, "model": model.state_dict()}
    file = folder / f"tiny {task}.pt"
    save_checkpoint(file, {**content, "semantic": CLASSES.to_dict()})
    return file


def paint_image(size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A BGR image of red, green and blue areas with straight edges, and the class of each pixel."""
    height, width = size_hw
    classes = np.zeros(size_hw, np.uint8)
    classes[: height // 2, width // 4 :] = 1
    classes[height // 2 :, : width // 2] = 2
    return np.array(CLASSES.palette, np.uint8)[classes][..., ::-1].copy(), classes
