"""Muon optimizer: orthogonalized momentum (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

RMS_OF_ADAMW = 0.2  # root mean square of the elements of AdamW's steps at a learning rate of 1 (arXiv:2502.16982)
EPS = 1e-8  # of AdamW
POLYNOMIALS = (  # a s + b s^3 + c s^5, composed: 1 +/- 0.2 for all s from 0.003 to 1 (arXiv:2505.16932)
    (8.3837, -24.7661, 18.3572),
    (4.0434, -3.0114, 0.5695),
    (3.5056, -2.6267, 0.5257),
    (2.4901, -1.8343, 0.4368),
)


class Muon(torch.optim.Optimizer):
    """Muon for weights with two or more axes, AdamW for all other parameters.

    A convolution's weight is viewed as a matrix (outputs, inputs * height * width). Its Nesterov momentum is replaced
    by approximately the nearest matrix with orthogonal rows (or columns), scaled to the RMS of an AdamW step, so that
    both kinds share AdamW's learning rate and decoupled weight decay. `torch.optim.Muon` takes no convolutions and
    handles one matrix at a time.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decay of the first moment (also the momentum) and of the second.
        weight_decay: decoupled, times the learning rate.
        fused: one kernel for all AdamW parameters.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.95, 0.999),
        weight_decay: float = 0.0,
        fused: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "fused": fused})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Perform one optimizer step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            self._step_matrices([p for p in parameters if p.ndim > 1], group)
            self._step_others([p for p in parameters if p.ndim < 2], group)
        return loss

    def _step_matrices(self, weights: Sequence[Tensor], group: Mapping[str, Any]) -> None:
        steps = orthogonalize([self._momentum(weight, group["betas"][0]).flatten(1) for weight in weights])
        for weight, step in zip(weights, steps, strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            scale = RMS_OF_ADAMW * math.sqrt(max(step.shape))
            weight.add_(step.reshape(weight.shape), alpha=-group["lr"] * scale)

    def _momentum(self, weight: Tensor, beta: float) -> Tensor:
        """Update the momentum of a weight; its Nesterov look-ahead."""
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].mul_(beta).add_(gradient)
        return gradient.add(momentum, alpha=beta)

    def _step_others(self, parameters: Sequence[Tensor], group: Mapping[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] |= {**moments, "step": torch.zeros((), device=parameter.device)}
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            list(parameters),
            [p.grad for p in parameters],  # type: ignore[misc]
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=EPS,
            maximize=False,
        )


def orthogonalize(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Approximately the nearest matrix with orthogonal rows (columns if fewer) to each matrix M: (M M^T)^(-1/2) M.

    Singular values become 0.8 to 1.2; those below 0.003 of the norm stay smaller (arXiv:2505.16932). Works on M M^T of
    the shorter side, batched over matrices of one shape.
    """
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT for matrix in matrices]
    positions = defaultdict(list)
    for position, matrix in enumerate(wide):
        positions[matrix.shape].append(position)
    results = list(wide)
    for same_shape in positions.values():
        stack = torch.stack([wide[position] for position in same_shape])
        for position, rows in zip(same_shape, inverse_root(stack @ stack.mT) @ stack, strict=True):
            results[position] = rows
    return [new if new.shape == old.shape else new.mT for new, old in zip(results, matrices, strict=True)]


def inverse_root(grams: Tensor) -> Tensor:
    """Approximate G^(-1/2) of symmetric positive semidefinite matrices (n, k, k) by polynomials; finite for zeros."""
    norms = grams.diagonal(dim1=1, dim2=2).sum(1).clamp(min=torch.finfo(grams.dtype).tiny).view(-1, 1, 1)
    grams = grams / norms
    first, *others = POLYNOMIALS
    factors = _polynomial(grams, *first)
    roots = factors * norms.rsqrt()
    for coefficients in others:
        grams = factors @ grams @ factors
        factors = _polynomial(grams, *coefficients)
        roots = factors @ roots
    return roots


def _polynomial(grams: Tensor, a: float, b: float, c: float) -> Tensor:
    """A I + b G + c G^2 of (n, k, k)."""
    result = torch.baddbmm(grams, grams, grams, beta=b, alpha=c)
    result.diagonal(dim1=1, dim2=2).add_(a)
    return result
