"""Tiles of large images: the grid of windows, and the merging of their predictions.

A window is x1, y1, x2, y2 in whole pixels of the image. A side of a box is *cut* if it lies on a side of its window
that is not one of the image: the object goes on in the next tile. Two boxes of different tiles are compared where
both tiles see them, so that the part of an object in one tile matches the whole of it in another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from utils.ops.boxes import box_area
from utils.ops.masks import ObjectMasks

MergeMethod = Literal["nms", "wbf", "ios"]
MERGE_METHODS: tuple[MergeMethod, ...] = ("nms", "wbf", "ios")
CUT_MARGIN = 0.015  # of the window's side: how near to it the side of a cut box is
MIN_CUT_MARGIN = 2.0  # pixels
SEAM_MATCH = 0.6  # intersection over the smaller box where two tiles show the same object
COVERED_SHARE = 0.9  # of the part that one tile shows, by the box of the whole object in another
SIDES = (0, 1, 2, 3)  # columns x1, y1, x2, y2
EPS = 1e-7


def compute_windows(size_hw: tuple[int, int], tile_hw: tuple[int, int], overlap: float) -> np.ndarray:
    """Windows (n, 4) int64 that cover an image, row by row; all of the same size.

    The last window of a row or column ends at the border of the image, so it may overlap the one before by more.

    Args:
        tile_hw: size of the windows; a side longer than the image's is cut to it.
        overlap: share of a window that the next one repeats, in [0, 1).
    """
    (height, width), (tile_h, tile_w) = size_hw, (min(t, s) for t, s in zip(tile_hw, size_hw, strict=True))
    tops, lefts = _compute_starts(height, tile_h, overlap), _compute_starts(width, tile_w, overlap)
    return np.array([(x, y, x + tile_w, y + tile_h) for y in tops for x in lefts], np.int64)


def _compute_starts(length: int, tile: int, overlap: float) -> list[int]:
    step = max(1, tile - int(tile * overlap))
    starts = list(range(0, max(length - tile, 0), step))
    return [*starts, max(length - tile, 0)]


@dataclass(frozen=True)
class MergedBoxes:
    """Boxes of an image, merged from its tiles.

    Attributes:
        boxes: (m, 6) x1, y1, x2, y2 in pixels of the image, score, class; best first.
        members: for each box the rows that it was merged from, the leading one first.
        is_joined: (m,) bool, boxes that extend over several tiles.
    """

    boxes: np.ndarray
    members: list[np.ndarray]
    is_joined: np.ndarray

    def join_masks(self, masks: ObjectMasks) -> ObjectMasks:
        """The mask of each box: that of its leading row, or of all rows if the box extends over several tiles.

        Args:
            masks: of the rows, in pixels of the image.
        """
        windows, bitmaps = np.zeros((len(self.members), 4), np.int64), []
        for number, (rows, is_joined) in enumerate(zip(self.members, self.is_joined, strict=True)):
            windows[number], bitmap = _unite(masks, rows if is_joined else rows[:1])
            bitmaps.append(bitmap)
        return ObjectMasks(masks.size_hw, windows, bitmaps)


def _unite(masks: ObjectMasks, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Window (4,) and bitmap of the union of some masks."""
    parts = masks.windows_xyxy[rows]
    if len(rows) == 1:
        return parts[0], masks.bitmaps[rows[0]]
    x, y = parts[:, :2].min(axis=0)
    right, bottom = parts[:, 2:].max(axis=0)
    union = np.zeros((bottom - y, right - x), bool)
    for row, (x1, y1, x2, y2) in zip(rows, parts, strict=True):
        union[y1 - y : y2 - y, x1 - x : x2 - x] |= masks.bitmaps[row]
    return np.array([x, y, right, bottom]), union


