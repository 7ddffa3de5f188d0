"""Channel concatenation: values and gradients of torch.cat."""

from __future__ import annotations

import torch

from models.concat import concat_channels


def test_values_and_gradients_equal_cat() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 4, 5), (2, 6, 4, 5))
    maps = [
        torch.rand(shape, generator=generator).to(memory_format=torch.channels_last).requires_grad_()
        for shape in shapes
    ]
    weights = torch.rand((2, 9, 4, 5), generator=generator)
    seen: list[torch.Tensor] = []
    middle = [part * 2 for part in maps]
    for part in middle:
        part.register_hook(seen.append)
    joined = concat_channels(middle)
    assert torch.equal(joined, torch.cat(middle, dim=1))
    found = torch.autograd.grad((joined * weights).sum(), maps)
    expected = torch.autograd.grad((torch.cat([part * 2 for part in maps], dim=1) * weights).sum(), maps)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len(seen) == 2 and all(g.is_contiguous(memory_format=torch.channels_last) for g in seen)


def test_without_gradients_it_is_cat() -> None:
    maps = [torch.rand(1, 2, 3, 3), torch.rand(1, 1, 3, 3)]
    assert torch.equal(concat_channels(maps), torch.cat(maps, dim=1))
    assert concat_channels([part.requires_grad_() for part in maps]).shape == (1, 3, 3, 3)
