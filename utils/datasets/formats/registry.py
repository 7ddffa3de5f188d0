"""Registry of annotation formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.datasets.formats.base import ImageCopier, Splits
from utils.datasets.formats.cityscapes import read_cityscapes
from utils.datasets.formats.coco import read_coco, write_coco
from utils.datasets.formats.labelme import read_labelme, write_labelme
from utils.datasets.formats.supervisely import read_supervisely, write_supervisely
from utils.datasets.formats.voc import read_voc, write_voc
from utils.datasets.formats.yolo import read_yolo, write_yolo


@dataclass(frozen=True)
class Format:
    """Reader and writer of a format.

    Attributes:
        read: source, class names (empty: those of the set), image folder (None: that of the set) -> splits.
        write: writes splits into an empty folder and returns the path to open; None if not supported.
        polygons: whether the format can store polygons.
    """

    read: Callable[[Path, Sequence[str], Path | None], Splits]
    write: Callable[[Splits, Path, ImageCopier], Path] | None
    polygons: bool = True


FORMATS = {
    "yolo": Format(read_yolo, write_yolo),
    "coco": Format(read_coco, write_coco),
    "voc": Format(read_voc, write_voc, polygons=False),
    "labelme": Format(read_labelme, write_labelme),
    "supervisely": Format(read_supervisely, write_supervisely),
    "cityscapes": Format(read_cityscapes, None),
}
