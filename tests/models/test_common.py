"""Blocks: known values, fusing, and comparison with their definitions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from models import common
from models.common import C3SPP, SPP, SPPF, Bottleneck, Concat, Contract, Conv, DWConv, Expand, Focus, GhostBottleneck


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in evaluation mode with every parameter and statistic away from its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + (0.5 if "var" in name else -0.5))
    return module.eval()


@pytest.mark.parametrize(
    ("kernel", "dilation", "side"),
    [
        pytest.param(1, 1, 7, id="point"),
        pytest.param(3, 1, 7, id="odd"),
        pytest.param(3, 2, 7, id="dilated"),
        pytest.param((1, 5), 1, 7, id="row"),
        pytest.param(2, 1, 8, id="even adds one"),
    ],
)
def test_conv_pads_to_the_same_size(kernel: int | tuple[int, int], dilation: int, side: int) -> None:
    assert Conv(2, 3, kernel, d=dilation)(torch.rand(2, 2, 7, 7)).shape == (2, 3, side, side)


def test_conv_activation_argument() -> None:
    assert Conv(1, 1).act is Conv.default_act
    assert isinstance(Conv(1, 1, act=False).act, nn.Identity)
    own = nn.ReLU()
    assert Conv(1, 1, act=own).act is own


def test_conv_is_positional_k_s_p_g_d_act() -> None:
    conv = Conv(4, 8, 3, 2, 0, 4, 2, False).conv
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (2, 2), (0, 0))
    assert (conv.groups, conv.dilation, conv.bias) == (4, (2, 2), None)


def test_depthwise_groups_divide_both() -> None:
    assert DWConv(12, 18).conv.groups == 6
    assert common.DWConvTranspose2d(12, 18, 2, 2).groups == 6


def test_fuse_known_values() -> None:
    """conv weight 2, norm (x - 3) / sqrt(4) * 5 + 7 -> weight 5, bias -0.5."""
    block = Conv(1, 1, act=False).eval()
    assert block.bn is not None
    block.bn.eps = 0.0
    with torch.no_grad():
        values = ((block.conv.weight, 2), (block.bn.running_mean, 3), (block.bn.running_var, 4))
        for tensor, value in (*values, (block.bn.weight, 5), (block.bn.bias, 7)):
            assert isinstance(tensor, Tensor)
            tensor.fill_(value)
    block.fuse()
    assert list(block.state_dict()) == ["conv.weight", "conv.bias"]
    assert block.conv.weight.item() == 5
    assert block.conv.bias is not None
    assert block.conv.bias.item() == -0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fuse_keeps_the_output(dtype: torch.dtype) -> None:
    block = randomize(DWConv(6, 12, 3, 2)).to(dtype)
    fused = copy.deepcopy(block)
    assert isinstance(fused, Conv)
    fused.fuse()
    fused.fuse()  # a second call changes nothing
    x = torch.rand(2, 6, 9, 7, dtype=dtype)
    torch.testing.assert_close(fused(x), block(x))
    torch.testing.assert_close(fused.forward_fuse(x), block(x))
    assert (fused.conv.groups, fused.conv.stride) == (6, (2, 2))
    assert len(block.state_dict()) == 6  # the original is untouched


def test_fuse_needs_running_statistics() -> None:
    with pytest.raises(ValueError, match="without running statistics"):
        common.fuse_conv_bn(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, track_running_stats=False))


def test_spp_and_sppf_are_equal() -> None:
    fast, plain = randomize(SPPF(8, 12)), SPP(8, 12).eval()
    plain.load_state_dict(fast.state_dict())
    x = torch.rand(2, 8, 17, 23)
    assert torch.equal(fast(x), plain(x))


def test_bottleneck_adds_only_where_shapes_agree() -> None:
    assert [Bottleneck(4, 4).add, Bottleneck(4, 4, False).add, Bottleneck(4, 8).add] == [True, False, False]
    block = randomize(Bottleneck(4, 4))
    x = torch.rand(1, 4, 5, 5)
    torch.testing.assert_close(block(x), x + block.cv2(block.cv1(x)))


def test_c3_is_its_definition() -> None:
    block = randomize(common.C3(4, 8, n=2))
    x = torch.rand(1, 4, 5, 3)
    expected = block.cv3(torch.cat([block.m(block.cv1(x)), block.cv2(x)], 1))
    assert torch.equal(block(x), expected)
    assert len(block.m) == 2
    assert C3SPP(8, 8, (3, 5))(torch.rand(2, 8, 4, 4)).shape == (2, 8, 4, 4)


def test_bottleneck_csp_is_its_definition() -> None:
    block = randomize(common.BottleneckCSP(4, 8))
    x = torch.rand(1, 4, 5, 3)
    joined = torch.cat([block.cv3(block.m(block.cv1(x))), block.cv2(x)], 1)
    assert torch.equal(block(x), block.cv4(block.act(block.bn(joined))))


def test_focus_orders_corners_column_by_column() -> None:
    block = Focus(1, 4)
    block.conv = nn.Identity()
    x = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    assert block(x).flatten().tolist() == [0, 2, 1, 3]


def test_contract_channel_order_and_its_inverse() -> None:
    x = torch.arange(8.0).view(1, 2, 2, 2)  # channel 0: 0 1 / 2 3, channel 1: 4 5 / 6 7
    packed = Contract(2)(x)
    assert packed.shape == (1, 8, 1, 1)
    assert packed.flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert torch.equal(Expand(2)(packed), x)
    wide = torch.rand(2, 3, 4, 6)
    assert torch.equal(Expand(2)(Contract(2)(wide)), wide)


def test_ghost_bottleneck_shrinks_both_paths() -> None:
    assert GhostBottleneck(8, 12, 3, 2)(torch.rand(2, 8, 6, 6)).shape == (2, 12, 3, 3)
    plain = randomize(GhostBottleneck(8, 8))
    x = torch.rand(1, 8, 4, 4)
    torch.testing.assert_close(plain(x), x + plain.conv(x))


def test_transformer_cells_keep_their_place() -> None:
    """Without the layers' weights the block is x + linear(x) per cell."""
    block = common.TransformerBlock(8, 8, 4, 2)
    for name, parameter in block.tr.named_parameters():
        if "fc2" in name or "ma.out" in name:
            nn.init.zeros_(parameter)
    x = torch.rand(2, 8, 3, 5)
    expected = x + block.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(block(x), expected)
    assert common.TransformerBlock(4, 8, 4, 1)(torch.rand(2, 4, 3, 5)).shape == (2, 8, 3, 5)


def test_concat_takes_the_dimension() -> None:
    assert Concat(2)([torch.rand(1, 2, 3), torch.rand(1, 2, 4)]).shape == (1, 2, 7)


def test_proto_doubles_the_map() -> None:
    assert common.Proto(8, 16, 4)(torch.rand(2, 8, 3, 5)).shape == (2, 4, 6, 10)


def test_classify_joins_a_list() -> None:
    head = common.Classify(6, 3).eval()
    a, b = torch.rand(2, 2, 4, 4), torch.rand(2, 4, 4, 4)
    assert torch.equal(head([a, b]), head(torch.cat([a, b], 1)))
    assert head([a, b]).shape == (2, 3)
