"""Synchronized batch norm (`--sync-bn`): statistics over the images of all ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.core.distributed import all_reduce_sum, get_world_size


class CPUSyncBatchNorm(nn.BatchNorm2d):
    """Batch norm with mean and variance over the batches of all ranks in training, for CPUs.

    (`nn.SyncBatchNorm` needs CUDA.) The sums are differentiable, so training equals that of one process with the whole
    batch; a rank without images takes part. A single value over all ranks is normalized by the running statistics.
    Buffers and state dict are those of `nn.BatchNorm2d`.

    Shape:
        (B, C, ...) -> the same
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept two or more dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or get_world_size() == 1:
            return super().forward(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        num_values = x.new_full((1,), x.numel() // x.shape[1])
        sums = _AllReduceSum.apply(torch.cat((x.sum(dims), num_values)))
        count = sums[-1].detach()
        if count == 1 and self.running_mean is not None and self.running_var is not None:
            centered, variance = x - self.running_mean.view(shape), self.running_var
        else:
            mean = sums[:-1] / count
            centered = x - mean.view(shape)
            variance = _AllReduceSum.apply(centered.square().sum(dims)) / count
            self._update_running_stats(mean.detach(), variance.detach() * (count / (count - 1).clamp(min=1)))
        scale = (variance + self.eps).rsqrt()
        if self.weight is None:
            return (centered * scale.view(shape)).to(input.dtype)
        result = centered * (scale * self.weight).view(shape) + self.bias.view(shape)
        return result.to(input.dtype)

    @torch.no_grad()
    def _update_running_stats(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics; `variance` is unbiased."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), weight)
        self.running_var.lerp_(variance.to(self.running_var), weight)


class _AllReduceSum(torch.autograd.Function):
    """Sum over all ranks; the loss of each depends on it, so the gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return all_reduce_sum(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient)


def convert_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace batch norms by synchronized ones: PyTorch's on CUDA, else `CPUSyncBatchNorm`."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, _BatchNorm) and not isinstance(norm, CPUSyncBatchNorm):
                setattr(parent, name, _convert_layer(norm))
    return model


def _convert_layer(norm: _BatchNorm) -> CPUSyncBatchNorm:
    """The same layer with the same tensors."""
    layer = CPUSyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    layer.weight, layer.bias = norm.weight, norm.bias
    layer.running_mean, layer.running_var = norm.running_mean, norm.running_var
    layer.num_batches_tracked = norm.num_batches_tracked
    return layer.train(norm.training)
