"""Graphs against reference outputs and key lists (../shared/reference/golden)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.graph import load_model_yaml
from models.yolo import BaseModel, ClassificationModel, DetectionModel, SegmentationModel

PLAIN = [f"yolov5{size}" for size in "nsmlx"]
HUB = [f"yolov5{size}6" for size in "nsmlx" if size != "l"] + ["yolov5l6"]
HUB += ["yolov5-bifpn", "yolov5-fpn", "yolov5-p2", "yolov5-p34", "yolov5-p6", "yolov5-p7", "yolov5-panet"]
HUB += ["yolov3", "yolov3-spp", "yolov3-tiny", "yolov5s-LeakyReLU", "yolov5s-ghost", "yolov5s-transformer"]
SEGMENT = [f"{name}-seg" for name in PLAIN]
CLASSIFY = [f"{name}-cls" for name in PLAIN]
LEGACY = {
    f"yolov5{z}-{tag}": f"yolov5{z}{ours}"
    for z in "sm"
    for tag, ours in (("v1.0", "-v1"), ("v2.0", "-v3"), ("v3.0", "-v3"), ("v4.0", "-v4"), ("v5.0", "-v5"), ("v6.0", ""))
}


def build(name: str, nc: int | None = None, **multiples: float) -> BaseModel:
    """The graph of a golden entry; `-cls` is cut from the detector."""
    config = load_model_yaml(name.removesuffix("-cls"))
    config.update(multiples)
    if name.endswith("-cls"):
        return ClassificationModel(model=DetectionModel(config), nc=nc or 1000)
    return (SegmentationModel if name.endswith("-seg") else DetectionModel)(config, nc=nc)


def assert_same_keys(model: BaseModel, wanted: dict[str, Any]) -> None:
    """Parameters, strides, ordered keys, shapes and types; releases to 5.0 also stored `anchor_grid`, now derived."""
    found = [[key, list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in model.state_dict().items()]
    assert found == [entry for entry in wanted["state_dict"] if not entry[0].endswith("anchor_grid")]
    assert sum(p.numel() for p in model.parameters()) == wanted["parameters"]
    assert model.stride.tolist() == wanted["stride"]


def golden(shared: Path, name: str) -> dict[str, Any]:
    path = shared / "reference" / "golden" / name
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return json.loads(text)


@pytest.mark.parametrize("name", [*PLAIN, *HUB, *SEGMENT, *CLASSIFY])
def test_state_dict_equals_reference(shared: Path, name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    assert_same_keys(model, golden(shared, "state_dicts.json.gz")[name])


@pytest.mark.parametrize("name", LEGACY)
def test_legacy_state_dict_equals_reference(shared: Path, name: str) -> None:
    with torch.device("meta"):
        model = build(LEGACY[name])
    assert_same_keys(model, golden(shared, "legacy_state_dicts.json.gz")[name])


def formula_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights from golden/README.md, the same on every machine."""
    state = model.state_dict()
    for k, (key, tensor) in enumerate(state.items()):
        if tensor.is_floating_point() and not key.endswith("anchors"):
            angle = np.sin(12.9898 * np.arange(tensor.numel(), dtype=np.float64) + 78.233 * (k + 1)) * 43758.5453
            v = (2 * (angle - np.floor(angle)) - 1).reshape(tuple(tensor.shape))
            if key.endswith("running_var"):
                v = 1 + 0.5 * v
            elif key.endswith(("running_mean", "bias")):
                v = 0.1 * v
            elif v.ndim >= 2:
                v = v * np.sqrt(3 / v[0].size)
            else:
                v = 1 + 0.2 * v
            state[key] = torch.from_numpy(v.astype(np.float32))
    return state


def assert_close_to_summary(found: torch.Tensor, wanted: dict[str, Any]) -> None:
    """Shape, statistics and samples, within 1e-4 of the largest value."""
    flat = found.double().flatten()
    tolerance = 1e-4 * wanted["absmax"]
    assert list(found.shape) == wanted["shape"]
    samples = flat[torch.linspace(0, flat.numel() - 1, 24).long()]
    assert (samples - torch.tensor(wanted["samples"])).abs().max() <= tolerance
    statistics = (flat.mean(), flat.std(), flat.abs().max())
    for value, name in zip(statistics, ("mean", "std", "absmax"), strict=True):
        assert abs(value.item() - wanted[name]) <= tolerance, name


FORWARD = [*HUB, "yolov5n", "yolov5s", "yolov5n-seg", "yolov5s-seg", "yolov5n-cls", "yolov5s-cls"]


@pytest.mark.parametrize("name", FORWARD)
def test_outputs_equal_reference(shared: Path, name: str) -> None:
    wanted = golden(shared, "forward.json")[name]
    multiples = {key: wanted[key] for key in ("depth_multiple", "width_multiple")}
    model = build(name, nc=10 if name.endswith("-cls") else None, **multiples).eval()
    model.load_state_dict(formula_weights(model))
    image = 0.5 + 0.5 * torch.sin(0.013 * torch.arange(3 * 256 * 384, dtype=torch.float64))
    with torch.inference_mode():
        found = model(image.float().view(1, 3, 256, 384))
    if name.endswith("-cls"):
        assert_close_to_summary(found, wanted["logits"])
        return
    assert_close_to_summary(found[0], wanted["decoded"])
    if name.endswith("-seg"):
        assert_close_to_summary(found[1], wanted["proto"])
    for raw, summary in zip(found[-1], wanted.get("raw", found[-1]), strict=True):
        if "raw" in wanted:
            assert_close_to_summary(raw, summary)


def test_every_reference_graph_is_compared(shared: Path) -> None:
    assert set(golden(shared, "forward.json")) == set(FORWARD)
    assert set(golden(shared, "state_dicts.json.gz")) == {*PLAIN, *HUB, *SEGMENT, *CLASSIFY}
    assert set(golden(shared, "legacy_state_dicts.json.gz")) == set(LEGACY)


@pytest.mark.parametrize(("name", "published"), [("s", 12.7), ("m", 35.9), ("l", 77.2), ("x", 141.8)])
def test_p6_graphs_of_release_5(name: str, published: float) -> None:
    """Millions of parameters as release 5.0 published them, of the fused network: a bias per norm, not two factors."""
    with torch.device("meta"):
        model = DetectionModel(f"yolov5{name}6-v5.yaml")
    norms = sum(module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    count = sum(parameter.numel() for parameter in model.parameters()) - norms
    assert round(count / 1e6, 1) == published
    assert model.stride.tolist() == [8, 16, 32, 64]
    assert (type(model.model[0]).__name__, type(model.model[10]).__name__) == ("Focus", "SPP")
