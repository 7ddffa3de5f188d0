"""Semantic heads of Multi-YOLOv5: files constructed from its description, with layers named and grouped otherwise.

The heads here are written from the description of the fork's networks, not from `models.semantic_heads`: plain
convolutions and batch norms in its order of operations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import common, semantic_heads, yolo
from models.graph import load_model_yaml
from models.yolo import JointModel
from tests.models.test_official import addressed
from tests.slim_networks import flatten_tensors
from utils.core.errors import InputError
from utils.tasks.networks import load_checkpoint

IMAGE = torch.linspace(0, 1, 2 * 3 * 64 * 96).reshape(2, 3, 64, 96)


def cbs(c1: int, c2: int, k: int = 1, rate: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, SiLU."""
    conv = nn.Conv2d(c1, c2, k, padding=rate * (k // 2), dilation=rate, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c2), nn.SiLU())


def up(factor: int) -> nn.Upsample:
    return nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=True)


class Pyramid(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.AdaptiveAvgPool2d(side) for side in (1, 2, 3, 6))
        self.convs = nn.ModuleList(common.Conv(channels, channels // 4) for _ in self.pools)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [conv(pool(x)) for conv, pool in zip(self.convs, self.pools, strict=True)]
        sizes = [F.interpolate(p, x.shape[2:], mode="bilinear", align_corners=True) for p in pooled]
        return torch.cat([x, *sizes], 1)


class Fusion(nn.Module):
    def __init__(self, c1: int, c2: int, k: int = 1) -> None:
        super().__init__()
        gates = (nn.Conv2d(c2, c2, 1, bias=False) for _ in range(2))
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), next(gates), nn.SiLU(), next(gates), nn.Sigmoid())
        self.fuse = common.Conv(c1, c2, k)

    def forward(self, x: Tensor) -> Tensor:
        features = self.fuse(x)
        return features * self.gate(features) + features


class Cascade(nn.Module):
    """The block RFB2, its last convolution first."""

    def __init__(self, c1: int, c2: int, reduce: int, pooled: bool = False) -> None:
        super().__init__()
        width = c1 // reduce
        self.last = common.Conv(width * (5 if pooled else 4), c2)
        self.b0 = nn.Sequential(common.Conv(c1, width), common.Conv(width, width, 3))
        self.b1, self.b2 = cbs(width, width, 3, 2), cbs(width, width, 3, 3)
        self.b3 = common.Conv(c1, width)
        self.overall = nn.Sequential(nn.AdaptiveAvgPool2d(1), common.Conv(width, width)) if pooled else None

    def forward(self, x: Tensor) -> Tensor:
        x0 = self.b0(x)
        x1 = self.b1(x0)
        x2 = self.b2(x1)
        parts = [x0, x1, x2, self.b3(x)]
        if self.overall is not None:
            parts.append(F.interpolate(self.overall(x2), x.shape[2:], mode="nearest"))
        return self.last(torch.cat(parts, 1))


class Atrous(nn.Module):
    """The block ASPP without a global branch."""

    def __init__(self, c1: int, c2: int, reduce: int) -> None:
        super().__init__()
        width = c1 // reduce
        self.dilated = nn.ModuleList(cbs(c1, width, 3, rate) for rate in (3, 6, 9))
        self.plain = common.Conv(c1, width)
        self.out = common.Conv(4 * width, c2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.plain(x), *(branch(x) for branch in self.dilated)], 1))


