"""Torchvision networks in checkpoints of `classify/train.py --model resnet18`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from models.checkpoint import strip_checkpoint
from models.classifiers import TorchvisionClassifier
from tests.slim_networks import randomize_norm_stats
from utils.core.errors import InputError
from utils.tasks.networks import load_checkpoint

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def save(path: Path, network: Any) -> Path:
    """A file as YOLOv5 writes it: the network in FP16, class names and pre-processing as attributes of it."""
    content = {"epoch": -1, "best_fitness": None, "model": copy.deepcopy(network).half(), "ema": None, "updates": None}
    torch.save({**content, "optimizer": None, "opt": {"model": "x", "save_dir": Path("runs/train-cls/exp")}}, path)
    return path


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnext50_32x4d", "efficientnet_b0", "mobilenet_v3_small", "mobilenet_v2", "shufflenet_v2_x0_5"],
)
def test_network_of_torchvision(tmp_path: Path, name: str) -> None:
    network: Any = randomize_norm_stats(torchvision.models.get_model(name, num_classes=3)).half().float().eval()
    network.names = ["a", "b", "c"]
    network.transforms = torchvision.transforms.Compose([torchvision.transforms.ToTensor()])
    checkpoint = load_checkpoint(save(tmp_path / "best.pt", network))
    assert (checkpoint.task, checkpoint.names) == ("classify", {0: "a", 1: "b", 2: "c"})
    assert checkpoint.yaml == {"torchvision": name, "nc": 3, "ch": 3}
    assert checkpoint.opt["save_dir"] == "runs/train-cls/exp"
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.model(IMAGES), network(IMAGES))


def test_own_classifier_saved_by_a_script(tmp_path: Path) -> None:
    network = TorchvisionClassifier("resnet18", nc=4).half().float().eval()
    network.names = names = {0: "a", 1: "b", 2: "c", 3: "d"}
    file = save(tmp_path / "best.pt", network)
    for path in (file, strip_checkpoint(file, tmp_path / "small.pt")):
        checkpoint = load_checkpoint(path)
        assert checkpoint.names == names
        with torch.no_grad():
            torch.testing.assert_close(checkpoint.model(IMAGES), network(IMAGES))
    stripped = torch.load(tmp_path / "small.pt", weights_only=False)  # written above; the original reads such files
    assert type(stripped["model"]) is torchvision.models.ResNet
    assert stripped["model"].names == names


def test_changed_networks_are_refused(tmp_path: Path) -> None:
    network = torchvision.models.resnet18(num_classes=3)
    network.layer1[0].conv1 = nn.Conv2d(64, 64, 5)
    with pytest.raises(InputError, match="torchvision has no ResNet with these weights"):
        load_checkpoint(save(tmp_path / "best.pt", network))
    network.fc = nn.Linear(512, 3, bias=False)
    with pytest.raises(InputError, match="torchvision has no ResNet with these weights"):
        load_checkpoint(save(tmp_path / "best.pt", network))
