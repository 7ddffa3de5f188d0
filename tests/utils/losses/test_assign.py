from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from utils.losses.assign import LevelTargets, _assign_level, assign_targets, select_highest_priority

ANCHOR = torch.tensor([[[2.0, 2.0]]])  # one level, one anchor, in cells


def assign(*targets: list[float], anchors: Tensor = ANCHOR, grid_hw: tuple[int, int] = (4, 8)) -> LevelTargets:
    (level,) = assign_targets(torch.tensor(targets).reshape(-1, 6), anchors, [grid_hw], max_ratio=4.0)
    return level


def target(x: float, y: float, w: float = 2, h: float = 2, image: int = 0) -> list[float]:
    """A target of class 1 given in cells of the 4x8 grid."""
    return [image, 1, x / 8, y / 4, w / 8, h / 4]


@pytest.mark.parametrize(
    ("x", "y", "cells"),
    [
        pytest.param(2.25, 1.75, [(1, 2), (1, 1), (2, 2)], id="left-and-down"),
        pytest.param(2.75, 1.25, [(1, 2), (1, 3), (0, 2)], id="right-and-up"),
        pytest.param(0.25, 0.25, [(0, 0)], id="first-cell-has-no-left-nor-upper-neighbor"),
        pytest.param(7.75, 3.75, [(3, 7)], id="last-cell-has-no-right-nor-lower-neighbor"),
        pytest.param(2.5, 1.5, [(1, 2)], id="middle-of-a-cell"),
        pytest.param(3.0, 2.0, [(2, 3), (2, 2), (1, 3)], id="on-a-border-steps-back"),
        pytest.param(8.0, 4.0, [(3, 7), (3, 7), (3, 7)], id="on-the-last-border-is-clamped"),
    ],
)
def test_assigned_cells(x: float, y: float, cells: list[tuple[int, int]]) -> None:
    level = assign(target(x, y))
    assert [(c // 8, c % 8) for c in level.cells.tolist()] == cells
    rows, columns = torch.tensor(cells).T
    expected = torch.stack((x - columns, y - rows, torch.full_like(rows, 2), torch.full_like(rows, 2)), dim=1)
    torch.testing.assert_close(level.boxes_xywh, expected.float())


@pytest.mark.parametrize(("w", "h", "matches"), [(7.9, 2, True), (8.0, 2, False), (2, 0.51, True), (2, 0.5, False)])
def test_anchor_matches_below_the_ratio(w: float, h: float, matches: bool) -> None:
    assert bool(len(assign(target(2.5, 1.5, w, h)).cells)) is matches


def test_image_and_anchor_select_the_plane() -> None:
    anchors = torch.tensor([[[9.0, 9.0], [2.0, 2.0]]])
    level = assign(target(2.5, 1.5, image=3), anchors=anchors)
    assert level.cells.tolist() == [(3 * 2 + 1) * 32 + 1 * 8 + 2]
    assert level.anchors.tolist() == [[2, 2]] and level.classes.tolist() == [1]


def test_last_target_wins_and_neighbors_have_priority_over_centers() -> None:
    level = assign(target(2.4, 1.5), target(2.3, 1.5), target(1.6, 1.5))
    is_selected = select_highest_priority(level, 32)
    winners = {
        (c % 8): t
        for c, t, w in zip(level.cells.tolist(), level.targets.tolist(), is_selected.tolist(), strict=True)
        if w
    }
    assert winners == {2: 2, 1: 1}  # cell 2: right neighbor of target 2; cell 1: left neighbor of the later of 0 and 1
    assert is_selected.sum() == 2


def test_rows_with_and_without_padding_agree() -> None:
    rng = torch.Generator().manual_seed(0)
    targets = torch.rand(30, 6, generator=rng)
    targets[:, 0] = torch.arange(30) % 2
    padded = _assign_level(targets, ANCHOR[0], (4, 8), 4.0)
    assert len(padded.cells) == 3 * 30 and set(padded.weights.tolist()) == {0.0, 1.0}
    assert int(padded.cells.min()) >= 0 and int(padded.cells.max()) < 2 * 32
    dropped = padded.drop_padding()
    rows = padded.weights.bool()
    assert torch.equal(select_highest_priority(padded, 64)[rows], select_highest_priority(dropped, 64))
    assert not select_highest_priority(padded, 64)[~rows].any()


def test_no_targets() -> None:
    level = assign()
    assert level.cells.shape == (0,) and level.boxes_xywh.shape == (0, 4)
    assert select_highest_priority(level, 32).shape == (0,)


def test_against_the_original(shared: Path) -> None:
    golden = {k: torch.tensor(v) for k, v in np.load(shared / "reference/golden/loss_default.npz").items()}
    grids = [(16, 16), (8, 8), (4, 4)]
    levels = assign_targets(golden["targets"], golden["anchors"], grids, max_ratio=4.0)
    for i, (level, (height, width)) in enumerate(zip(levels, grids, strict=True)):
        planes = golden[f"b{i}"] * 3 + golden[f"a{i}"]
        cells = (planes * height + golden[f"gj{i}"]) * width + golden[f"gi{i}"]
        original = [cells[:, None], golden[f"tcls{i}"][:, None], golden[f"tbox{i}"], golden[f"anch{i}"]]
        ours = [level.cells[:, None], level.classes[:, None], level.boxes_xywh, level.anchors]
        expected, assigned = (np.array(sorted(torch.cat(part, dim=1).tolist())) for part in (original, ours))
        np.testing.assert_allclose(assigned, expected, atol=1e-6)
