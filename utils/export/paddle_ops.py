"""Translations of ATen operators to PaddlePaddle."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

aten = torch.ops.aten
Translation = Callable[..., Any]


def build_translations(paddle: Any) -> dict[Any, Translation]:
    """Build the table from ATen operators to functions with the same arguments on PaddlePaddle tensors.

    Sizes are numbers or scalar tensors.
    """
    F = paddle.nn.functional
    return {
        **_build_arithmetic(paddle),
        **_build_shape_ops(paddle),
        aten.conv2d.default: F.conv2d,
        aten.linear.default: lambda x, weight, bias=None: _add_bias(paddle.matmul(x, weight, transpose_y=True), bias),
        aten.max_pool2d.default: _build_max_pool(F),
        aten.adaptive_avg_pool2d.default: F.adaptive_avg_pool2d,
        aten.upsample_nearest2d.vec: _build_nearest(paddle),
        aten.pad.default: lambda x, pad, mode="constant", value=None: F.pad(x, list(pad), mode, value or 0.0),
        aten._native_batch_norm_legit_no_training.default: lambda x, weight, bias, mean, var, momentum, eps: (
            F.batch_norm(x, mean, var, weight, bias, epsilon=eps),
        ),
        aten.scaled_dot_product_attention.default: _build_attention(paddle),
    }


def _build_arithmetic(paddle: Any) -> dict[Any, Translation]:
    F = paddle.nn.functional
    return {
        operator.add: operator.add,
        operator.sub: operator.sub,
        operator.mul: operator.mul,
        operator.floordiv: operator.floordiv,
        operator.getitem: operator.getitem,
        torch.sym_float: lambda number: paddle.cast(number, "float32"),
        math.trunc: lambda number: paddle.cast(number, "int64"),
        aten.add.Tensor: operator.add,
        aten.sub.Tensor: operator.sub,
        aten.mul.Tensor: operator.mul,
        aten.div.Tensor: operator.truediv,
        aten.pow.Tensor_Scalar: operator.pow,
        aten.sigmoid.default: F.sigmoid,
        aten.silu.default: F.silu,
        aten.relu.default: F.relu,
        aten.hardswish.default: F.hardswish,
        aten.mish.default: F.mish,
        aten.leaky_relu.default: F.leaky_relu,
        aten.softmax.int: lambda x, dim: F.softmax(x, dim),
        aten.arange.default: lambda end, dtype=None: paddle.arange(0, end, 1, dtype=dtype or "int64"),
    }


def _build_shape_ops(paddle: Any) -> dict[Any, Translation]:
    return {
        aten.sym_size.int: lambda x, dim: paddle.shape(x)[dim],
        aten.cat.default: lambda tensors, dim=0: paddle.concat(list(tensors), dim),
        aten.stack.default: lambda tensors, dim=0: paddle.stack(list(tensors), dim),
        aten.split.Tensor: lambda x, size, dim=0: paddle.split(x, x.shape[dim] // size, dim),
        aten.permute.default: paddle.transpose,
        aten.transpose.int: lambda x, a, b: paddle.transpose(x, _swap_axes(len(x.shape), a, b)),
        aten.unsqueeze.default: paddle.unsqueeze,
        aten.view.default: paddle.reshape,
        aten._unsafe_view.default: paddle.reshape,
        aten.expand.default: paddle.expand,
        aten.select.int: lambda x, dim, index: _index_axis(x, dim, index),
        aten.slice.Tensor: lambda x, dim=0, start=None, end=None, step=1: _index_axis(
            x, dim, slice(start, None if isinstance(end, int) and end == sys.maxsize else end, step)
        ),
    }


def _add_bias(x: Any, bias: Any) -> Any:
    return x if bias is None else x + bias


def _build_max_pool(F: Any) -> Translation:
    def max_pool(
        x: Any, kernel: Sequence[int], stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> Any:
        if any(step != 1 for step in torch.nn.modules.utils._pair(dilation)):
            raise NotImplementedError(f"aten.max_pool2d with dilation {dilation}")
        return F.max_pool2d(x, kernel, stride or None, padding, ceil_mode=ceil_mode)

    return max_pool


def _build_nearest(paddle: Any) -> Translation:
    def nearest(x: Any, size: Any, scales: Sequence[float] | None = None) -> Any:
        """Upsample by integer factors; PaddlePaddle's operator fails with oneDNN (3.3)."""
        batch, channels, height, width = (s if s > 0 else paddle.shape(x)[dim] for dim, s in enumerate(x.shape))
        if size is None:
            assert scales is not None
            size = [int(scale) * side for scale, side in zip(scales, (height, width), strict=True)]
        rows, columns = size[0] // height, size[1] // width
        if isinstance(rows, int) and (rows * height, columns * width) != tuple(size):
            raise NotImplementedError(f"aten.upsample_nearest2d from {height}x{width} to {size[0]}x{size[1]}")
        cells = paddle.reshape(x, [batch, channels, height, 1, width, 1])
        cells = paddle.expand(cells, [batch, channels, height, rows, width, columns])
        return paddle.reshape(cells, [batch, channels, height * rows, width * columns])

    return nearest


def _build_attention(paddle: Any) -> Translation:
    def attention(query: Any, key: Any, value: Any) -> Any:
        """Softmax attention (arXiv:1706.03762, eq. 1) of (..., tokens, channels)."""
        weights = paddle.matmul(query * query.shape[-1] ** -0.5, key, transpose_y=True)
        return paddle.matmul(paddle.nn.functional.softmax(weights, -1), value)

    return attention


def _index_axis(x: Any, dim: int, index: Any) -> Any:
    return x[(slice(None),) * (dim % len(x.shape)) + (index,)]


def _swap_axes(rank: int, a: int, b: int) -> list[int]:
    order = list(range(rank))
    order[a], order[b] = order[b], order[a]
    return order
