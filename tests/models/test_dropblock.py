from __future__ import annotations

import copy

import pytest
import torch

from models.classifiers import build_classifier
from models.dropblock import add_dropblock
from models.yolo import DetectionModel
from utils.core.errors import InputError


def test_drops_in_training_only_and_keeps_keys() -> None:
    torch.manual_seed(0)
    model = DetectionModel("yolov5n.yaml", nc=3)
    images, keys = torch.rand(1, 3, 128, 128), list(model.state_dict())
    calm = model.eval()(images)[0]
    assert add_dropblock(model, 0.0) == []
    assert add_dropblock(model, 0.3) == [17, 20, 23]
    assert list(model.state_dict()) == keys
    assert torch.equal(model(images)[0], calm)
    copied = copy.deepcopy(model)  # as the EMA is
    assert torch.equal(copied(images)[0], calm)
    model.train()
    assert not torch.equal(model(images)[0], model(images)[0])


def test_dropped_fraction_and_block_size() -> None:
    torch.manual_seed(0)
    model = DetectionModel("yolov5n.yaml", nc=3).train()
    add_dropblock(model, 0.2)
    maps = []
    model.model[17].register_forward_hook(lambda layer, inputs, output: maps.append(output))
    model(torch.rand(4, 3, 256, 256))
    dropped = (maps[0] == 0).float()  # (4, 64, 32, 32)
    assert 0.1 < dropped.mean() < 0.3
    rows = dropped.flatten(0, 1).sum(dim=2)
    assert rows[rows > 0].min() >= 7  # blocks, not single cells


def test_half_precision_keeps_its_values() -> None:
    """A mask of more than 65504 cells cannot be summed in float16."""
    torch.manual_seed(0)
    model = DetectionModel("yolov5n.yaml", nc=3).train()
    add_dropblock(model, 0.1)
    hook = next(iter(model.model[17]._forward_hooks.values()))
    thinned = hook(model.model[17], None, torch.ones(8, 64, 32, 32, dtype=torch.float16))
    assert thinned.dtype == torch.float16
    assert thinned.float().mean().item() == pytest.approx(1, abs=0.02)


def test_torchvision_network_is_refused() -> None:
    with pytest.raises(InputError, match="--dropblock"):
        add_dropblock(build_classifier("squeezenet1_1", nc=2), 0.1)
