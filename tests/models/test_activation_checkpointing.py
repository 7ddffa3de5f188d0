from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from models.activation_checkpointing import checkpoint_layer
from models.yolo import DetectionModel


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)  # DropBlock and Dropout draw
    sum(raw.square().mean() for raw in model(images)).backward()  # type: ignore[union-attr]
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("cfg", ["yolov5n.yaml", "yolov5n6.yaml"])
@pytest.mark.parametrize("frozen_norms", [False, True])
def test_gradients_and_statistics_are_equal(cfg: str, frozen_norms: bool) -> None:
    torch.manual_seed(0)
    plain = DetectionModel(cfg, nc=3).train()
    plain.model[3].eval() if frozen_norms else None
    saving = copy.deepcopy(plain)
    saving.checkpoint_activations = True
    images = torch.rand(2, 3, 128, 128)
    wanted, found = gradients(plain, images), gradients(saving, images)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in wanted.items())
    for (name, buffer), other in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(buffer, other), name


def test_only_outputs_of_layers_are_stored() -> None:
    """Bytes that autograd saves for the backward pass."""
    images = torch.rand(1, 3, 128, 128)
    kept = []
    for checkpoint_activations in (False, True):
        model = DetectionModel("yolov5n.yaml", nc=3).train()
        model.checkpoint_activations = checkpoint_activations
        total = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal total
            total += 0 if isinstance(tensor, nn.Parameter) else tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(images)
        kept.append(total)
    assert kept[1] < kept[0] / 4


def test_no_checkpointing_without_gradients_or_parameters() -> None:
    model = DetectionModel("yolov5n.yaml", nc=3).eval()
    model.checkpoint_activations = True
    assert model(torch.rand(1, 3, 64, 64))[0].shape == (1, 252, 8)
    layer, x = nn.Upsample(scale_factor=2), torch.rand(1, 2, 4, 4, requires_grad=True)
    assert torch.equal(checkpoint_layer(layer, x), layer(x))
