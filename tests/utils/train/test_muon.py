from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from utils.train.muon import RMS_OF_ADAMW, Muon, orthogonalize
from utils.train.optim import build_optimizer


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32), (1, 9), (9, 1)])
def test_singular_values_approach_one_and_vectors_stay(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) * 1e-4
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.mT @ orthogonalize([matrix])[0] @ right.mT
    wide = values > 0.003 * values.norm()  # of a square matrix the last ones are far below the others
    assert turned.diagonal()[wide].min() > 0.79
    assert turned.diagonal().max() < 1.21
    torch.testing.assert_close(turned, torch.diag(turned.diagonal()), rtol=0, atol=1e-3)


def test_matrices_of_all_shapes_together_equal_each_alone() -> None:
    torch.manual_seed(0)
    matrices = [torch.randn(shape) for shape in ((4, 9), (9, 4), (4, 4), (4, 30), (7, 8))]
    together = orthogonalize(matrices)
    assert [new.shape for new in together] == [old.shape for old in matrices]
    for new, old in zip(together, matrices, strict=True):
        torch.testing.assert_close(new, orthogonalize([old])[0])


def test_no_gradient_makes_no_step() -> None:
    assert torch.equal(orthogonalize([torch.zeros(3, 5)])[0], torch.zeros(3, 5))


def test_convolutions_step_like_adamw_in_size_whatever_the_gradient() -> None:
    torch.manual_seed(0)
    for scale in (1e-6, 1.0, 1e6):
        conv = nn.Conv2d(8, 16, 3, bias=False).to(memory_format=torch.channels_last)
        before = conv.weight.detach().clone()
        conv.weight.grad = torch.randn_like(conv.weight) * scale
        Muon(conv.parameters(), lr=0.01).step()
        step = conv.weight.detach() - before
        assert step.square().mean().sqrt() == pytest.approx(0.01 * RMS_OF_ADAMW, rel=0.2)
        assert (step * conv.weight.grad).sum() < 0


def test_a_step_by_hand() -> None:
    weight = nn.Parameter(torch.ones(1, 4))
    weight.grad = torch.tensor([[3.0, 0.0, 4.0, 0.0]])
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    row = orthogonalize([torch.tensor([[0.6, 0.0, 0.8, 0.0]])])[0]  # one row: the length alone changes
    torch.testing.assert_close(weight.detach(), 0.95 - 0.1 * RMS_OF_ADAMW * math.sqrt(4) * row)


def test_other_parameters_step_as_with_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.BatchNorm2d(5), nn.BatchNorm2d(5)
    settings = {"lr": 0.1, "betas": (0.9, 0.999), "weight_decay": 0.3}
    optimizers = [Muon(ours.parameters(), **settings), torch.optim.AdamW(theirs.parameters(), **settings)]
    for _ in range(3):
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            own.grad = torch.randn(5)
            other.grad = own.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_resume_from_state_is_exact() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    optimizer = build_optimizer(model, "Muon", lr=0.01, momentum=0.9, weight_decay=0.1)
    train(model, optimizer)
    twin = copy.deepcopy(model)
    resumed = build_optimizer(twin, "Muon", lr=1.0, momentum=0.1, weight_decay=0.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(train(model, optimizer), train(twin, resumed))


def test_parameters_without_gradient_stay() -> None:
    model = nn.Linear(2, 2)
    Muon(model.parameters(), lr=1.0, weight_decay=0.5).step()
    assert not Muon(model.parameters(), lr=1.0).state
    twin = nn.Linear(2, 2)
    twin.load_state_dict(model.state_dict())
    Muon(model.parameters(), lr=1.0, weight_decay=0.5).step()
    assert torch.equal(model.weight, twin.weight)
    assert torch.equal(model.bias, twin.bias)


def test_it_learns_and_calls_a_closure() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = Muon(model.parameters(), lr=0.1)
    images, wanted = torch.randn(32, 3), torch.randn(32, 2)

    def loss() -> float:
        optimizer.zero_grad()
        value = (model(images) - wanted).square().mean()
        value.backward()
        return float(value.detach())

    losses = [optimizer.step(loss) for _ in range(30)]
    assert losses[0] is not None
    assert losses[-1] is not None
    assert losses[-1] < 0.9 * losses[0]


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    """Two steps on images of their own; all parameters in one row."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(8, 3, 3, 3, generator=generator)).square().mean().backward()
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
