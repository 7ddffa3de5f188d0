"""Which cells and anchors of a detection head answer for which ground-truth boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class LevelTargets:
    """The positives of one level: R rows, each asking one anchor of one cell for one target.

    On a GPU the number of rows follows from the number of targets alone, so that nothing waits for the device; rows
    that are not positives are there with weight 0. On the CPU they are left out.

    Attributes:
        cells: (R,) index into the level's (B, na, H, W) cells, flattened.
        targets: (R,) row of the target tensor.
        ranks: (R,) int64; where rows meet in one cell the highest rank sets its objectness. Neighbors outrank the
            cell of the center (in the order left, up, right, down), within a place the higher target index wins.
        classes: (R,) int64.
        boxes_xywh: (R, 4) in cells of the grid; the center is relative to the corner of the row's own cell.
        anchors: (R, 2) width and height in cells.
        weights: (R,) 1 for a positive, 0 for padding.
    """

    cells: Tensor
    targets: Tensor
    ranks: Tensor
    classes: Tensor
    boxes_xywh: Tensor
    anchors: Tensor
    weights: Tensor

    def without_padding(self) -> LevelTargets:
        """Only the rows of weight 1. Waits for the device."""
        rows = self.weights.nonzero()[:, 0]
        return LevelTargets(*(getattr(self, field.name)[rows] for field in fields(self)))


def assign_targets(
    targets: Tensor, anchors: Tensor, grids_hw: Sequence[tuple[int, int]], *, max_ratio: float
) -> list[LevelTargets]:
    """Positives of every level.

    An anchor suits a target if neither side differs by a factor of `max_ratio` or more. The cell that holds the
    target's center answers, and with it the nearer neighbor along x and the nearer one along y, where the grid has
    them (a center on a border between cells or in the middle of a cell: see `_nearer_neighbor`).

    Args:
        targets: (N, 6) image index, class, x, y, w, h normalized to the network input.
        anchors: (nl, na, 2) width and height in cells of their level.
        grids_hw: rows and columns of each level's grid.
        max_ratio: `anchor_t` of the hyperparameters.
    """
    levels = [
        _assign_level(targets, level_anchors, grid_hw, max_ratio)
        for level_anchors, grid_hw in zip(anchors, grids_hw, strict=True)
    ]
    return [level.without_padding() for level in levels] if targets.device.type == "cpu" else levels


def _assign_level(targets: Tensor, anchors: Tensor, grid_hw: tuple[int, int], max_ratio: float) -> LevelTargets:
    """All (place, anchor, target) triples of one level with weights, R = 3 na N; places: own cell, x, y neighbor."""
    num_anchors, num_targets = len(anchors), len(targets)
    shape = (3, num_anchors, num_targets)
    size_wh = torch.stack([targets.new_full((), side) for side in reversed(grid_hw)])  # new_tensor would wait
    centers, sizes = targets[:, 2:4] * size_wh, targets[:, 4:6] * size_wh  # both (N, 2), in cells

    ratios = sizes / anchors[:, None]  # (na, N, 2)
    suits = torch.maximum(ratios, 1 / ratios).amax(dim=2) < max_ratio  # (na, N)
    own = centers.floor()
    steps = _nearer_neighbor(centers - own, centers, size_wh - centers)  # (N, 2) in {-1, 0, 1}
    exists = torch.cat((torch.ones_like(steps[:, :1]), steps.abs()), dim=1).T  # (3, N), 1 or 0
    moves = torch.cat((torch.zeros_like(steps)[None], torch.diag_embed(steps).transpose(0, 1)))  # (3, N, 2)
    corners = torch.minimum((own + moves).clamp(min=0), size_wh - 1)  # (3, N, 2)

    boxes = torch.cat((centers - corners, sizes.expand(3, -1, -1)), dim=2)  # (3, N, 4)
    images, columns, rows = targets[:, 0].long(), corners[..., 0].long(), corners[..., 1].long()
    indices = torch.arange(num_targets, device=targets.device)
    planes = images * num_anchors + torch.arange(num_anchors, device=targets.device)[:, None]  # (na, N)
    cells = planes * (grid_hw[0] * grid_hw[1]) + (rows * grid_hw[1] + columns)[:, None]  # (3, na, N)
    return LevelTargets(
        cells=cells.flatten(),
        targets=indices.expand(shape).flatten(),
        ranks=(_place_order(steps) * num_targets + indices)[:, None].expand(shape).flatten(),
        classes=targets[:, 1].long().expand(shape).flatten(),
        boxes_xywh=boxes[:, None].expand(*shape, 4).reshape(-1, 4),
        anchors=anchors[:, None].expand(*shape, 2).reshape(-1, 2),
        weights=(suits * exists[:, None]).flatten(),
    )


def _nearer_neighbor(fractions: Tensor, from_start: Tensor, from_end: Tensor) -> Tensor:
    """Step to the nearer neighbor cell along each axis: -1, 1, or 0 where there is none.

    Args:
        fractions: position inside the cell, [0, 1). Exactly 0 steps back, exactly 0.5 does not step.
        from_start, from_end: distance in cells to the two ends of the grid; within one cell of an end there is no
            neighbor on that side.
    """
    back = (fractions < 0.5) & (from_start > 1)
    ahead = (fractions > 0.5) & (from_end > 1)
    return ahead.to(fractions.dtype) - back.to(fractions.dtype)


def _place_order(steps: Tensor) -> Tensor:
    """(N, 2) steps along x, y -> (3, N) int64: own cell 0, left 1, up 2, right 3, down 4."""
    ahead = (steps > 0).long() * 2
    return torch.stack((torch.zeros_like(ahead[:, 0]), ahead[:, 0] + 1, ahead[:, 1] + 2))


def highest_rank_wins(rows: LevelTargets, num_cells: int) -> Tensor:
    """(R,) bool: the one positive of each cell that sets its objectness. Ranks differ within a cell, so no ties."""
    ranks = torch.where(rows.weights > 0, rows.ranks, -1)
    best = torch.full((num_cells,), -1, dtype=ranks.dtype, device=ranks.device)
    best.scatter_reduce_(0, rows.cells, ranks, reduce="amax")
    return (best[rows.cells] == ranks) & (ranks >= 0)
