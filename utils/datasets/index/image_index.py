"""Image index: the images and labels of a split as flat arrays with offsets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from utils.core.types import Polygons
from utils.datasets.index.shared_arrays import PathTable, SharedArrays


def compute_offsets(counts: Iterable[int]) -> np.ndarray:
    """(N+1,) int64 start of each group in a flat array, from the N group sizes; the last entry is the total."""
    sizes = np.fromiter(counts, dtype=np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def expand_groups(offsets: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Flat positions of all members of the groups, in the order of the groups. (G,) -> (members,) int64."""
    counts = offsets[groups + 1] - offsets[groups]
    new_starts = np.cumsum(counts) - counts
    return np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(offsets[groups] - new_starts, counts)


@dataclass(frozen=True)
class PolygonTable(SharedArrays):
    """Polygons of M objects in three arrays.

    Attributes:
        points: (P, 2) float32 x, y over the image's width and height.
        ring_offsets: (R+1,) int64, ring r has points[ring_offsets[r]:ring_offsets[r + 1]].
        object_offsets: (M+1,) int64, object m has the rings object_offsets[m]:object_offsets[m + 1].
    """

    points: np.ndarray
    ring_offsets: np.ndarray
    object_offsets: np.ndarray

    @classmethod
    def from_lists(cls, polygons: Sequence[Sequence[np.ndarray]]) -> PolygonTable:
        """Flatten one list of (K, 2) rings per object."""
        rings = [np.asarray(ring, np.float32).reshape(-1, 2) for rings in polygons for ring in rings]
        points = np.concatenate(rings) if rings else np.zeros((0, 2), np.float32)
        return cls(
            points, compute_offsets(len(ring) for ring in rings), compute_offsets(len(rings) for rings in polygons)
        )

    def __len__(self) -> int:
        return len(self.object_offsets) - 1

    def rings(self, m: int) -> list[np.ndarray]:
        """Rings of object m, each (K, 2): views, not copies."""
        first, last = self.object_offsets[m], self.object_offsets[m + 1]
        starts = self.ring_offsets[first : last + 1]
        return [self.points[a:b] for a, b in pairwise(starts)]

    def subset(self, objects: np.ndarray) -> PolygonTable:
        """The given objects only, in the given order."""
        rings = expand_groups(self.object_offsets, objects)
        points = expand_groups(self.ring_offsets, rings)
        return PolygonTable(
            self.points[points],
            compute_offsets(np.diff(self.ring_offsets)[rings]),
            compute_offsets(np.diff(self.object_offsets)[objects]),
        )


@dataclass(frozen=True)
class ImageIndex(SharedArrays):
    """Images of one split with their verified labels.

    It holds arrays rather than one object per image, so that worker processes share its memory (see `SharedArrays`).

    Attributes:
        paths: N image files, a list or a `PathTable`.
        sizes_hw: (N, 2) int32 height and width in pixels, after EXIF rotation.
        offsets: (N+1,) int64, image i has label rows offsets[i]:offsets[i + 1].
        classes: (M,) int32 class of each row.
        boxes_xywhn: (M, 4) float32 center and size over width and height, inside the image.
        names: class names.
        polygons: of all M objects (the box's four corners where a row is a box), or None if all rows are boxes.
        semantic_masks: N semantic mask files, or None.
        id_map: (256,) uint8 class of each value in these files, 255 for none; None if the values are the classes.
        pixels: (N, num_classes) int64 pixels of each class in each semantic mask, or None.
        windows: (N, 4) int32 x1, y1, x2, y2, the part of each file that is the image; None for whole files.
    """

    paths: Sequence[str]
    sizes_hw: np.ndarray
    offsets: np.ndarray
    classes: np.ndarray
    boxes_xywhn: np.ndarray
    names: dict[int, str] = field(default_factory=dict)
    polygons: PolygonTable | None = None
    semantic_masks: Sequence[str] | None = None
    id_map: np.ndarray | None = None
    pixels: np.ndarray | None = None
    windows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_objects(self) -> int:
        """M, label rows of all images."""
        return len(self.classes)

    def labels(self, i: int) -> tuple[np.ndarray, np.ndarray, Polygons | None]:
        """Classes (n,), boxes_xywhn (n, 4) and normalized polygons of image i. Views: copy before writing."""
        first, last = int(self.offsets[i]), int(self.offsets[i + 1])
        polygons = None if self.polygons is None else [self.polygons.rings(m) for m in range(first, last)]
        return self.classes[first:last], self.boxes_xywhn[first:last], polygons

    def subset(self, images: Sequence[int] | np.ndarray) -> ImageIndex:
        """The given images only, in the given order; an image may occur several times."""
        positions = np.asarray(images, np.int64).reshape(-1)
        rows = expand_groups(self.offsets, positions)
        return replace(
            self,
            paths=_select(self.paths, positions),
            sizes_hw=self.sizes_hw[positions],
            offsets=compute_offsets(np.diff(self.offsets)[positions]),
            classes=self.classes[rows],
            boxes_xywhn=self.boxes_xywhn[rows],
            polygons=None if self.polygons is None else self.polygons.subset(rows),
            semantic_masks=None if self.semantic_masks is None else _select(self.semantic_masks, positions),
            pixels=None if self.pixels is None else self.pixels[positions],
            windows=None if self.windows is None else self.windows[positions],
        )


def _select(paths: Sequence[str], images: np.ndarray) -> Sequence[str]:
    return paths.take(images) if isinstance(paths, PathTable) else [paths[i] for i in images]
