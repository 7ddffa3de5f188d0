"""Semantic heads and blocks: known values, shapes, one image in training, traced graphs, parameters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.common import Conv
from models.semantic_heads import (
    ARM,
    ASPP,
    C3SPP,
    DAPPM,
    FFM,
    RFB1,
    RFB2,
    SEMANTIC_HEADS,
    ASPPs,
    Attention,
    PooledConv,
    PooledNorm,
    PyramidPooling,
    SegMaskBase,
    SegMaskBiSe,
    SegMaskLab,
    SegMaskPSP,
    adaptive_avg_pool,
    resize_bilinear,
)


def plain(block: nn.Module, weight: float = 1.0) -> nn.Module:
    """Evaluation mode with identity norms, constant convolution weights and linear activations."""
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
        if isinstance(module, Conv):
            module.act = nn.Identity()
    return block.eval()


def ones(channels: int, side: int = 1) -> Tensor:
    return torch.ones(1, channels, side, side)


def test_adaptive_avg_pool_known_values() -> None:
    """Five columns in two cells: 0-2 and 2-4, which share the middle one."""
    x = torch.tensor([0.0, 1, 2, 3, 9]).expand(1, 1, 4, 5).contiguous()
    torch.testing.assert_close(adaptive_avg_pool(x, 2)[0, 0], torch.tensor([[1, 14 / 3]] * 2))
    assert adaptive_avg_pool(x, 1).item() == 3


@pytest.mark.parametrize("size_hw", [(4, 4), (5, 7), (2, 9), (13, 6)])
@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_traced_adaptive_avg_pool_equals_torch(size_hw: tuple[int, int], side: int) -> None:
    x = torch.rand(2, 3, *size_hw)
    traced = torch.jit.trace(lambda y: adaptive_avg_pool(y, side), torch.rand(2, 3, 8, 8))
    torch.testing.assert_close(traced(x), F.adaptive_avg_pool2d(x, side))


def test_resizing_keeps_the_corners() -> None:
    assert resize_bilinear(torch.tensor([[[[0.0, 6.0]]]]), (1, 4)).flatten().tolist() == [0, 2, 4, 6]


def test_one_image_uses_the_running_statistics() -> None:
    norm = PooledNorm(2, eps=1e-9)
    norm.running_mean.copy_(torch.tensor([1.0, 2.0]))
    norm.running_var.fill_(4.0)
    single = torch.tensor([3.0, 8.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(norm(single).flatten(), torch.tensor([1.0, 3.0]))
    assert int(norm.num_batches_tracked) == 0
    two = torch.cat([single, -single])
    torch.testing.assert_close(norm(two), nn.BatchNorm2d(2, eps=1e-9)(two))
    assert int(norm.num_batches_tracked) == 1


def test_attention_known_values() -> None:
    """Mean 1 of each of two channels: the gate is sigmoid(2)."""
    found = plain(Attention(2))(ones(2, 3))
    torch.testing.assert_close(found, torch.full((1, 2, 3, 3), torch.tensor(2.0).sigmoid().item()))
    narrow = plain(Attention(4, reduction=2))  # 4 -> 2 channels of value 4 -> 8
    assert narrow(ones(4)).flatten()[0].item() == pytest.approx(torch.tensor(8.0).sigmoid().item())


def test_arm_known_values() -> None:
    found = plain(ARM(2, 3), 0.1)(ones(2))  # 0.2 in the middle of a 1x1 map, gate of 3 * 0.1 * 0.2
    expected = 0.2 * torch.tensor(0.06).sigmoid().item()
    torch.testing.assert_close(found, torch.full((1, 3, 1, 1), expected))


def test_ffm_known_values() -> None:
    """Mixed value 3; the gate narrows to one channel: 2 * 3 = 6, SiLU, sigmoid; f + f * gate."""
    gate = torch.sigmoid(6 * torch.sigmoid(torch.tensor(6.0))).item()
    found = plain(FFM(3, 2, reduction=2))([ones(1), ones(2)])
    torch.testing.assert_close(found, torch.full((1, 2, 1, 1), 3 + 3 * gate))
    assert plain(FFM(3, 2, reduction=2, is_cat=False))(ones(3)).tolist() == found.tolist()


def test_pyramid_pooling_known_values() -> None:
    """Of a ramp 0 ... 5 along x: the mean 2.5, and the grid of two columns 1 to 4 spread with the corners kept."""
    ramp = torch.arange(6.0).expand(1, 4, 6, 6).contiguous()
    found = plain(PyramidPooling(4), 0.25)(ramp)
    assert found.shape == (1, 8, 6, 6)
    assert torch.equal(found[:, :4], ramp)
    assert found[0, 4].unique().tolist() == [2.5]
    torch.testing.assert_close(found[0, 5, 0], torch.linspace(1, 4, 6))
    torch.testing.assert_close(found[0, 7], ramp[0, 0])  # six cells are the map itself
    with pytest.raises(ValueError, match="10 channels are not divisible by the number of grids, 4"):
        PyramidPooling(10)


def test_rfb2_known_values() -> None:
    """On a single pixel every 3x3 sees its middle only: stages 4, 4, 4 (one channel), side 4, mean 4: 20 joined."""
    found = plain(RFB2(4, 2, map_reduce=4, has_globel=True))(ones(4))
    assert found.flatten().tolist() == [20, 20]


def test_rfb2_receptive_field() -> None:
    """Rates 1, 2 and 3 reach 1 + 2 + 3 = 6 pixels from the middle, without holes."""
    block = plain(RFB2(1, 1, map_reduce=1))
    image = torch.zeros(1, 1, 15, 15)
    image[0, 0, 7, 7] = 1
    touched = (block(image)[0, 0] != 0).int()
    assert touched.sum().item() == 13 * 13
    assert touched[1:14, 1:14].min().item() == 1


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (lambda: ASPP(4, 2, map_reduce=2), 5 * 2 * 4),  # five branches of two channels, each the sum of four ones
        (lambda: ASPP(4, 2, has_globel=False, map_reduce=4), 4 * 4),
        (lambda: ASPPs(4, 2, has_globel=False, map_reduce=2), 4 * 2 * 2 * 4),
        (lambda: RFB1(4, 2, map_reduce=4), 4 * 4),
        (lambda: RFB1(4, 2, map_reduce=4, has_globel=True), 5 * 4),
        (lambda: C3SPP(4, 2), 2 * 4 + 3 * 4 * (2 * 4)),  # plain: two of 4; pooled: 4, SPP 1 of 8, joined 3 of 32
    ],
)
def test_branches_known_values(block: Callable[[], nn.Module], expected: float) -> None:
    assert plain(block())(ones(4)).flatten().tolist() == [expected] * 2


def test_rates_of_the_dilated_branches() -> None:
    rates = [m.dilation[0] for m in RFB1(8, 8).modules() if isinstance(m, nn.Conv2d) and m.dilation[0] > 1]
    assert rates == [3, 5, 7]
    assert [m.kernel_size[0] for m in RFB1(8, 8).modules() if isinstance(m, nn.Conv2d)].count(5) == 1
    assert [b.conv.dilation[0] for b in ASPP(8, 8).branches] == [1, 3, 6, 9]


def test_dappm_known_values() -> None:
    """One pixel of value 1: windows with their padding give 1/25, 1/81, 1/289, the whole map 1; SiLU before sums."""
    pooled = F.silu(torch.tensor([1, 1 / 25, 1 / 81, 1 / 289, 1]))
    refined = [pooled[0]]
    for scale in pooled[1:]:
        refined.append(F.silu(scale + refined[-1]))
    expected = F.silu(torch.stack(refined)).sum() + F.silu(torch.tensor(1.0))
    assert plain(DAPPM(1, 1, 1))(ones(1)).item() == pytest.approx(expected.item(), rel=1e-6)
    assert DAPPM(8, 4, 6)(torch.rand(1, 8, 16, 24)).shape == (1, 6, 16, 24)


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "Attention": lambda: Attention(24, 2),
    "ARM": lambda: ARM(24, 24),
    "FFM": lambda: FFM(24, 24, 2, is_cat=False),
    "C3SPP": lambda: C3SPP(24, 24),
    "ASPP": lambda: ASPP(24, 24),
    "ASPPs": lambda: ASPPs(24, 24),
    "RFB1": lambda: RFB1(24, 24, has_globel=True),
    "RFB2": lambda: RFB2(24, 24, has_globel=True),
    "DAPPM": lambda: DAPPM(24, 8, 24),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_size_is_kept_and_one_image_trains(name: str) -> None:
    block = BLOCKS[name]().train()
    found = block(torch.rand(1, 24, 10, 14))
    assert found.shape == (1, 24, 10, 14)
    found.sum().backward()
    assert all(p.grad is not None for p in block.parameters())


HEADS = {
    "base": (SegMaskBase, [256], 256, 609664),
    "bise": (SegMaskBiSe, [256, 256, 512], 128, 1754297),
    "lab": (SegMaskLab, [128, 256], 128, 1125459),
    "psp": (SegMaskPSP, [256, 256, 512], 128, 672275),
}


@pytest.mark.parametrize("name", HEADS)
def test_parameters_of_the_small_heads(name: str) -> None:
    kind, channels, c, expected = HEADS[name]
    assert sum(p.numel() for p in kind(19, 1, c, False, channels).parameters()) == expected


def test_auxiliary_layers_of_bise() -> None:
    head = SegMaskBiSe(19, 1, 128, False, [256, 256, 512])
    assert sum(p.numel() for p in head.auxiliary.parameters()) == 300_326


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_lab_width_depends_on_n(n: int) -> None:
    head = SegMaskLab(19, n, 128, False, [64, 64])
    assert head.context[1].branches[0].conv.out_channels == 256 // max(5 - n, 1)


@pytest.mark.parametrize("name", HEADS)
def test_logits_have_the_size_of_the_image(name: str) -> None:
    kind, channels, _, _ = HEADS[name]
    head = kind(5, 1, 16, False, [c // 8 for c in channels])
    maps = [torch.rand(1, c // 8, 12 >> i, 16 >> i) for i, c in enumerate(channels)]
    found = head.train()(maps)
    outputs = found if isinstance(found, list) else [found]
    assert len(outputs) == (3 if name == "bise" else 1)
    assert {tuple(o.shape) for o in outputs} == {(1, 5, 96, 128)}
    assert head.eval()(maps).shape == (1, 5, 96, 128)
    head.stride = 4
    assert head(maps).shape == (1, 5, 48, 64)


def test_heads_check_their_inputs() -> None:
    with pytest.raises(ValueError, match="2 inputs, but SegMaskPSP takes 3, finest first"):
        SegMaskPSP(19, ch=[8, 8])
    with pytest.raises(ValueError, match="'n_segcls' is not a number of classes"):
        SegMaskBase("n_segcls", ch=[8])  # type: ignore[arg-type]
    assert list(SEMANTIC_HEADS) == ["SegMaskBase", "SegMaskBiSe", "SegMaskLab", "SegMaskPSP"]


@pytest.mark.parametrize("name", HEADS)
def test_every_norm_is_fused(name: str) -> None:
    kind, channels, _, _ = HEADS[name]
    head = kind(5, 1, 16, False, [c // 8 for c in channels]).eval()
    for module in head.modules():
        if isinstance(module, Conv):
            nn.init.uniform_(module.bn.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.bn.running_var, 0.5, 1.5)
    maps = [torch.rand(2, c // 8, 12 >> i, 16 >> i) for i, c in enumerate(channels)]
    with torch.inference_mode():
        wanted = head(maps)
        for module in head.modules():
            if isinstance(module, Conv):
                module.fuse()
        torch.testing.assert_close(head(maps), wanted, rtol=1e-4, atol=1e-5)
    assert not [m for m in head.modules() if isinstance(m, nn.BatchNorm2d)]


def test_pooled_conv_is_a_conv() -> None:
    assert isinstance(PooledConv(2, 2).bn, PooledNorm)
    assert isinstance(PooledConv(2, 2), Conv)
