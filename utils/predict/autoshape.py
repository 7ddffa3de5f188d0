"""`AutoShape`: the hub model, which takes images in any form and returns `Detections`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from models.experimental import Ensemble
from models.yolo import BaseModel, JointOutput
from utils.backends.base import Backend, has_nms
from utils.backends.pytorch import PyTorchBackend
from utils.core.device import Stopwatch
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.imaging.letterbox import fit_size
from utils.ops.network_input import images_to_device
from utils.ops.tiles import MergeMethod
from utils.predict.detections import Detections, make_output_names
from utils.predict.inputs import load_images
from utils.predict.multi_backend import refresh_backend
from utils.predict.predictor import Predictor
from utils.predict.tiling import TiledPredictor, TileOptions
from utils.tasks.options import PREDICT_DEFAULTS
from utils.tasks.registry import find_task
from utils.tracking.base import Tracker
from utils.tracking.registry import LOW_SCORE, build_tracker

COPIED = ("yaml", "nc", "hyp", "semantic")  # attributes of the network


class AutoShape(nn.Module):
    """Wraps a model with pre-processing and post-processing. Several threads may call one object.

    Args:
        model: a `DetectMultiBackend`, a network, or a backend from `load_backend`.
        verbose: log the number of classes and the stride.

    Attributes:
        conf, iou: score and IoU thresholds of NMS.
        agnostic: class-agnostic NMS.
        multi_label: a box may have several classes.
        classes: class numbers to keep; None keeps all.
        max_det: maximum number of boxes per image.
        amp: mixed precision (CUDA).
        retina_masks: masks in the resolution of the image, not of the network input.
        tile_overlap, tile_full, tile_merge: how images are cut into tiles and merged, as in `TileOptions`.

    Raises:
        InputError: unsupported type of model.
    """

    __module__ = "models.common"  # its public address, by which programs recognize it
    conf = 0.25
    iou = 0.45
    agnostic = False
    multi_label = False
    classes: Sequence[int] | np.ndarray | int | None = None
    max_det = 1000
    amp = False
    retina_masks = False
    tile_overlap = 0.2
    tile_full = False
    tile_merge: MergeMethod = "nms"

    def __init__(self, model: nn.Module | Backend, verbose: bool = True) -> None:
        super().__init__()
        self.model = model
        self.backend = _build_backend(model)
        self._warned_of_size = False
        self._trackers: dict[str, Tracker] = {}
        self.names, self.stride = self.backend.names, self.backend.stride
        network = getattr(self.backend, "model", None)
        for name in COPIED:
            if hasattr(network, name):
                setattr(self, name, getattr(network, name))
        if verbose:
            LOGGER.info(f"AutoShape: images of any format and size, {len(self.names)} classes, stride {self.stride}")
            if has_nms(self.backend):
                LOGGER.info(
                    "The file contains NMS with the settings of its export: only classes, a higher conf and a lower "
                    "max_det have an effect"
                )

    @property
    def task(self) -> str:
        return self.backend.task

    def autoshape(self) -> Self:
        """The model itself, which is wrapped already."""
        return self

    def train(self, mode: bool = True) -> Self:
        """Warn and stay in evaluation mode: batch norms are fused."""
        if mode:
            LOGGER.warning("WARNING: train(): AutoShape is for inference; for training, use autoshape=False")
        return super().train(False)

    def forward(
        self,
        ims: Any,
        size: int | Sequence[int] | np.ndarray | None = None,
        augment: bool = False,
        profile: bool = False,
        tile: int | None = None,
    ) -> Detections | Tensor | JointOutput:
        """Detections of images in any form (see `load_images`); for a (B, C, H, W) tensor the decoded raw output.

        The raw output is rows (B, N, 5 + num_classes), logits of a semantic model or a classifier, or a `JointOutput`
        of rows and logits.

        Args:
            size: longer side of the network input in pixels (the larger of two), 640 by default; the other side
                follows from the images. A classifier uses a center crop, 224 px by default. Files of fixed size
                ignore it.
            augment: test-time augmentation.
            profile: log the time of every layer (PyTorch).
            tile: predict large images in tiles of this side, in pixels; 0 for tiles of the size of the network input.

        Raises:
            InputError: an image or a setting is invalid.
        """
        if isinstance(ims, Tensor) and ims.ndim == 4:
            return self._compute_raw_output(refresh_backend(self.backend), ims, augment)
        return self._detect(ims, size, augment, profile, tile, self.conf)

    def track(
        self,
        frame: Any,
        source: str = "",
        *,
        tracker: str = "bytetrack",
        size: int | None = None,
        tile: int | None = None,
    ) -> Detections:
        """Detections of the next frame of a video, with the ids of their tracks: `results.ids[0]`.

        Boxes of no track are left out. Each source has tracks of its own, which start from scores of at least `conf`.

        Args:
            frame: an image in any form.
            source: name of the video or camera.
            tracker: bytetrack or ocsort; of the first frame of a source.
            size, tile: as in a call.

        Raises:
            InputError: not one image, no such tracker, or a model without boxes.
        """
        if not find_task(self.backend.task).has_boxes:
            raise InputError(f"track: not supported for task {self.backend.task!r}, which has no boxes")
        if source not in self._trackers:
            self._trackers[source] = build_tracker(tracker, self.conf)
        detections = self._detect(frame, size, False, False, tile, min(LOW_SCORE, self.conf))
        if detections.n != 1:
            raise InputError(f"track: takes one frame a call, not {detections.n}; name each video by `source`")
        ids = self._trackers[source].update(detections.pred[0].numpy())
        return detections.select_tracks(ids)

    def reset_tracks(self, source: str | None = None) -> None:
        """Forget the tracks of a source; of all by default."""
        if source is None:
            self._trackers.clear()
        else:
            self._trackers.pop(source, None)

    def _detect(
        self,
        ims: Any,
        size: int | Sequence[int] | np.ndarray | None,
        augment: bool,
        profile: bool,
        tile: int | None,
        conf: float,
    ) -> Detections:
        """Detections with scores of at least `conf`; other arguments as for `forward`."""
        backend = refresh_backend(self.backend)
        task = find_task(backend.task)
        longest = _parse_size(task.predict_config().imgsz if size is None else size)
        if size is not None and backend.fixed_hw and longest != max(backend.fixed_hw) and not self._warned_of_size:
            self._warned_of_size = True
            height, width = backend.fixed_hw
            LOGGER.warning(f"WARNING: size is ignored: the file takes {height}x{width} only")
        loading = Stopwatch(backend.device)
        with loading.measure():
            images = load_images(ims, channels=backend.channels)
        arrays = [image.array for image in images]
        names = [image.name for image in images]
        sizes_hw = [(array.shape[0], array.shape[1]) for array in arrays]
        predictor = self._build_predictor(backend, sizes_hw, longest, augment, tile, conf)
        input_hw = predictor.size_hw
        with self._autocast(backend):
            predictions, _ = predictor.predict(arrays, paths=names)
        if profile:
            self._profile(backend, len(arrays), input_hw)
        preprocess, inference, postprocess = (watch.seconds for watch in predictor.watches)
        boxes = [task.get_boxes(p, size_hw) for p, size_hw in zip(predictions, sizes_hw, strict=True)]
        return Detections(
            arrays,
            [rows.clone() for rows in boxes],  # no inference tensors: those do not allow changes in place
            make_output_names(names),
            (loading.seconds + preprocess, inference, postprocess),
            self.names,
            (len(arrays), backend.channels, *input_hw),
            predictions=predictions,
            semantic_classes=backend.semantic,
        )

    def _build_predictor(
        self,
        backend: Backend,
        sizes_hw: Sequence[Sequence[int]],
        longest: int,
        augment: bool,
        tile: int | None,
        conf: float,
    ) -> Predictor:
        """A predictor with one input size for images of these sizes, or for the tiles of them."""
        square = find_task(backend.task).square_input
        tiles = None if tile is None else self._build_tile_options(backend, tile)
        if square and augment:
            LOGGER.warning("WARNING: augment=True is ignored: a classifier has no test-time augmentation")
        input_hw = (longest, longest) if square else compute_batch_shape(sizes_hw, longest, backend.stride)
        options = replace(
            PREDICT_DEFAULTS,
            conf_thres=conf,
            iou_thres=self.iou,
            classes=_parse_classes(self.classes),
            agnostic=self.agnostic,
            max_det=self.max_det,
            multi_label=self.multi_label,
            retina_masks=self.retina_masks,
        )
        if tiles is not None:
            return TiledPredictor(backend, options, tiles=tiles, size_hw=(longest, longest), augment=augment, rgb=True)
        return Predictor(backend, options, size_hw=input_hw, auto=False, augment=augment and not square, rgb=True)

    def _build_tile_options(self, backend: Backend, tile: int) -> TileOptions:
        """The checked options of tiles; InputError if one is invalid or the task has none."""
        find_task(backend.task).check_tile(tile, "tile")
        return TileOptions(tile, self.tile_overlap, self.tile_full, self.tile_merge).check()

    def _autocast(self, backend: Backend) -> torch.autocast:
        return torch.autocast(backend.device.type, enabled=self.amp and backend.device.type == "cuda")

    def _compute_raw_output(self, backend: Backend, images: Tensor, augment: bool) -> Any:
        """Raw output for a network input: floats in [0, 1] or normalized, as the task requires, or uint8."""
        task = find_task(backend.task)
        channels, height, width = images.shape[1:]
        if channels != backend.channels:
            raise InputError(
                f"a tensor of {channels} channels does not fit the model, which takes (B, {backend.channels}, H, W)"
            )
        if not task.square_input and (height % backend.stride or width % backend.stride):
            raise InputError(
                f"a tensor of {height}x{width} pixels does not fit the model's stride {backend.stride}; "
                "pad it to multiples, or give a list of images"
            )
        if images.dtype == torch.uint8:
            images = images_to_device(images, backend.device, backend.dtype, pixels=task.pixels)
        images = images.to(backend.device, backend.dtype)
        with torch.inference_mode(), self._autocast(backend):
            output = backend.forward(images, augment=augment)
        return task.get_raw_output(output)

    def _profile(self, backend: Backend, count: int, input_hw: tuple[int, int]) -> None:
        network = getattr(backend, "model", None)
        if not isinstance(network, BaseModel | Ensemble):
            LOGGER.warning("WARNING: profile=True is ignored: it requires a .pt file")
            return
        images = torch.zeros(count, backend.channels, *input_hw, dtype=backend.dtype, device=backend.device)
        with torch.inference_mode(), self._autocast(backend):
            network(images, profile=True)


def compute_batch_shape(sizes_hw: Sequence[Sequence[int]], longest: int, stride: int) -> tuple[int, int]:
    """Input size of a batch: the smallest multiple of the stride that fits all images, scaled to `longest`."""
    fitted = [fit_size((height, width), (longest, longest)) for height, width in sizes_hw]
    height, width = (math.ceil(max(sides) / stride) * stride for sides in zip(*fitted, strict=True))
    return height, width


def _parse_classes(classes: Any) -> list[int] | None:
    """The class numbers to keep, None for all; InputError if one is not an integer."""
    if classes is None:
        return None
    numbers = _to_list(classes)
    if not all(isinstance(number, Real) and float(number).is_integer() for number in numbers):
        raise InputError(f"classes {classes!r}: expected class numbers such as 0 or [0, 2], or None for all")
    return [int(number) for number in numbers]


def _parse_size(size: Any) -> int:
    """The longer side of `size` in pixels; InputError if it is not one or two positive integers."""
    sides = _to_list(size)
    whole = all(isinstance(side, Integral) and not isinstance(side, bool) and int(side) > 0 for side in sides)
    if len(sides) not in (1, 2) or not whole:
        raise InputError(f"size {size!r}: expected pixels of the longer side, or (height, width), in whole numbers")
    return int(max(sides))


def _to_list(value: Any) -> list[Any]:
    """The values of a sequence, array or tensor, or a single value."""
    if isinstance(value, np.ndarray | Tensor):
        return list(value.reshape(-1).tolist())
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes) else [value]


def _build_backend(model: Any) -> Backend:
    """The backend of a model that `AutoShape` accepts."""
    backend = getattr(model, "backend", model)
    needed = ("names", "stride", "yaml" if isinstance(backend, nn.Module) else "task")
    if not all(hasattr(backend, name) for name in needed):
        raise InputError(
            f"AutoShape takes a DetectMultiBackend or a network, not {type(model).__name__}; "
            "for a file: AutoShape(DetectMultiBackend('best.pt'))"
        )
    if not isinstance(backend, nn.Module):
        return backend
    weight = next(backend.parameters(), torch.zeros(0))
    return PyTorchBackend(backend, device=weight.device, fp16=weight.dtype == torch.float16 and weight.is_cuda)
