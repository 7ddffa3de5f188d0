"""DropBlock (Ghiasi et al. 2018, arXiv:1810.12890) on the maps that a network's head reads."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.ops import drop_block2d

from models.yolo import BaseModel
from utils.core.errors import InputError

BLOCK_SIDE = 7  # cells, as in the paper


class _DropBlock:
    """Forward hook of a layer; it holds no weights, so the state dict keeps its keys."""

    def __init__(self, chance: float) -> None:
        self.chance = chance

    def __call__(self, layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        if not layer.training:
            return output
        side = min(BLOCK_SIDE, *output.shape[2:])
        odd = side - 1 + side % 2  # torchvision wants blocks with a middle
        # in float32: torchvision divides by the sum of a mask, which float16 cannot hold for a large batch
        return drop_block2d(output.float(), self.chance, odd, training=True).to(output.dtype)


def add_dropblock(model: BaseModel, chance: float) -> list[int]:
    """Drop squares of 7x7 cells (fewer on smaller maps) of the head's input maps while the network is in training mode.

    Args:
        chance: share of the cells that is dropped; 0 changes nothing.

    Returns:
        Numbers of the rows whose maps are thinned.
    """
    if not chance:
        return []
    origin = getattr(model.head, "f", None) if isinstance(model.model, nn.Sequential) else None
    if origin is None:
        raise InputError(
            "--dropblock: this network is no graph of rows whose head names its inputs; leave the flag out"
        )
    before = len(model.model) - 1
    rows = sorted({i % before for i in ([origin] if isinstance(origin, int) else origin)})
    for row in rows:
        model.model[row].register_forward_hook(_DropBlock(chance))
    return rows
