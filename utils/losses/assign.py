"""Target assignment: which anchors and cells of a detection head predict which ground-truth boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class LevelTargets:
    """The positives of one level: R rows, each assigns a target to an anchor of a cell.

    On a GPU, R depends only on the number of targets, which avoids a device synchronization; rows that are not
    positive have weight 0. On the CPU these are dropped.

    Attributes:
        cells: (R,) flat index into the (B, na, H, W) cells of the level.
        targets: (R,) row of the target tensor.
        priorities: (R,) int64; among rows of the same cell, the one with the highest priority sets its objectness.
            Neighbor cells have priority over the cell of the center (in rising order left, up, right, down), then the
            higher target index.
        classes: (R,) int64.
        boxes_xywh: (R, 4) in cells; the center is relative to the top-left corner of the row's cell.
        anchors: (R, 2) width and height in cells.
        weights: (R,) 1 for a positive, 0 for padding.
    """

    cells: Tensor
    targets: Tensor
    priorities: Tensor
    classes: Tensor
    boxes_xywh: Tensor
    anchors: Tensor
    weights: Tensor

    def drop_padding(self) -> LevelTargets:
        """Only the rows of weight 1. Synchronizes with the device."""
        return self.select(self.weights.nonzero()[:, 0])

    def select(self, rows: Tensor) -> LevelTargets:
        """The rows of these indices, in this order."""
        return LevelTargets(*(getattr(self, field.name)[rows] for field in fields(self)))


def assign_targets(
    targets: Tensor, anchors: Tensor, grids_hw: Sequence[tuple[int, int]], *, max_ratio: float
) -> list[LevelTargets]:
    """Assign targets to the anchors and cells of every level.

    An anchor matches a target if no side differs by a factor of `max_ratio` or more. Each target is assigned to the
    cell of its center and to the nearest neighbor cells along x and y, if the grid has them (see `_nearest_neighbor`
    for ties).

    Args:
        targets: (N, 6) image index, class, x, y, w, h normalized to the network input.
        anchors: (nl, na, 2) width and height in cells of their level.
        grids_hw: rows and columns of each grid.
        max_ratio: `anchor_t` of the hyperparameters.
    """
    levels = [
        _assign_level(targets, level_anchors, grid_hw, max_ratio)
        for level_anchors, grid_hw in zip(anchors, grids_hw, strict=True)
    ]
    return [level.drop_padding() for level in levels] if targets.device.type == "cpu" else levels


def _assign_level(targets: Tensor, anchors: Tensor, grid_hw: tuple[int, int], max_ratio: float) -> LevelTargets:
    """All (cell, anchor, target) triples of one level, R = 3 na N; cells: center, neighbor along x, along y."""
    num_anchors, num_targets = len(anchors), len(targets)
    shape = (3, num_anchors, num_targets)
    size_wh = torch.stack([targets.new_full((), side) for side in reversed(grid_hw)])  # new_tensor would synchronize
    centers, sizes = targets[:, 2:4] * size_wh, targets[:, 4:6] * size_wh  # both (N, 2), in cells

    ratios = sizes / anchors[:, None]  # (na, N, 2)
    matches = torch.maximum(ratios, 1 / ratios).amax(dim=2) < max_ratio  # (na, N)
    cells_xy = centers.floor()
    steps = _nearest_neighbor(centers - cells_xy, centers, size_wh - centers)  # (N, 2) in {-1, 0, 1}
    exists = torch.cat((torch.ones_like(steps[:, :1]), steps.abs()), dim=1).T  # (3, N), 1 or 0
    moves = torch.cat((torch.zeros_like(steps)[None], torch.diag_embed(steps).transpose(0, 1)))  # (3, N, 2)
    corners = torch.minimum((cells_xy + moves).clamp(min=0), size_wh - 1)  # (3, N, 2)

    boxes = torch.cat((centers - corners, sizes.expand(3, -1, -1)), dim=2)  # (3, N, 4)
    images, columns, rows = targets[:, 0].long(), corners[..., 0].long(), corners[..., 1].long()
    indices = torch.arange(num_targets, device=targets.device)
    planes = images * num_anchors + torch.arange(num_anchors, device=targets.device)[:, None]  # (na, N)
    cells = planes * (grid_hw[0] * grid_hw[1]) + (rows * grid_hw[1] + columns)[:, None]  # (3, na, N)
    return LevelTargets(
        cells=cells.flatten(),
        targets=indices.expand(shape).flatten(),
        priorities=(_cell_order(steps) * num_targets + indices)[:, None].expand(shape).flatten(),
        classes=targets[:, 1].long().expand(shape).flatten(),
        boxes_xywh=boxes[:, None].expand(*shape, 4).reshape(-1, 4),
        anchors=anchors[:, None].expand(*shape, 2).reshape(-1, 2),
        weights=(matches * exists[:, None]).flatten(),
    )


def _nearest_neighbor(fractions: Tensor, from_start: Tensor, from_end: Tensor) -> Tensor:
    """Step to the nearest neighbor cell along each axis: -1, 1, or 0 for none.

    Args:
        fractions: position inside the cell, [0, 1); 0 steps back, 0.5 does not step.
        from_start, from_end: distance in cells to the ends of the grid; within one cell of an end there is no
            neighbor on that side.
    """
    back = (fractions < 0.5) & (from_start > 1)
    ahead = (fractions > 0.5) & (from_end > 1)
    return ahead.to(fractions.dtype) - back.to(fractions.dtype)


def _cell_order(steps: Tensor) -> Tensor:
    """Steps (N, 2) along x, y -> order (3, N) int64: center 0, left 1, up 2, right 3, down 4."""
    ahead = (steps > 0).long() * 2
    return torch.stack((torch.zeros_like(ahead[:, 0]), ahead[:, 0] + 1, ahead[:, 1] + 2))


def select_highest_priority(rows: LevelTargets, num_cells: int) -> Tensor:
    """Mask (R,) bool of the positive that sets the objectness of each cell; priorities in a cell differ."""
    priorities = torch.where(rows.weights > 0, rows.priorities, -1)
    best = torch.full((num_cells,), -1, dtype=priorities.dtype, device=priorities.device)
    best.scatter_reduce_(0, rows.cells, priorities, reduce="amax")
    return (best[rows.cells] == priorities) & (priorities >= 0)
