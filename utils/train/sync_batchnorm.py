"""Batch norm over the images of all processes (`--sync-bn`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.core.distributed import all_reduce_sum, get_world_size


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose mean and variance in training are those of the batches of all processes together.

    For processors, where `nn.SyncBatchNorm` refuses. The sums over the processes carry gradients, so training is that
    of one process with the whole batch; a process without an image takes part. Of a single value in all processes the
    running statistics are used: its own mean would make it a constant. Buffers and state dict are those of
    `nn.BatchNorm2d`.

    Shape:
        (B, C, ...) -> the same
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from two on."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalized maps; the running statistics move in training."""
        if not self.training or get_world_size() == 1:
            return super().forward(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        own_count = x.new_full((1,), x.numel() // x.shape[1])
        sums = _AllSum.apply(torch.cat((x.sum(dims), own_count)))
        count = sums[-1].detach()
        if count == 1 and self.running_mean is not None and self.running_var is not None:
            centered, variance = x - self.running_mean.view(shape), self.running_var
        else:
            mean = sums[:-1] / count
            centered = x - mean.view(shape)
            variance = _AllSum.apply(centered.square().sum(dims)) / count
            self._follow(mean.detach(), variance.detach() * (count / (count - 1).clamp(min=1)))
        scale = (variance + self.eps).rsqrt()
        if self.weight is None:
            return (centered * scale.view(shape)).to(input.dtype)
        result = centered * (scale * self.weight).view(shape) + self.bias.view(shape)
        return result.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics; `variance` is the unbiased one."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


class _AllSum(torch.autograd.Function):
    """A sum over all processes. Each one's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return all_reduce_sum(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient)


def with_shared_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with batch norms that work over all processes: PyTorch's own on CUDA, else `SharedBatchNorm`."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, _BatchNorm) and not isinstance(norm, SharedBatchNorm):
                setattr(parent, name, _shared(norm))
    return model


def _shared(norm: _BatchNorm) -> SharedBatchNorm:
    """The same layer, with the same tensors."""
    made = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    made.weight, made.bias = norm.weight, norm.bias
    made.running_mean, made.running_var = norm.running_mean, norm.running_var
    made.num_batches_tracked = norm.num_batches_tracked
    return made.train(norm.training)
