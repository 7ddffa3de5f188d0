"""Boxes of very large annotation files in COCO's form, as flat arrays: about 100 bytes a box at the most."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import InputError
from utils.datasets.index.json_stream import stream_lists
from utils.datasets.index.label_files import pixel_rows
from utils.datasets.index.verify import LabelRows


@dataclass
class BoxTable:
    """What a file says, in its order.

    Attributes:
        file: where it is from.
        names: `file_name` (or `name`) of each image.
        sequences: number of each image's film (`sid`), -1 where it has none.
        folders: the films' folders (`seq_dirs`).
        sizes_wh: width and height of each image in turn.
        categories: their ids.
        box_image_ids, annotation_ids, category_ids: of each box.
        boxes_ltwh: left, top, width and height of each box in turn.
        crowds, malformed: annotations passed over.
    """

    file: Path
    names: list[str] = field(default_factory=list)
    sequences: array[int] = field(default_factory=lambda: array("q"))
    folders: list[str] = field(default_factory=list)
    sizes_wh: array[float] = field(default_factory=lambda: array("d"))
    categories: list[int] = field(default_factory=list)
    image_ids: array[int] = field(default_factory=lambda: array("q"))
    box_image_ids: array[int] = field(default_factory=lambda: array("q"))
    annotation_ids: array[int] = field(default_factory=lambda: array("q"))
    category_ids: array[int] = field(default_factory=lambda: array("q"))
    boxes_ltwh: array[float] = field(default_factory=lambda: array("f"))
    crowds: int = 0
    malformed: int = 0

    def images(self, num_classes: int) -> Iterator[tuple[int, LabelRows]]:
        """Number and rows, not yet checked, of every image; classes go by the order of the category ids.

        Raises:
            InputError: there are not as many categories as classes, or a box of no category.
        """
        ids = np.unique(np.array(self.categories, np.int64))
        if len(ids) != num_classes:
            raise InputError(f"{self.file}: {len(ids)} categories, but the data YAML names {num_classes} classes")
        category_ids = np.frombuffer(self.category_ids, np.int64) if self.category_ids else np.zeros(0, np.int64)
        classes = np.minimum(np.searchsorted(ids, category_ids), num_classes - 1)
        if (strange := category_ids[ids[classes] != category_ids]).size:
            raise InputError(f"{self.file}: category {strange[0]} of an annotation is not among the categories")
        boxes = np.array(self.boxes_ltwh, np.float32).reshape(-1, 4)
        owners = np.array(self.box_image_ids, np.int64)
        order = np.argsort(owners, kind="stable")
        sorted_owners = owners[order]
        for i, image in enumerate(self.image_ids):
            first, last = np.searchsorted(sorted_owners, (image, image + 1))
            chosen = order[first:last]
            left_top, sides = boxes[chosen, :2], boxes[chosen, 2:]
            width, height = self.sizes_wh[2 * i : 2 * i + 2]
            places = [f"{self.file}: annotation {self.annotation_ids[k]}" for k in chosen]
            corners = np.concatenate([left_top, left_top + sides], axis=1)
            yield i, pixel_rows(classes[chosen], corners, (int(height), int(width)), places)


def load_boxes(file: Path) -> BoxTable:
    """Read images and boxes; crowd regions and what is no box are counted and passed over.

    Raises:
        InputError: the file cannot be read, or is no annotation file in COCO's form.
    """
    table = BoxTable(file)
    for key, item in stream_lists(file):
        try:
            if key == "images":
                _add_image(table, item)
            elif key == "annotations":
                _add_box(table, item)
            elif key == "categories":
                table.categories.append(int(item["id"]))
            elif key == "seq_dirs":
                table.folders.append(str(item))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{file}: {str(item)[:60]!r} in {key!r} is not COCO's ({error})") from error
    if not table.names:
        raise InputError(f"{file}: no images in the list 'images'; expected COCO annotations")
    return table


def _add_image(table: BoxTable, image: dict[str, Any]) -> None:
    width, height = float(image["width"]), float(image["height"])
    if min(width, height) < 1:
        raise ValueError("no usable size")
    table.image_ids.append(int(image["id"]))
    table.names.append(str(image.get("file_name") or image["name"]))
    table.sequences.append(int(image.get("sid", -1)))
    table.sizes_wh.extend((width, height))


def _add_box(table: BoxTable, annotation: dict[str, Any]) -> None:
    if annotation.get("iscrowd"):
        table.crowds += 1
        return
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        table.malformed += 1
        return
    values = [float(value) for value in box]
    image, category = int(annotation["image_id"]), int(annotation["category_id"])
    table.boxes_ltwh.extend(values)
    table.box_image_ids.append(image)
    table.category_ids.append(category)
    table.annotation_ids.append(int(annotation.get("id", -1)))
