"""The released yolov5n.pt through our graph, against the original's decoded output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.yolo import BaseModel
from utils.imaging.letterbox import letterbox
from utils.imaging.read import read_image
from utils.tasks.networks import load_checkpoint


@pytest.fixture(scope="module")
def nano(shared: Path) -> BaseModel:
    return load_checkpoint(shared / "weights" / "yolov5n.pt").model.eval()


def network_input(shared: Path, name: str) -> Tensor:
    frame, _ = letterbox(read_image(shared / "data" / "images" / f"{name}.jpg"), 640, auto=True)
    return torch.from_numpy(frame[..., ::-1].copy()).permute(2, 0, 1).unsqueeze(0).float() / 255


@pytest.mark.parametrize("name", ["bus", "zidane"])
def test_decoded_output_and_augmented_shape(shared: Path, nano: BaseModel, name: str) -> None:
    golden = np.load(shared / "reference" / "golden" / "yolov5n_coco.npz")
    images = network_input(shared, name)
    assert list(images.shape) == golden[f"{name}_input_shape"].tolist()
    wanted = torch.from_numpy(golden[f"{name}_decoded"])
    with torch.inference_mode():
        found = nano(images)[0]
        augmented, _ = nano(images, augment=True)
        fused = load_checkpoint(shared / "weights" / "yolov5n.pt").model.eval().fuse()(images)[0]
    assert list(augmented.shape) == golden[f"{name}_tta_shape"].tolist()
    for decoded in (found, fused):
        difference = (decoded - wanted).abs()
        assert difference[..., :4].max() <= 1e-4 * max(images.shape[2:])
        assert difference[..., 4:].max() <= 1e-4
    assert (fused - found).abs().max() < 1e-4 * found.abs().max()
