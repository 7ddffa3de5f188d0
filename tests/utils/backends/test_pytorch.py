"""Checkpoints as a backend."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from utils.backends.pytorch import PyTorchBackend, names_by_number

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
    assert names_by_number({"0": "cat"}) == {0: "cat"}


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


def test_half_on_cpu_is_named_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("openyolov5").propagate = True
    backend = PyTorchBackend(TinyNet(), device=CPU, fp16=True)
    assert backend.dtype == torch.float32
    assert "--half is ignored" in caplog.text
    assert backend.forward(torch.rand(1, 3, 32, 32)).dtype == torch.float32