def merge_boxes(
    boxes: np.ndarray,
    windows: np.ndarray,
    size_hw: tuple[int, int],
    *,
    method: MergeMethod = "nms",
    iou_thres: float = 0.45,
    agnostic: bool = False,
    max_det: int | None = None,
) -> MergedBoxes:
    """Merge the boxes that the tiles of an image gave.

    Boxes are taken by falling score. Each takes in the boxes of its class, from other tiles, that match it: with an IoU
    of at least `iou_thres`, or, if one of the two is cut, if they mostly overlap where both tiles see them. Cut sides
    move out to those of the boxes taken in, and further boxes are taken in until none matches: an object over several
    tiles becomes one box. If a tile shows the whole object, its box is taken instead.

    Args:
        boxes: (n, 6) x1, y1, x2, y2 in pixels of the image, score, class.
        windows: (n, 4) the window that each box was predicted in.
        size_hw: of the image.
        method: `nms` keeps the box of the highest score; `wbf` averages the boxes that are not cut, weighted by score
            (weighted boxes fusion, arXiv:1910.13302; the score stays the highest). `ios` is the greedy merging of SAHI
            (arXiv:2202.06934) instead: boxes match by intersection over the smaller one, also within a tile, and the
            enclosing box is taken.
        agnostic: match boxes of different classes, too.
        max_det: maximum number of merged boxes, the best ones; None for all.
    """
    order = np.argsort(-boxes[:, 4], kind="stable")
    groups = [
        group
        for rows in _split_by_class(boxes, order, agnostic)
        for group in islice(
            _merge_class(boxes[rows, :5].astype(np.float64), windows[rows], size_hw, rows, method, iou_thres), max_det
        )
    ]
    groups = sorted(groups, key=lambda group: (-group.score, group.members[0]))[:max_det]
    merged = boxes[[group.members[0] for group in groups]].reshape(-1, 6)
    for row, group in zip(merged, groups, strict=True):
        row[:4], row[4] = group.box, group.score
    return MergedBoxes(merged, [np.array(g.members) for g in groups], np.array([g.is_joined for g in groups], bool))


def _split_by_class(boxes: np.ndarray, order: np.ndarray, agnostic: bool) -> list[np.ndarray]:
    """Rows of each class in the order given; all rows together if agnostic."""
    if agnostic or not len(order):
        return [order]
    classes = boxes[order, 5]
    return [order[classes == c] for c in np.unique(classes)]


@dataclass
class _Group:
    """A merged box (4,), its score and its rows in the whole array."""

    box: np.ndarray
    score: float
    members: list[int]
    is_joined: bool


def _merge_class(
    boxes: np.ndarray,
    windows: np.ndarray,
    size_hw: tuple[int, int],
    rows: np.ndarray,
    method: MergeMethod,
    iou_thres: float,
) -> Iterator[_Group]:
    """Groups of boxes (n, 5) of one class by falling score; the boxes are sorted, `rows` are their original numbers."""
    views = _Views.build(boxes[:, :4], windows, size_hw)
    free = np.ones(len(boxes), bool)
    for leader in range(len(boxes)):
        if not free[leader]:
            continue
        free[leader] = False
        if method == "ios":
            members, box = _take_contained(leader, views, free, iou_thres)
            group = _Group(box, float(boxes[leader, 4]), rows[members].tolist(), is_joined=len(members) > 1)
        else:
            members, view = _take_views(leader, views, free, iou_thres)
            group = _build_group(view, views, boxes[:, 4], members, rows, average=method == "wbf")
        yield group


def _take_contained(leader: int, views: _Views, free: np.ndarray, threshold: float) -> tuple[list[int], np.ndarray]:
    """A box and all free ones that it contains or that contain it; and the box (4,) around those that still match."""
    box, members = views.box[leader], [leader]
    near = views.find_near(box)
    near = near[free[near]]
    for row in near[_compute_ios(box, views.box[near]) >= threshold]:
        free[row] = False
        other = views.box[row]
        if _compute_ios(box, other[None])[0] >= threshold:
            box = np.concatenate([np.minimum(box[:2], other[:2]), np.maximum(box[2:], other[2:])])
            members.append(int(row))
    return members, box


