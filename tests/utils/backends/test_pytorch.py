"""Checkpoints as a backend."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from models.yolo import DetectionModel
from utils.backends.pytorch import PyTorchBackend, load_pytorch, to_names_dict
from utils.imaging.read import read_image
from utils.ops.boxes import box_iou_matrix
from utils.predict.predictor import Predictor
from utils.tasks.options import PREDICT_DEFAULTS

CPU = torch.device("cpu")


class TinyNet(nn.Module):
    """One convolution; doubles as record of how it was called."""

    def __init__(self, names: object = ("cat", "dog"), stride: float = 8.0, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.names, self.stride, self.yaml = names, torch.tensor([stride]), {"ch": channels}
        self.calls: list[tuple[bool, object]] = []

    def forward(
        self, x: torch.Tensor, augment: bool = False, profile: bool = False, visualize: object = False
    ) -> object:
        self.calls.append((augment, visualize))
        return self.conv(x)


def test_attributes_come_from_the_model() -> None:
    backend = PyTorchBackend(TinyNet(stride=64.0, channels=4), device=CPU)
    assert (backend.stride, backend.names, backend.channels, backend.fixed_hw) == (64, {0: "cat", 1: "dog"}, 4, None)
    assert PyTorchBackend(TinyNet(), device=CPU).stride == 32


def test_names_given_fill_in_for_missing_ones_only() -> None:
    assert PyTorchBackend(TinyNet(names={}), device=CPU, names={0: "bird"}).names == {0: "bird"}
    assert PyTorchBackend(TinyNet(), device=CPU, names={0: "bird"}).names == {0: "cat", 1: "dog"}
    assert to_names_dict({"0": "cat"}) == {0: "cat"}


def test_weights_are_channels_last_and_the_output_is_the_model_s() -> None:
    net = TinyNet()
    images = torch.rand(1, 3, 64, 32)
    expected = net(images)
    backend = PyTorchBackend(net, device=CPU)
    assert net.conv.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(backend.forward(images), expected)
    assert not net.training


def test_forward_passes_its_options_on() -> None:
    net = TinyNet()

    def visitor(layer: nn.Module, output: object) -> None: ...

    PyTorchBackend(net, device=CPU).forward(torch.rand(1, 3, 32, 32), augment=True, visualize=visitor)
    assert net.calls == [(True, visitor)]


def test_half_on_a_plain_cpu_is_named_and_ignored(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.backends.pytorch.get_half_dtype", lambda _: None)
    logging.getLogger("openyolov5").propagate = True
    backend = PyTorchBackend(TinyNet(), device=CPU, fp16=True)
    assert backend.dtype == torch.float32
    assert "--half is ignored" in caplog.text
    assert backend.forward(torch.rand(1, 3, 32, 32)).dtype == torch.float32


def test_half_on_a_cpu_with_bf16_finds_the_same_boxes(monkeypatch: pytest.MonkeyPatch, shared: Path) -> None:
    """BF16 also runs, slowly, on processors without it; boxes are decoded in FP32 from exact anchors."""
    monkeypatch.setattr("utils.backends.pytorch.get_half_dtype", lambda _: torch.bfloat16)
    file, frame = str(shared / "weights/yolov5n.pt"), read_image(shared / "data/images/bus.jpg")
    exact, half = (
        Predictor(load_pytorch([file], device=CPU, fp16=fp16), PREDICT_DEFAULTS).predict([frame])[0][0].boxes
        for fp16 in (False, True)
    )
    assert exact is not None
    assert half is not None
    assert len(half) == len(exact)
    partner = torch.from_numpy(box_iou_matrix(half[:, :4].numpy(), exact[:, :4].numpy())).argmax(dim=1)
    exact = exact[partner]
    assert torch.equal(half[:, 5], exact[:, 5])
    assert float((half[:, :4] - exact[:, :4]).abs().max()) < 0.01 * max(frame.shape)  # what FP16 exports may be off
    assert float((half[:, 4] - exact[:, 4]).abs().max()) < 0.02


def test_anchors_stay_exact_in_half_precision() -> None:
    model = DetectionModel("yolov5n.yaml")
    before = model.head.anchors.clone()
    assert torch.equal(model.to(torch.bfloat16).head.anchors, before)
    assert model.head.m[0].weight.dtype == torch.bfloat16
