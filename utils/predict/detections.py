"""`Detections`: results of the hub model for one or several images."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from utils.backends.pytorch import to_names_dict
from utils.core.files import make_run_folder
from utils.core.logging import LOGGER
from utils.core.packages import import_runtime
from utils.core.timing import Profile
from utils.core.types import Prediction
from utils.datasets.sources.frames import SourceFrame
from utils.imaging.semantic_classes import SemanticClasses
from utils.metrics.coco import predictions_to_coco
from utils.ops.boxes import xyxy_to_xywh
from utils.predict.writers import CropWriter, MediaWriter
from utils.tasks.results import ClassResult, DrawStyle, Result, TrackOverlay

XYXY_COLUMNS = ("xmin", "ymin", "xmax", "ymax", "confidence", "class", "name")
XYWH_COLUMNS = ("xcenter", "ycenter", "width", "height", "confidence", "class", "name")
FORMATS = {"xyxy": XYXY_COLUMNS, "xyxyn": XYXY_COLUMNS, "xywh": XYWH_COLUMNS, "xywhn": XYWH_COLUMNS}


class Detections:
    """Predictions for one or several images; its attributes are lists with an entry per image.

    Args:
        ims: (H, W, C) uint8, RGB if C = 3.
        pred: (n, 6) x1, y1, x2, y2 in pixels of the image, score, class; best first.
        files: file names to save results under.
        times: timers (objects with `t` in seconds) of pre-processing, inference and NMS for all images, or seconds.
        names: class names by number.
        shape: (B, C, H, W) of the network input.
        predictions: output of the model's task for each image, in pixels of the image.
        semantic_classes: names and colors of the semantic classes.

    Attributes:
        masks: instance masks of each image: `masks[0].polygons()` has rings in pixels, `masks[0].dense()` is
            (n, H, W) bool; None for models without this output.
        ids: (n,) of the tracks of each image, from `AutoShape.track`, or None; an `id` column of `pandas()`.
        semantic: semantic mask of each image, (H, W) uint8, or None.
        probs: (num_classes,) probabilities of each image, from a classifier, or None; `pred` is then a box around the
            image with the most likely class.
        xyxy, xywh: (n, 6) corners, or center and size, in pixels; score; class. xyxyn, xywhn: normalized to 0-1.
        n: number of images. t: milliseconds per image of pre-processing, inference and NMS. s: `shape`.
        times: three `Profile` objects. imgs: `ims`, by its name before 6.1.
    """

    __module__ = "models.common"  # its public address, by which programs recognize it
    xyxy: list[Any]

    def __init__(
        self,
        ims: list[np.ndarray],
        pred: list[Tensor],
        files: Sequence[str],
        times: Sequence[float | Profile] = (0.0, 0.0, 0.0),
        names: Mapping[int, str] | Sequence[str] | None = None,
        shape: Sequence[int] | None = None,
        *,
        predictions: Sequence[Prediction] = (),
        semantic_classes: SemanticClasses | None = None,
    ) -> None:
        self.ims, self.pred, self.files = ims, pred, list(files)
        self.times = tuple(time if isinstance(time, Profile) else Profile.of(to_seconds(time)) for time in times)
        self.names, self.s = to_names_dict(names or {}), tuple(shape or ())
        self.n, self.semantic_classes = len(ims), semantic_classes
        self.predictions = list(predictions) or [Prediction()] * self.n
        self.masks = [p.bitmaps for p in self.predictions if p.bitmaps is not None] or None
        self.ids: list[np.ndarray] | None = [p.extra["ids"] for p in self.predictions if "ids" in p.extra] or None
        self.semantic: Sequence[Any] | None = [
            p.semantic_mask.numpy() for p in self.predictions if p.semantic_mask is not None
        ] or None
        self.probs = [p.probs.clone() for p in self.predictions if p.probs is not None] or None
        self.t = tuple(1000 * timer.t / max(self.n, 1) for timer in self.times)
        self.xyxy = pred

    @property
    def imgs(self) -> list[np.ndarray]:
        """The images."""
        return self.ims

    @imgs.setter
    def imgs(self, images: list[np.ndarray]) -> None:
        self.ims = images

    @cached_property
    def xywh(self) -> list[Any]:
        """(n, 6) center and size in pixels, score, class."""
        return [torch.cat((xyxy_to_xywh(rows[:, :4]), rows[:, 4:]), dim=1) for rows in self.pred]

    @cached_property
    def xyxyn(self) -> list[Any]:
        """(n, 6) normalized corners, score, class."""
        return self._normalize(self.pred)

    @cached_property
    def xywhn(self) -> list[Any]:
        """(n, 6) normalized center and size, score, class."""
        return self._normalize(self.xywh)

    @cached_property
    def results(self) -> list[Result]:
        """The same as `Result` objects, which draw, crop and count objects; their images are BGR, without boxes."""
        frames = [im[..., ::-1] if im.shape[2] == 3 else im for im in self.ims]
        sources = [SourceFrame(f, np.ascontiguousarray(im), f) for f, im in zip(self.files, frames, strict=True)]
        boxes = [rows.cpu().numpy() for rows in self.pred]
        if self.probs is not None:
            parts = zip(sources, boxes, self.probs, strict=True)
            return [ClassResult(im, rows, self.names, probs=probs.cpu().numpy()) for im, rows, probs in parts]
        semantic = self.semantic or [None] * self.n
        return [
            Result(
                im,
                rows,
                self.names,
                masks=p.bitmaps,
                semantic_mask=semantic_mask,
                semantic=self.semantic_classes,
                tracks=TrackOverlay(p.extra["ids"]) if "ids" in p.extra else None,
            )
            for im, rows, p, semantic_mask in zip(sources, boxes, self.predictions, semantic, strict=True)
        ]

    def __len__(self) -> int:
        return self.n

    def __str__(self) -> str:
        headings = [f"image {number}/{self.n}: {im.shape[0]}x{im.shape[1]}" for number, im in enumerate(self.ims, 1)]
        lines = [f"{heading} {result.summarize()}" for heading, result in zip(headings, self.results, strict=True)]
        pre_process, inference, nms = self.t
        speed = f"{pre_process:.1f}ms pre-process, {inference:.1f}ms inference, {nms:.1f}ms NMS per image"
        return "\n".join([*lines, f"Speed: {speed} at shape {self.s}"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}\n{self}"

    def print(self) -> None:
        """Print a summary of each image, and the speed; letters that the output lacks are escaped."""
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        print(str(self).encode(encoding, "backslashreplace").decode(encoding))

    def display(
        self, pprint: bool = False, show: bool = False, save: bool = False, crop: bool = False, render: bool = False,
        save_dir: str | Path = "runs/detect/exp",
    ) -> list[dict[str, Any]] | None:  # fmt: skip
        """What the flags name, in one call as up to 6.0; returns the crops if `crop`. The folder may exist."""
        if pprint:
            self.print()
        if show:
            self.show()
        if save:
            self.save(save_dir=save_dir, exist_ok=True)
        crops = self.crop(save=save, save_dir=save_dir, exist_ok=True) if crop else None
        if render:
            self.render()
        return crops

    def render(self, labels: bool = True) -> list[np.ndarray]:
        """Annotated images, RGB: drawn into `ims`, which share memory with the arrays of the caller.

        Read-only images, and those whose number of channels changes, are replaced.
        """
        for number, annotated in enumerate(self._draw(labels)):
            image = self.ims[number]
            if image.flags.writeable and image.shape == annotated.shape:
                np.copyto(image, annotated)
            else:
                self.ims[number] = annotated
        return self.ims

    def show(self, labels: bool = True) -> None:
        """Show the annotated images in the notebook or in the image viewer of the system."""
        for annotated, file in zip(self._draw(labels), self.files, strict=True):
            image = Image.fromarray(annotated)
            shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
            if type(shell).__name__ == "ZMQInteractiveShell":
                sys.modules["IPython"].display.display(image)
            else:
                image.show(title=file)

    def save(
        self, labels: bool | str | Path = True, save_dir: str | Path = "runs/detect/exp", exist_ok: bool = False
    ) -> Path:
        """Save the annotated images under their `files` names; returns the folder, numbered if it exists.

        A path in the place of `labels` is the folder, as up to 6.0, and is not numbered.
        """
        if isinstance(labels, str | Path):
            return self.save(True, labels, exist_ok=True)
        folder = make_run_folder(save_dir, exist_ok=exist_ok)
        writer = MediaWriter(folder, DrawStyle(hide_labels=not labels))
        for result in self.results:
            writer.write(result)
        LOGGER.info(f"{self.n} images saved to {folder}")
        return folder

    def crop(
        self, save: bool = True, save_dir: str | Path = "runs/detect/exp", exist_ok: bool = False
    ) -> list[dict[str, Any]]:
        """Crop all objects with a margin, and save them to `<save_dir>/crops/<class>/<file>` if `save`.

        Returns:
            A dict per object, the least certain of an image first: `box` (x1, y1, x2, y2), `conf`, `cls`, `label`
            (name and score), `im` (BGR).
        """
        if save:
            folder = make_run_folder(save_dir, exist_ok=exist_ok)
            writer = CropWriter(folder / "crops")
            for result in self.results:
                writer.write(result)
            LOGGER.info(f"{sum(map(len, self.pred))} crops saved to {folder / 'crops'}")
        return [
            {"box": list(row[:4]), "conf": row[4], "cls": row[5], "label": f"{label} {row[4]:.2f}", "im": crop.copy()}
            for rows, result in zip(self.pred, self.results, strict=True)
            for row, (label, crop) in zip(rows.flip(0), result.extract_crops(), strict=True)
        ]

    def pandas(self) -> Detections:
        """A copy whose `xyxy`, `xyxyn`, `xywh` and `xywhn` are pandas data frames."""
        package = import_runtime("pandas", needed_for="Detections.pandas()")
        tables = copy.copy(self)
        for form, columns in FORMATS.items():
            rows = [self._rows(boxes) for boxes in getattr(self, form)]
            frames = [package.DataFrame(row, columns=columns) for row in rows]
            for frame, ids in zip(frames, self.ids or (), strict=False):
                frame["id"] = ids
            setattr(tables, form, frames)
        return tables

    def select_tracks(self, ids: np.ndarray) -> Detections:
        """The detections of one image that belong to a track, with their ids.

        Args:
            ids: (n,) of the boxes; negative for none.
        """
        rows = np.flatnonzero(ids >= 0)
        (prediction,) = self.predictions
        bitmaps = None if prediction.bitmaps is None else prediction.bitmaps.select(rows)
        boxes = self.pred[0][torch.from_numpy(rows)]
        tracked = replace(prediction, boxes=boxes, bitmaps=bitmaps, extra={**prediction.extra, "ids": ids[rows]})
        return Detections(
            self.ims,
            [boxes],
            self.files,
            self.times,
            self.names,
            self.s,
            predictions=[tracked],
            semantic_classes=self.semantic_classes,
        )

    def tolist(self) -> list[Detections]:
        """One object per image."""
        times = [timer.t / max(self.n, 1) for timer in self.times]
        return [
            Detections(
                [im],
                [rows],
                [file],
                times,
                self.names,
                self.s,
                predictions=[prediction],
                semantic_classes=self.semantic_classes,
            )
            for im, rows, file, prediction in zip(self.ims, self.pred, self.files, self.predictions, strict=True)
        ]

    def to_json(self) -> str:
        """JSON text: a record per object with the columns of the `xyxy` table, image index and file."""
        images = enumerate(zip(self.files, self.records(), strict=True))
        return json.dumps([{"image": i, "file": file, **record} for i, (file, records) in images for record in records])

    def records(self) -> list[list[dict[str, Any]]]:
        """Rows of the `xyxy` table of each image, as dicts."""
        return [[dict(zip(XYXY_COLUMNS, row, strict=True)) for row in self._rows(boxes)] for boxes in self.pred]

    def to_coco(self) -> list[dict[str, Any]]:
        """Items of a COCO results file.

        Returns:
            A dict per object: image_id, category_id, bbox (left, top, width, height), score, and for instance masks
            segmentation (RLE).
        """
        items: list[dict[str, Any]] = []
        for file, rows, prediction in zip(self.files, self.pred, self.predictions, strict=True):
            boxes, masks = predictions_to_coco(rows, file), prediction.bitmaps
            codes = [{}] * len(boxes) if masks is None else [{"segmentation": code} for code in masks.rles()]
            items += [box | code for box, code in zip(boxes, codes, strict=True)]
        return items

    def to_supervision(self) -> list[Any]:
        """A `supervision.Detections` per image, with `class_name` in its data; InputError if not installed."""
        package = import_runtime("supervision", needed_for="supervision.Detections")
        return [
            package.Detections(
                xyxy=result.boxes[:, :4].copy(),
                confidence=result.boxes[:, 4].copy(),
                class_id=result.boxes[:, 5].astype(int),
                mask=None if result.masks is None else result.masks.dense(),
                tracker_id=None if result.tracks is None else result.tracks.ids.astype(int),
                data={"class_name": np.array(result.labels, dtype=str)},
            )
            for result in self.results
        ]

    def _normalize(self, boxes: list[Tensor]) -> list[Tensor]:
        """Rows with the first four columns divided by width and height."""
        scales = [(im.shape[1], im.shape[0], im.shape[1], im.shape[0], 1, 1) for im in self.ims]
        return [rows / rows.new_tensor(scale) for rows, scale in zip(boxes, scales, strict=True)]

    def _rows(self, boxes: Tensor) -> list[list[Any]]:
        """A list per object: four coordinates, score, class, name."""
        return [[*row[:5], int(row[5]), self.names.get(int(row[5]), str(int(row[5])))] for row in boxes.tolist()]

    def _draw(self, labels: bool) -> list[np.ndarray]:
        """Annotated images, RGB."""
        style = DrawStyle(hide_labels=not labels)
        return [np.ascontiguousarray(result.draw(style)[..., ::-1]) for result in self.results]


def to_seconds(time: Any) -> float:
    """Seconds of a timer with attribute `t`, or the number itself."""
    return float(getattr(time, "t", time))


def make_output_names(names: Sequence[str]) -> list[str]:
    """Unique file names to save images under: `bus.jpg` for `folder/bus.png`, then `bus_2.jpg`, ..."""
    outputs: dict[str, None] = {}
    for name in names:
        stem, number = Path(name).stem, 1
        while (output := f"{stem}{'' if number == 1 else f'_{number}'}.jpg") in outputs:
            number += 1
        outputs[output] = None
    return list(outputs)
