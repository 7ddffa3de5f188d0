"""Experimental blocks and the ensemble."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from models import experimental
from models.experimental import (
    C3Cross,
    ConvPlus,
    Ensemble,
    MixConv2d,
    MixConv2dResidual,
    PooledClassify,
    Sum,
    split_proportionally,
)
from models.graph import load_model_yaml
from models.yolo import DetectionModel


def test_sum_plain_and_weighted() -> None:
    maps = [torch.full((1, 1), v) for v in (1.0, 10.0, 100.0)]
    assert Sum(3)(maps).item() == 111
    weighted = Sum(3, weight=True)
    assert weighted.w.tolist() == [-0.5, -1.0]
    expected = 1 + 20 / (1 + math.exp(0.5)) + 200 / (1 + math.exp(1))
    assert weighted(maps).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [
        pytest.param(10, [1, 1], [5, 5], id="even"),
        pytest.param(10, [1, 1, 1], [4, 3, 3], id="remainder to the first"),
        pytest.param(20, [1, 1 / 9], [17, 3], id="by kernel area"),  # 18 beyond one each: 16.2 and 1.8
        pytest.param(2, [1, 1], [1, 1], id="one each"),
    ],
)
def test_split_proportionally(total: int, shares: list[float], expected: list[int]) -> None:
    assert split_proportionally(total, shares) == expected


def test_split_needs_a_channel_per_kernel() -> None:
    with pytest.raises(ValueError, match="cannot split 1 channels among 2 kernels"):
        split_proportionally(1, [1, 1])


def test_mixconv_shapes_and_old_residual() -> None:
    x = torch.rand(2, 8, 6, 6)
    assert MixConv2d(8, 12, (1, 3, 5), 2)(x).shape == (2, 12, 3, 3)
    old, new = MixConv2dResidual(8, 8).eval(), MixConv2d(8, 8).eval()
    new.load_state_dict(old.state_dict())
    new.act = old.act = nn.Identity()
    torch.testing.assert_close(old(x), x + new(x))


def test_c3_cross_has_the_keys_of_a_csp_block() -> None:
    block = C3Cross(8, 8, n=2)
    assert {k.split(".")[0] for k in block.state_dict()} == {"cv1", "cv2", "cv3", "cv4", "bn", "m"}
    assert "m.1.cv2.conv.weight" in block.state_dict()
    assert block.m[0].cv1.conv.kernel_size == (1, 3)
    assert block(torch.rand(2, 8, 4, 4)).shape == (2, 8, 4, 4)


def test_conv_plus_is_a_sum() -> None:
    block = ConvPlus(1, 1, 3, bias=False)
    for conv in (block.cv1, block.cv2):
        nn.init.ones_(conv.weight)
    image = torch.zeros(1, 1, 3, 3)
    image[0, 0, 1, 1] = 1
    assert block(image)[0, 0].tolist() == [[0, 1, 0], [1, 2, 1], [0, 1, 0]]


def test_pooled_classify_concatenates_after_pooling() -> None:
    head = PooledClassify(6, 3)
    small, large = torch.rand(2, 2, 2, 2), torch.rand(2, 4, 5, 5)
    pooled = torch.cat([small.mean((2, 3)), large.mean((2, 3))], 1)
    expected = pooled @ head.conv.weight[:, :, 0, 0].T + head.conv.bias
    torch.testing.assert_close(head([small, large]), expected)


class _Member(nn.Module):
    def __init__(self, boxes: int, stride: float) -> None:
        super().__init__()
        self.boxes, self.stride = boxes, torch.tensor([stride])
        self.names, self.nc, self.yaml = {0: f"of {boxes}"}, boxes, {"nc": boxes}

    def forward(self, x: torch.Tensor, augment: bool, profile: bool, visualize: bool) -> tuple[torch.Tensor, None]:
        return torch.full((x.shape[0], self.boxes, 6), float(self.boxes)), None


def test_ensemble_concatenates_boxes() -> None:
    both = Ensemble([_Member(2, 32.0), _Member(3, 64.0)])
    boxes, rest = both(torch.rand(4, 3, 8, 8))
    assert rest is None
    assert boxes.shape == (4, 5, 6)
    assert boxes[0, :, 0].tolist() == [2, 2, 3, 3, 3]
    assert (both.names, both.nc, both.yaml, both.stride.tolist()) == ({0: "of 2"}, 2, {"nc": 2}, [64.0])


def test_addresses_of_old_releases() -> None:
    blocks = set(experimental.__all__) - {"attempt_download", "attempt_load", "autopad", "math", "nn", "np", "torch"}
    for name in blocks:
        assert issubclass(getattr(experimental, name), nn.Module)
    assert callable(experimental.attempt_download) and callable(experimental.attempt_load)


def test_ensemble_as_scripts_fill_it() -> None:
    """An empty one, to which networks are appended; a member is taken by its index."""
    members = [DetectionModel({**load_model_yaml("yolov5n"), "width_multiple": 0.125, "nc": 2}).eval() for _ in "ab"]
    ensemble = Ensemble()
    for member in members:
        ensemble.append(member)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        boxes, rest = ensemble(images, augment=False)
        expected = torch.cat([member(images)[0] for member in members], dim=1)
    assert rest is None
    assert torch.equal(boxes, expected)
    assert ensemble[-1] is members[1]
    assert (ensemble.names, int(ensemble.stride.max())) == ({0: "0", 1: "1"}, 32)