def _take_views(leader: int, views: _Views, free: np.ndarray, threshold: float) -> tuple[list[int], _View]:
    """A box and the free ones of other tiles that show the same object; and the view joined from them."""
    members, view = [leader], views.select(leader)
    while len(taken := _find_matches(view, members, views, free, threshold)):
        free[taken] = False
        members += taken.tolist()
        if not view.cut.any():
            break
        view = _extend(view, views, taken)
    return members, view


def _build_group(
    view: _View, views: _Views, scores: np.ndarray, members: list[int], rows: np.ndarray, *, average: bool
) -> _Group:
    """The group of some members, of which `view` is the joined box.

    If a window shows the whole object, the box is that of the smallest such window, which shows it in most detail; of
    several, that of the highest score or their average.
    """
    whole = [m for m in members if not views.cut[m].any() and _covers(views.box[m], views.box[members[0]])]
    leading, box = members[0], view.box
    if whole:
        area = box_area(views.window[whole])
        whole = [m for m, size in zip(whole, area, strict=True) if size == area.min()]
        leading = whole[0]
        box = _average(views.box[whole], scores[whole]) if average else views.box[leading]
    others = [m for m in members if m != leading]
    is_joined = not whole and len(members) > 1
    return _Group(box, float(scores[members[0]]), rows[[leading, *others]].tolist(), is_joined)


def _covers(box: np.ndarray, other: np.ndarray) -> bool:
    """Whether a box (4,) covers most of another one."""
    inter, _, area = _measure(box, other)
    return bool(inter >= COVERED_SHARE * area)


@dataclass(frozen=True)
class _View:
    """A box (4,), the window (4,) that shows it, and which of its sides (4,) are cut."""

    box: np.ndarray
    window: np.ndarray
    cut: np.ndarray
    margin: float


@dataclass(frozen=True)
class _Views:
    """n boxes (n, 4), their windows (n, 4), which sides (n, 4) are cut, and margins (n,) of the windows.

    Attributes:
        tiles: (t, 4) the different windows.
        tile: (n,) position of each box's window in `tiles`.
        rows: the boxes of each of `tiles`.
    """

    box: np.ndarray
    window: np.ndarray
    cut: np.ndarray
    margin: np.ndarray
    tiles: np.ndarray
    tile: np.ndarray
    rows: list[np.ndarray]

    @classmethod
    def build(cls, boxes: np.ndarray, windows: np.ndarray, size_hw: tuple[int, int]) -> _Views:
        window = windows.astype(np.float64)
        sides = (window[:, 2:] - window[:, :2]).min(axis=1, initial=np.inf)
        margin = np.maximum(sides * CUT_MARGIN, MIN_CUT_MARGIN)
        image = np.array([0, 0, size_hw[1], size_hw[0]])
        cut = (np.abs(boxes - window) <= margin[:, None]) & (windows != image)
        tiles, inverse = np.unique(window, axis=0, return_inverse=True)
        tile = inverse.reshape(-1)
        ends = np.cumsum(np.bincount(tile, minlength=len(tiles)))
        rows = np.split(np.argsort(tile, kind="stable"), ends[:-1])
        return cls(boxes, window, cut, margin, tiles, tile, rows)

    def find_near(self, region: np.ndarray) -> np.ndarray:
        """Rising rows of the boxes that meet a region (4,)."""
        tiles = np.flatnonzero(
            (self.tiles[:, :2] <= region[2:]).all(axis=1) & (self.tiles[:, 2:] >= region[:2]).all(axis=1)
        )
        rows = np.sort(np.concatenate([self.rows[tile] for tile in tiles]))
        boxes = self.box[rows]
        return rows[(boxes[:, :2] <= region[2:]).all(axis=1) & (boxes[:, 2:] >= region[:2]).all(axis=1)]

    def select(self, row: int) -> _View:
        return _View(self.box[row].copy(), self.window[row], self.cut[row], float(self.margin[row]))