class WideCsp(nn.Module):
    """The block C3SPP of the fork."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        half = c1 // 2
        self.cv1, self.cv2 = common.Conv(c1, half), common.Conv(c1, half)
        self.cv3 = common.Conv(half + int(1.5 * half), c2)
        self.m = common.SPP(half, int(1.5 * half))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class Psp(nn.Module):
    def __init__(self, classes: int, n: int, c: int, ch: list[int]) -> None:
        super().__init__()
        fusion = Fusion(2 * c, c, 3)
        self.body = nn.Sequential(Cascade(3 * c, c, 6), Pyramid(c), fusion, nn.Conv2d(c, classes, 1), up(8))
        self.coarse = nn.Sequential(common.Conv(ch[2], c), up(4))
        self.middle = nn.Sequential(common.Conv(ch[1], c), up(2))
        self.fine = nn.Sequential(common.Conv(ch[0], c))

    def forward(self, x: list[Tensor]) -> Tensor:
        fine, middle, coarse = x
        return self.body(torch.cat([self.fine(fine), self.middle(middle), self.coarse(coarse)], 1))


class Bise(nn.Module):
    def __init__(self, classes: int, n: int, c: int, ch: list[int]) -> None:
        super().__init__()
        self.scale8 = common.Conv(ch[0], 128)
        self.scale32 = nn.Sequential(Cascade(ch[2], 128, 8, True), common.Conv(128, 128, 3), up(2))
        self.scale16 = Cascade(ch[1], 128, 4)
        self.refine16 = nn.Sequential(common.Conv(128, 128, 3), up(2))
        self.extra32 = nn.Sequential(common.Conv(128, 128, 3), nn.Conv2d(128, classes, 1), up(16))
        self.extra16 = nn.Sequential(common.Conv(128, 128, 3), nn.Conv2d(128, classes, 1), up(8))
        self.main = nn.Sequential(Fusion(256, 256, 3), nn.Dropout(0.1), nn.Conv2d(256, classes, 1), up(8))

    def forward(self, x: list[Tensor]) -> Any:
        f3 = self.scale32(x[2])
        f2 = self.refine16(self.scale16(x[1]) + f3)
        main = self.main(torch.cat([self.scale8(x[0]), f2], 1))
        return [main, self.extra16(f2), self.extra32(f3)] if self.training else main


class Lab(nn.Module):
    def __init__(self, classes: int, n: int, c: int, ch: list[int]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(common.Conv(ch[1], 2 * c), Atrous(2 * c, 256, 5 - n), up(2))
        self.detail1, self.detail2 = common.Conv(ch[0], 48), common.Conv(48, 48, 3)
        self.decoder = nn.Sequential(Fusion(304, 256), common.Conv(256, c, 3), nn.Conv2d(c, classes, 1), up(8))

    def forward(self, x: list[Tensor]) -> Tensor:
        return self.decoder(torch.cat([self.detail2(self.detail1(x[0])), self.encoder(x[1])], 1))


class Base(nn.Module):
    def __init__(self, classes: int, n: int, c: int, ch: list[int]) -> None:
        super().__init__()
        wide = int(1.5 * c)
        last = nn.Conv2d(wide, classes, 3, padding=1, bias=False)
        self.layers = nn.Sequential(common.C3(ch[0], c, n, False), WideCsp(c, wide), nn.Dropout(0.1), last, up(8))

    def forward(self, x: list[Tensor] | Tensor) -> Tensor:
        return self.layers(x if isinstance(x, Tensor) else x[0])


HEADS: dict[str, type[nn.Module]] = {"psp": Psp, "bise": Bise, "lab": Lab, "base": Base}
ADDRESSES: dict[str, tuple[type, str]] = {
    "Model": (JointModel, "models.yolo"),
    "SegMaskPSP": (Psp, "models.yolo"),
    "SegMaskBiSe": (Bise, "models.yolo"),
    "SegMaskLab": (Lab, "models.yolo"),
    "SegMaskBase": (Base, "models.yolo"),
    "RFB2": (Cascade, "models.common"),
    "ASPP": (Atrous, "models.common"),
    "FFM": (Fusion, "models.common"),
    "PyramidPooling": (Pyramid, "models.common"),
    "C3SPP": (WideCsp, "models.common"),
}


def build(name: str, width: float, depth: float = 0.33) -> JointModel:
    """The network of the fork: a detector with a head of this file, with random norms and FP16 weights."""
    torch.manual_seed(0)
    model = JointModel({**load_model_yaml(f"yolov5s-v5-{name}"), "width_multiple": width, "depth_multiple": depth})
    ours: Any = model.semantic_head
    rows = model.yaml["head"][-2][0]
    widths = {4: 256, 16: 512, 19: 512, 22: 1024}
    n, c = max(round(3 * depth), 1), int((512 if name == "base" else 256) * width)
    head: Any = HEADS[name](19, n, c, [int(widths[row] * width) for row in rows])
    head.i, head.f, head.type, head.np = ours.i, ours.f, f"models.yolo.{type(ours).__name__}", 0
    model.model[24] = head
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03
            for values, low, high in ((module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5)):
                nn.init.uniform_(values, low, high)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return model.half().float()


def save(model: JointModel, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file as the fork writes it: `Model`, a list of names, no classes of the masks."""
    pickled = copy.deepcopy(model).half()
    pickled.names = [f"class {i}" for i in range(10)]
    pickled.__dict__.pop("semantic")
    with addressed(**ADDRESSES), monkeypatch.context() as patch:
        for name, (kind, module) in ADDRESSES.items():
            patch.setattr(yolo if module == "models.yolo" else common, name, kind, raising=False)
        torch.save({"epoch": 9, "best_fitness": None, "model": pickled, "ema": None, "optimizer": None}, path)
    return path


