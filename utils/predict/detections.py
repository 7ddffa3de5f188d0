"""`Detections`: what the auto-shaping model found in one or several images."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from utils.backends.packages import import_runtime
from utils.backends.pytorch import names_by_number
from utils.core.files import increment_path, make_run_folder
from utils.core.logging import LOGGER
from utils.datasets.sources.frames import SourceFrame
from utils.imaging.semantic_classes import SemanticClasses
from utils.metrics.coco import predictions_to_coco
from utils.ops.boxes import xyxy_to_xywh
from utils.ops.masks import ObjectMasks
from utils.predict.results import ClassResult, DrawStyle, Result
from utils.predict.writers import CropWriter, MediaWriter

CORNERS = ("xmin", "ymin", "xmax", "ymax")
CENTERS = ("xcenter", "ycenter", "width", "height")
REST = ("confidence", "class", "name")


class Detections:
    """The objects found in images; its attributes are lists with an entry for each image.

    Args:
        ims: (H, W, C) uint8, RGB where C = 3.
        pred: (n, 6) x1, y1, x2, y2 in pixels of the image, score, class; best first.
        files: names that results are saved under.
        times: seconds of preparing, network and NMS for all images.
        names: class names by number.
        shape: (B, C, H, W) of the network input.
        masks: of the objects of each image, from a segmenter: `masks[0].polygons()` gives rings in pixels,
            `masks[0].dense()` (n, H, W) bool.
        semantic: (H, W) uint8 class of each pixel of each image, from a network that gives semantic masks.
        semantic_classes: names and colors of these.
        probs: (num_classes,) probabilities of each image, from a classifier; its `pred` is a box around the image
            with the most likely class.

    Attributes:
        xyxy, xywh: (n, 6) corners, or center and size, in pixels; score; class. xyxyn, xywhn: over the image's sides.
        n: number of images. t: milliseconds per image of preparing, network and NMS. s: `shape`.
    """

    xyxy: list[Any]

    def __init__(
        self,
        ims: list[np.ndarray],
        pred: list[Tensor],
        files: Sequence[str],
        times: Sequence[float] = (0.0, 0.0, 0.0),
        names: Mapping[int, str] | Sequence[str] | None = None,
        shape: Sequence[int] | None = None,
        masks: Sequence[ObjectMasks] | None = None,
        *,
        semantic: Sequence[np.ndarray] | None = None,
        semantic_classes: SemanticClasses | None = None,
        probs: Sequence[Tensor] | None = None,
    ) -> None:
        self.ims, self.pred, self.files = ims, pred, list(files)
        self.times, self.names, self.s = tuple(times), names_by_number(names or {}), tuple(shape or ())
        self.n, self.masks = len(ims), None if masks is None else list(masks)
        self.semantic, self.semantic_classes = None if semantic is None else list(semantic), semantic_classes
        self.probs = None if probs is None else list(probs)
        self.t = tuple(1000 * seconds / max(self.n, 1) for seconds in self.times)
        self.xyxy = pred

    @cached_property
    def xywh(self) -> list[Any]:
        """(n, 6) center and size in pixels, score, class."""
        return [torch.cat((xyxy_to_xywh(rows[:, :4]), rows[:, 4:]), dim=1) for rows in self.pred]

    @cached_property
    def xyxyn(self) -> list[Any]:
        """(n, 6) corners over width and height, score, class."""
        return self._over_sides(self.pred)

    @cached_property
    def xywhn(self) -> list[Any]:
        """(n, 6) center and size over width and height, score, class."""
        return self._over_sides(self.xywh)

    @cached_property
    def results(self) -> list[Result]:
        """The same as the engine's results, which draw, cut out and count; their images are BGR and without boxes."""
        frames = [im[..., ::-1] if im.shape[2] == 3 else im for im in self.ims]
        sources = [SourceFrame(f, np.ascontiguousarray(im), f) for f, im in zip(self.files, frames, strict=True)]
        boxes = [rows.cpu().numpy() for rows in self.pred]
        if self.probs is not None:
            parts = zip(sources, boxes, self.probs, strict=True)
            return [ClassResult(im, rows, self.names, probs=probs.cpu().numpy()) for im, rows, probs in parts]
        each = zip(sources, boxes, self._masks_each, self._maps_each, strict=True)
        return [
            Result(im, rows, self.names, masks=masks, semantic_mask=semantic_mask, semantic=self.semantic_classes)
            for im, rows, masks, semantic_mask in each
        ]

    @property
    def _masks_each(self) -> Sequence[ObjectMasks | None]:
        return self.masks or [None] * self.n

    @property
    def _maps_each(self) -> Sequence[np.ndarray | None]:
        nothing: list[np.ndarray | None] = [None] * self.n
        return self.semantic or nothing

    @property
    def _probs_each(self) -> Sequence[Tensor | None]:
        return self.probs or [None] * self.n

    def __len__(self) -> int:
        return self.n

    def __str__(self) -> str:
        places = [f"image {number}/{self.n}: {im.shape[0]}x{im.shape[1]}" for number, im in enumerate(self.ims, 1)]
        lines = [f"{place} {result.summary()}" for place, result in zip(places, self.results, strict=True)]
        prepare, network, post = self.t
        speed = f"{prepare:.1f} ms preparing, {network:.1f} ms network, {post:.1f} ms post-processing per image"
        return "\n".join([*lines, f"{speed}; input {self.s}"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}\n{self}"

    # -- images ------------------------------------------------------------------------------------------------------

    def print(self) -> None:
        """Print what was found and how long it took."""
        print(self)

    def render(self, labels: bool = True) -> list[np.ndarray]:
        """The images with boxes drawn, RGB, which take the place of `ims`; what the caller gave stays as it is."""
        drawings = [result.drawing(DrawStyle(hide_labels=not labels)) for result in self.results]
        self.ims = [np.ascontiguousarray(drawing[..., ::-1]) for drawing in drawings]
        return self.ims

    def show(self, labels: bool = True) -> None:
        """Show the images with boxes: in the notebook, or in the system's viewer."""
        for drawing, file in zip(self._drawn(labels), self.files, strict=True):
            image = Image.fromarray(drawing)
            shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
            if type(shell).__name__ == "ZMQInteractiveShell":
                sys.modules["IPython"].display.display(image)
            else:
                image.show(title=file)

    def save(self, labels: bool = True, save_dir: str | Path = "runs/detect/exp", exist_ok: bool = False) -> Path:
        """Save the images with boxes under their `files` names; the folder (numbered if it exists and may not)."""
        folder = make_run_folder(increment_path(save_dir, exist_ok))
        writer = MediaWriter(folder, DrawStyle(hide_labels=not labels))
        for result in self.results:
            writer.write(result)
        LOGGER.info(f"{self.n} images saved to {folder}")
        return folder

    def crop(
        self, save: bool = True, save_dir: str | Path = "runs/detect/exp", exist_ok: bool = False
    ) -> list[dict[str, Any]]:
        """Crops of all objects with a margin, saved to `<save_dir>/crops/<class>/<file>` if `save`.

        Returns:
            For each object `box` (x1, y1, x2, y2), `conf`, `cls`, `label` (name and score) and `im` (BGR).
        """
        if save:
            folder = make_run_folder(increment_path(save_dir, exist_ok))
            writer = CropWriter(folder / "crops")
            for result in self.results:
                writer.write(result)
            LOGGER.info(f"{sum(map(len, self.pred))} crops saved to {folder / 'crops'}")
        return [
            {"box": list(row[:4]), "conf": row[4], "cls": row[5], "label": f"{label} {row[4]:.2f}", "im": cut.copy()}
            for rows, result in zip(self.pred, self.results, strict=True)
            for row, (label, cut) in zip(rows, result.crops(), strict=True)
        ]

    # -- tables and other formats --------------------------------------------------------------------------------------

    def pandas(self) -> Detections:
        """A copy whose `xyxy`, `xyxyn`, `xywh` and `xywhn` are pandas tables."""
        package = import_runtime("pandas", needed_for="Tables of results")
        tables = copy.copy(self)
        for form, columns in (("xyxy", CORNERS), ("xyxyn", CORNERS), ("xywh", CENTERS), ("xywhn", CENTERS)):
            rows = [self._rows(boxes) for boxes in getattr(self, form)]
            setattr(tables, form, [package.DataFrame(one, columns=[*columns, *REST]) for one in rows])
        return tables

    def tolist(self) -> list[Detections]:
        """One object per image."""
        times = [seconds / max(self.n, 1) for seconds in self.times]
        found = (self.ims, self.pred, self.files, self._masks_each, self._maps_each, self._probs_each)
        return [
            Detections(
                [im],
                [rows],
                [file],
                times,
                self.names,
                self.s,
                None if masks is None else [masks],
                semantic=None if semantic_mask is None else [semantic_mask],
                semantic_classes=self.semantic_classes,
                probs=None if probs is None else [probs],
            )
            for im, rows, file, masks, semantic_mask, probs in zip(*found, strict=True)
        ]

    def to_json(self) -> str:
        """JSON text: a record per object with the columns of the `xyxy` table, its image's position and file."""
        images = enumerate(zip(self.files, self.records(), strict=True))
        return json.dumps([{"image": i, "file": file, **record} for i, (file, found) in images for record in found])

    def records(self) -> list[list[dict[str, Any]]]:
        """For each image the rows of its `xyxy` table as plain mappings."""
        columns = (*CORNERS, *REST)
        return [[dict(zip(columns, row, strict=True)) for row in self._rows(boxes)] for boxes in self.pred]

    def to_coco(self) -> list[dict[str, Any]]:
        """The items of a COCO results file: image_id, category_id, bbox (left, top, width, height), score, and the
        mask's run-length code as segmentation."""
        items: list[dict[str, Any]] = []
        for file, rows, masks in zip(self.files, self.pred, self._masks_each, strict=True):
            found = predictions_to_coco(rows, file)
            codes = [{}] * len(found) if masks is None else [{"segmentation": code} for code in masks.rles()]
            items += [item | code for item, code in zip(found, codes, strict=True)]
        return items

    def to_supervision(self) -> list[Any]:
        """A `supervision.Detections` per image, with `class_name` in its data; InputError without the package."""
        package = import_runtime("supervision", needed_for="supervision.Detections")
        return [
            package.Detections(
                xyxy=result.boxes[:, :4].copy(),
                confidence=result.boxes[:, 4].copy(),
                class_id=result.boxes[:, 5].astype(int),
                mask=None if result.masks is None else result.masks.dense(),
                data={"class_name": np.array(result.labels, dtype=str)},
            )
            for result in self.results
        ]

    def _over_sides(self, boxes: list[Tensor]) -> list[Tensor]:
        """Rows with the first four columns over width and height."""
        scaled = []
        for rows, im in zip(boxes, self.ims, strict=True):
            height, width = im.shape[:2]
            scaled.append(rows / rows.new_tensor([width, height, width, height, 1, 1]))
        return scaled

    def _rows(self, boxes: Tensor) -> list[list[Any]]:
        """Plain values of each object: four numbers, score, class, name."""
        return [[*row[:5], int(row[5]), self.names.get(int(row[5]), str(int(row[5])))] for row in boxes.tolist()]

    def _drawn(self, labels: bool) -> list[np.ndarray]:
        """RGB images with boxes."""
        style = DrawStyle(hide_labels=not labels)
        return [np.ascontiguousarray(result.drawing(style)[..., ::-1]) for result in self.results]


def output_names(names: Sequence[str]) -> list[str]:
    """Names to save images under: `bus.jpg` for `folder/bus.png`; where two are alike, the later get a number."""
    taken: dict[str, None] = {}
    for name in names:
        stem, number = Path(name).stem, 1
        while (wanted := f"{stem}{'' if number == 1 else f'_{number}'}.jpg") in taken:
            number += 1
        taken[wanted] = None
    return list(taken)
