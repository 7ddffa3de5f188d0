"""Classifiers: truncated detectors, torchvision networks, pretrained weights, model YAMLs from layers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from models import classifiers
from models.checkpoint import save_checkpoint, strip_checkpoint
from models.classifiers import (
    TorchvisionClassifier,
    build_classifier,
    describe_layers,
    load_classifier_graph,
    load_torchvision_weights,
)
from models.graph import load_model_yaml
from models.yolo import ClassificationModel, DetectionModel
from utils.core.errors import InputError
from utils.tasks.networks import load_checkpoint, load_model

IMAGE = torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)


def small(name: str = "yolov5n.yaml", **changes: Any) -> dict[str, Any]:
    return {**load_model_yaml(name), "width_multiple": 0.125, **changes}


def test_cutoff_sets_the_number_of_layers() -> None:
    default, shorter = build_classifier(small(), 4), build_classifier(small(), 4, 7)
    assert (len(default.model), len(shorter.model)) == (10, 7)
    assert shorter.yaml["cutoff"] == 7
    assert len(build_classifier(shorter.yaml, 4).model) == 7
    assert shorter.eval()(IMAGE).shape == (1, 4)
    with pytest.raises(InputError, match=r"--cutoff 99: the network has 25 layers; use a number from 2 to 25"):
        build_classifier(small(), 4, 99)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "mobilenet_v3_small"])
def test_torchvision_networks_survive_a_checkpoint(tmp_path: Path, name: str) -> None:
    model = build_classifier(name, 3).eval()
    assert isinstance(model, TorchvisionClassifier)
    assert model.task == "classify"
    names = {0: "a", 1: "b", 2: "ж"}
    payload = {"task": "classify", "yaml": model.yaml, "names": names, "model": model.state_dict()}
    save_checkpoint(tmp_path / "a.pt", payload)
    checkpoint = load_checkpoint(tmp_path / "a.pt")
    with torch.no_grad():
        assert torch.equal(checkpoint.model(IMAGE), model(IMAGE))
    assert checkpoint.model.names == names
    strip_checkpoint(tmp_path / "a.pt")
    with torch.no_grad():
        assert torch.allclose(load_model(tmp_path / "a.pt")(IMAGE), model(IMAGE), atol=0.05)


def test_unknown_names() -> None:
    with pytest.raises(InputError, match=r"--model resnet19: not a \.pt file.*near: resnet18"):
        load_classifier_graph("resnet19")
    with pytest.raises(InputError, match="no such model YAML"):
        load_classifier_graph("yolov5q.yaml")
    with pytest.raises(InputError, match="--cutoff 5: not supported by resnet18"):
        build_classifier("resnet18", 3, 5)


def published(monkeypatch: pytest.MonkeyPatch, cache: Path, digest: str) -> Path:
    """Let torch's cache be `cache`, and resnet18 be published under a name with this digest."""
    entry = SimpleNamespace(url=f"https://nowhere.invalid/resnet18-{digest}.pth")
    monkeypatch.setattr(classifiers.torch.hub, "get_dir", lambda: str(cache))
    monkeypatch.setattr("torchvision.models.get_model_weights", lambda _: SimpleNamespace(DEFAULT=entry))
    return cache / "checkpoints" / f"resnet18-{digest}.pth"


def test_published_weights_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"fc.bias": torch.arange(3.0)}
    torch.save(state, tmp_path / "weights")
    digest = hashlib.sha256((tmp_path / "weights").read_bytes()).hexdigest()[:8]
    file = published(monkeypatch, tmp_path, digest)
    file.parent.mkdir()
    (tmp_path / "weights").rename(file)
    monkeypatch.setattr(classifiers, "download_file", lambda *_: pytest.fail("downloaded"))
    assert torch.equal(load_torchvision_weights("resnet18")["model.fc.bias"], state["fc.bias"])
    file.write_bytes(b"something else")
    with pytest.raises(InputError, match="damaged, its SHA-256"):
        load_torchvision_weights("resnet18")


def test_missing_weights_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download_file(url: str, file: Path) -> None:
        asked.append((url, file))
        raise InputError(f"{url}: cannot be reached; put the file at {file}")

    file = published(monkeypatch, tmp_path, "0123abcd")
    monkeypatch.setattr(classifiers, "download_file", download_file)
    with pytest.raises(InputError, match="put the file at"):
        load_torchvision_weights("resnet18")
    assert asked == [("https://nowhere.invalid/resnet18-0123abcd.pth", file)]


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(small(), id="Conv, C3"),
        pytest.param(small("yolov5l.yaml", depth_multiple=1.0), id="several repeats"),
        pytest.param(small(cutoff=11), id="SPPF"),
        pytest.param(small("yolov5s-v4.yaml"), id="Focus, SPP"),
    ],
)
def test_yaml_from_layers(graph: dict[str, Any]) -> None:
    model = build_classifier(graph, 4).eval()
    described = {**describe_layers(model.model), "nc": 4}
    rebuilt = build_classifier(described, 4).eval()
    rebuilt.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(IMAGE), model(IMAGE))


def test_no_yaml_from_unknown_layers() -> None:
    model = ClassificationModel(model=DetectionModel(small("yolov5s-ghost.yaml")), nc=2)
    assert describe_layers(model.model) == {}
    assert describe_layers(nn.Sequential(nn.Flatten())) == {}