def run_fork(model: Any, images: Tensor) -> tuple[Any, Any]:
    """Boxes and semantic output with the head of this file."""
    layers: list[Any] = list(model.model)
    outputs: list[Any] = []
    for layer in layers:
        inputs = [outputs[i] if i != -1 else outputs[-1] for i in layer.f] if isinstance(layer.f, list) else None
        outputs.append(layer(inputs if inputs is not None else outputs[-1] if outputs else images))
    return outputs[-1], outputs[-2]


@pytest.mark.parametrize(
    ("name", "width", "depth"), [("psp", 0.25, 0.33), ("bise", 0.25, 0.33), ("lab", 0.25, 0.67), ("base", 0.25, 0.67)]
)
def test_files_of_the_fork(
    tmp_path: Path, name: str, width: float, depth: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(name, width, depth)
    checkpoint = load_checkpoint(save(model, tmp_path / "best.pt", monkeypatch))
    loaded: Any = checkpoint.model
    assert (checkpoint.task, checkpoint.epoch, loaded.nc, len(loaded.semantic)) == ("joint", 9, 10, 19)
    assert checkpoint.names[9] == "class 9"
    with torch.no_grad():
        boxes, logits = run_fork(model.eval(), IMAGE)
        output = loaded(IMAGE)
    assert torch.equal(output.detection[0], boxes[0])
    assert output.semantic.shape == (2, 19, 64, 96)
    assert logits.std() > 1e-3
    torch.testing.assert_close(output.semantic, logits, rtol=1e-4, atol=1e-5)


def test_auxiliary_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training mode the head `bise` has two more outputs, of the middle and of the coarse features."""
    model = build("bise", 0.25)
    loaded: Any = load_checkpoint(save(model, tmp_path / "best.pt", monkeypatch)).model
    head, ours = model.model[24].eval(), loaded.semantic_head
    features = [torch.rand(1, c, 16 >> i, 16 >> i) for i, c in enumerate((128, 128, 256))]
    head.training = ours.training = True  # of the head alone: norms and dropout stay in evaluation mode
    with torch.no_grad():
        for ours_out, expected in zip(flatten_tensors(ours(features)), head(features), strict=True):
            torch.testing.assert_close(ours_out, expected, rtol=1e-4, atol=1e-5)


Change = Callable[[Any], None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda m: m.yaml["head"].pop(-2), "semantic heads; use exactly one row", id="no head in the YAML"),
        pytest.param(lambda m: m.__dict__.pop("yaml"), "has no SegMaskPSP", id="no YAML"),
        pytest.param(lambda m: m.yaml["head"][-2][3].__setitem__(2, 128), "other convolutions", id="other width"),
        pytest.param(lambda m: m.model[24].fine.append(common.Conv(8, 8)), "other convolutions", id="one more"),
        pytest.param(
            lambda m: m.model[24].fine.extend(nn.Identity() for _ in range(500)),
            "too many layers",
            id="too many layers",
        ),
        pytest.param(lambda m: m.model[24].fine[0].conv._parameters.pop("weight"), "no weights", id="no weights"),
        pytest.param(
            lambda m: m.model[24].fine[0].bn._buffers.pop("running_mean"), "has no 'running_mean'", id="no statistics"
        ),
    ],
)
def test_other_heads_are_refused(tmp_path: Path, change: Change, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("psp", 0.125)
    change(model)
    with pytest.raises(InputError, match=rf"best\.pt: cannot be used as a network: .*{message}"):
        load_checkpoint(save(model, tmp_path / "best.pt", monkeypatch))


@pytest.mark.parametrize(
    "name", ["ARM", "ASPP", "ASPPs", "Attention", "DAPPM", "FFM", "PyramidPooling", "RFB1", "RFB2"]
)
def test_blocks_are_importable_from_the_addresses_of_the_fork(name: str) -> None:
    assert getattr(common, name) is getattr(semantic_heads, name)


@pytest.mark.parametrize("name", ["SegMaskBase", "SegMaskBiSe", "SegMaskLab", "SegMaskPSP"])
def test_heads_are_importable_from_the_addresses_of_the_fork(name: str) -> None:
    assert getattr(yolo, name) is semantic_heads.SEMANTIC_HEADS[name]