def _find_matches(view: _View, members: Sequence[int], views: _Views, free: np.ndarray, threshold: float) -> np.ndarray:
    """Free rows that show the same object as `view`, which was joined from `members`.

    A tile shows an object once: of the rows that match at a seam, the best of each tile that has no member yet.
    """
    reach = view.margin + 1
    rows = views.find_near(view.box + np.array([-reach, -reach, reach, reach]))
    rows = rows[free[rows] & ~np.isin(views.tile[rows], views.tile[members])]
    is_cut = view.cut.any() | views.cut[rows].any(axis=1)
    whole, seam = rows[~is_cut], rows[is_cut]
    whole = whole[_compute_iou(view.box, views.box[whole]) >= threshold]
    a, b = _clip_to_shared_view(view, views, seam)
    is_match = _compute_ios(a, b) >= SEAM_MATCH
    seam, similarity = seam[is_match], _compute_iou(a, b)[is_match]
    if len(seam) > 1:
        order = np.argsort(-similarity, kind="stable")
        seam = seam[order[np.unique(views.tile[seam[order]], return_index=True)[1]]]
    return np.union1d(whole, seam)


def _clip_to_shared_view(view: _View, views: _Views, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides (k, 4) of the pairs of `view` and rows, as far as both windows show them, and a margin beyond.

    Cut sides are moved out by the margin, as the object goes on there; so tiles without overlap share a strip.
    """
    margin = np.maximum(views.margin[rows], view.margin)[:, None]
    outward = np.array([-1.0, -1.0, 1.0, 1.0]) * margin
    shared_near = np.maximum(view.window[:2], views.window[rows, :2]) - margin
    shared_far = np.minimum(view.window[2:], views.window[rows, 2:]) + margin
    first, second = (
        np.where(cut, window + outward, box)
        for cut, window, box in (
            (view.cut, view.window, view.box),
            (views.cut[rows], views.window[rows], views.box[rows]),
        )
    )

    def clip(boxes: np.ndarray) -> np.ndarray:
        return np.concatenate([np.maximum(boxes[:, :2], shared_near), np.minimum(boxes[:, 2:], shared_far)], axis=1)

    return clip(first), clip(second)


def _compute_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes (4,) or (k, 4) with boxes (k, 4), row by row; 0 for those without an area."""
    inter, area_a, area_b = _measure(a, b)
    return inter / (area_a + area_b - inter + EPS)


def _compute_ios(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over the smaller of both boxes, row by row."""
    inter, area_a, area_b = _measure(a, b)
    return inter / (np.minimum(area_a, area_b) + EPS)


def _measure(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inter = sides.clip(min=0).prod(axis=-1)
    empty = (a[..., 2:] <= a[..., :2]).any(axis=-1) | (b[..., 2:] <= b[..., :2]).any(axis=-1)
    return np.where(empty, 0.0, inter), box_area(a), box_area(b)


def _extend(view: _View, views: _Views, taken: np.ndarray) -> _View:
    """The view after taking in rows: its cut sides moved out to theirs."""
    boxes = np.concatenate([view.box[None], views.box[taken]])
    cuts = np.concatenate([view.cut[None], views.cut[taken]])
    windows = np.concatenate([view.window[None], views.window[taken]])
    outermost = [boxes[:, 0].argmin(), boxes[:, 1].argmin(), boxes[:, 2].argmax(), boxes[:, 3].argmax()]
    box = np.where(view.cut, boxes[outermost, SIDES], view.box)
    cut = np.where(view.cut, cuts[outermost, SIDES], view.cut)
    window = np.concatenate([windows[:, :2].min(axis=0), windows[:, 2:].max(axis=0)])
    return _View(box, window, cut, view.margin)


def _average(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Mean (4,) of boxes (n, 4), weighted by score."""
    weights = scores / scores.sum() if scores.sum() > 0 else np.full(len(scores), 1 / len(scores))
    mean: np.ndarray = weights @ boxes
    return mean
