"""The pass that gives output sizes: computed for usual networks, on meta tensors for all others."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from models import probe as probe_module
from models.probe import is_bounded, probe
from models.summary import run_on_meta
from models.yolo import Detect, DetectionModel, Segment, SegmentationModel

HEADS = (Detect, Segment)


@pytest.mark.parametrize("cfg", ["yolov5n.yaml", "yolov5n6.yaml", "yolov5s-ghost.yaml", "yolov5-p7.yaml"])
@pytest.mark.parametrize("training", [True, False])
def test_sizes_equal_those_of_meta_tensors(cfg: str, training: bool) -> None:
    model = DetectionModel(cfg).train(training)
    shapes: dict[str, list[torch.Size]] = {"usual": [], "meta": []}

    def record(kind: str) -> Callable[[object, object], None]:
        return lambda layer, output: shapes[kind].append(output.shape if isinstance(output, torch.Tensor) else None)

    probe(model, (256, 256), HEADS, visualize=record("usual"))
    run_on_meta(model, (256, 256), visualize=record("meta"))
    assert shapes["usual"] == shapes["meta"] and len(shapes["usual"]) == len(model.model)


def test_no_side_effects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch-norm statistics in training mode and torch's generator stay as they were."""
    monkeypatch.setattr(probe_module, "run_on_meta", None)  # so that it is computed
    model = SegmentationModel("yolov5n-seg.yaml").train()
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    probe(model, (256, 256), HEADS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 3, 1, padding=10**6),
        nn.Conv2d(3, 3, 63, padding=1),
        nn.Upsample(scale_factor=1000),
        nn.Upsample(size=(10**6, 10**6)),
        nn.AdaptiveAvgPool2d(10**6),
        nn.ConvTranspose2d(3, 3, 3, stride=1000),
        nn.ZeroPad2d(10**6),
    ],
)
def test_layers_that_may_enlarge_their_input_are_not_computed(layer: nn.Module) -> None:
    assert not is_bounded(layer)


def test_meta_networks_stay_on_meta() -> None:
    with torch.device("meta"):
        model = DetectionModel("yolov5n.yaml")
    assert model.stride.tolist() == [8, 16, 32]
