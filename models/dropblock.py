"""DropBlock regularization (Ghiasi et al. 2018, arXiv:1810.12890)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from models.yolo import BaseModel
from utils.core.errors import InputError

BLOCK_SIZE = 7  # cells, as in the paper


class _DropBlock:
    """Forward hook of a layer; not a module, so state-dict keys do not change."""

    def __init__(self, drop_prob: float) -> None:
        from torchvision.ops import drop_block2d  # takes a second to import

        self.drop_prob, self._drop = drop_prob, drop_block2d

    def __call__(self, layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        if not layer.training:
            return output
        size = min(BLOCK_SIZE, *output.shape[2:])
        odd_size = size - 1 + size % 2  # torchvision requires odd sizes
        # in float32: torchvision divides by the sum of a mask, which overflows float16 for a large batch
        return self._drop(output.float(), self.drop_prob, odd_size, training=True).to(output.dtype)


def add_dropblock(model: BaseModel, drop_prob: float) -> list[int]:
    """Apply DropBlock in training mode to the feature maps that the head takes.

    Args:
        drop_prob: fraction of cells to drop, in blocks of 7x7 (smaller on small feature maps); 0 is a no-op.

    Returns:
        Indices of the layers whose outputs are dropped.

    Raises:
        InputError: the network is not a graph of rows.
    """
    if not drop_prob:
        return []
    origin = getattr(model.head, "f", None) if isinstance(model.model, nn.Sequential) else None
    if origin is None:
        raise InputError("--dropblock supports networks built from a model YAML only; leave the flag out")
    num_rows = len(model.model) - 1
    rows = sorted({i % num_rows for i in ([origin] if isinstance(origin, int) else origin)})
    for row in rows:
        model.model[row].register_forward_hook(_DropBlock(drop_prob))
    return rows
