"""Public address of helpers for boxes, paths, checks and logging, with their known signatures."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from models.checkpoint import strip_checkpoint
from models.yolo import check_image_size
from utils.config.base import ROOT
from utils.core import files as paths
from utils.core.errors import InputError
from utils.core.logging import LOGGER, setup_logging
from utils.ops import boxes as geometry
from utils.ops.boxes import Boxes, clip_boxes_
from utils.ops.nms import non_max_suppression
from utils.predict.writers import WindowViewer
from utils.tasks.results import DrawStyle

__all__ = [
    "LOGGER", "ROOT", "Profile", "check_file", "check_img_size", "check_imshow", "check_requirements", "clip_boxes",
    "clip_coords", "colorstr", "cv2", "increment_path", "make_divisible", "non_max_suppression", "print_args",
    "scale_boxes", "scale_coords", "set_logging", "strip_optimizer", "xywh2xyxy", "xywhn2xyxy", "xyxy2xywh",
    "xyxy2xywhn",
]  # fmt: skip
ANSI = dict(zip(("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"), range(30, 38), strict=True))
ANSI |= {f"bright_{name}": code + 60 for name, code in ANSI.items()} | {"end": 0, "bold": 1, "underline": 4}


# -- boxes ------------------------------------------------------------------------------------------------------------


def xyxy2xywh(x: Boxes) -> Boxes:
    """Convert the first four columns from corners to center and size."""
    return _replace_boxes(x, geometry.xyxy_to_xywh(x))


def xywh2xyxy(x: Boxes) -> Boxes:
    """Convert the first four columns from center and size to corners."""
    return _replace_boxes(x, geometry.xywh_to_xyxy(x))


def xywhn2xyxy(x: Boxes, w: float = 640, h: float = 640, padw: float = 0, padh: float = 0) -> Boxes:
    """Convert the first four columns from normalized center and size to corners in pixels, plus the padding."""
    return _replace_boxes(x, geometry.xywhn_to_xyxy(x, (h, w), offset_wh=(padw, padh)))


def xyxy2xywhn(x: Boxes, w: int = 640, h: int = 640, clip: bool = False, eps: float = 0.0) -> Boxes:
    """Convert the first four columns from corners in pixels to normalized center and size; `clip` first clips `x`."""
    if clip:
        clip_boxes_(x, (h - eps, w - eps))  # type: ignore[arg-type]
    return _replace_boxes(x, geometry.xyxy_to_xywhn(x, (h, w)))


def scale_boxes(img1_shape: Sequence[int], boxes: Boxes, img0_shape: Sequence[int], ratio_pad: Any = None) -> Boxes:
    """Map boxes from the letterboxed size `img1_shape` (h, w) to the image size `img0_shape`, in place.

    Args:
        ratio_pad: ((ratio, ...), (left, top padding)) of the letterbox; by default computed from the sizes.
    """
    transform = None if ratio_pad is None else ((ratio_pad[0][0], ratio_pad[0][0]), tuple(ratio_pad[1]))
    scaled = geometry.scale_boxes(
        boxes[..., :4], (img1_shape[0], img1_shape[1]), (img0_shape[0], img0_shape[1]), transform
    )
    boxes[..., :4] = scaled
    return boxes


def clip_boxes(boxes: Boxes, shape: Sequence[int]) -> None:
    """Clip boxes to an image of `shape` (h, w), in place."""
    clip_boxes_(boxes, (shape[0], shape[1]))


scale_coords, clip_coords = scale_boxes, clip_boxes  # names before 7.0


def _replace_boxes(rows: Boxes, columns: Boxes) -> Boxes:
    """A copy of the rows with other boxes in the first four columns."""
    copy: Any = rows.clone() if isinstance(rows, Tensor) else np.copy(rows)
    copy[..., :4] = columns
    return copy


# -- sizes, files, checks ---------------------------------------------------------------------------------------------


def make_divisible(x: float, divisor: int | Tensor) -> int:
    """Round `x` up to a multiple of `divisor`, or of the maximum of a tensor."""
    step = int(divisor.max()) if isinstance(divisor, Tensor) else divisor
    return math.ceil(x / step) * step


def check_img_size(imgsz: int | Sequence[int], s: int | Tensor = 32, floor: int = 0) -> int | list[int]:
    """Round the image size up to a multiple of the stride `s`, at least `floor`; warns if it changes."""
    stride = int(s.max()) if isinstance(s, Tensor) else int(s)
    if isinstance(imgsz, int):
        return max(check_image_size(imgsz, stride), floor)
    return [max(check_image_size(side, stride), floor) for side in imgsz]


def increment_path(path: str | Path, exist_ok: bool = False, sep: str = "", mkdir: bool = False) -> Path:
    """The path if it does not exist, or else the first free one of `exp2`, `exp3`, ...

    Args:
        sep: separator between name and number.
        mkdir: create the folder.
    """
    if mkdir:
        return paths.make_run_folder(path, exist_ok=exist_ok, sep=sep)
    return paths.increment_path(path, exist_ok, sep)


def check_file(file: str | Path, suffix: str | Sequence[str] = "") -> str:
    """Find a file, also in data/ and models/; InputError if it is missing or has another suffix."""
    suffixes = (suffix,) if isinstance(suffix, str) else tuple(suffix)
    if not str(file).lower().endswith(suffixes):
        raise InputError(f"{file}: expected a file with suffix {' or '.join(suffixes)}")
    return str(paths.find_file(file, [ROOT / "data", ROOT / "data/hyps", ROOT / "models", ROOT / "models/hub"]))


def check_requirements(requirements: str | Path | Iterable[str] = (), exclude: Sequence[str] = (), **_: Any) -> bool:
    """Whether packages are installed; warns with a pip command if not.

    Args:
        requirements: requirements file, package or list of packages; versions are not compared.
        exclude: packages to skip.
    """
    if isinstance(requirements, str | Path):
        file = Path(requirements)
        requirements = file.read_text(encoding="utf-8").splitlines() if file.suffix == ".txt" else [str(requirements)]
    missing = []
    for line in requirements:
        name = re.match(r"[A-Za-z0-9][\w.-]*", line.strip())
        if name and name[0] not in exclude:
            try:
                metadata.version(name[0])
            except metadata.PackageNotFoundError:
                missing.append(line.partition("#")[0].strip())
    if missing:
        LOGGER.warning(f"WARNING: missing packages: pip install {' '.join(missing)}")
    return not missing


def check_imshow(warn: bool = False) -> bool:
    """Whether images can be shown in windows."""
    try:
        WindowViewer(DrawStyle()).close()
    except InputError as error:
        if warn:
            LOGGER.warning(f"WARNING: {error}")
        return False
    return True


def strip_optimizer(f: str | Path = "best.pt", s: str | Path = "") -> None:
    """Strip the training state from checkpoint `f`, in place or into file `s`."""
    strip_checkpoint(f, s or None)


# -- log --------------------------------------------------------------------------------------------------------------


def set_logging(name: str | None = None, verbose: bool = True) -> None:
    """Log to standard error; `name` is ignored."""
    setup_logging(verbose=verbose)


def colorstr(*input: str) -> str:
    """Colored text for a terminal, as in `colorstr("red", "bold", "text")`; bold blue by default."""
    *styles, text = input
    codes = "".join(f"\033[{ANSI[style]}m" for style in styles or ("blue", "bold"))
    return f"{codes}{text}\033[{ANSI['end']}m"


def print_args(args: Mapping[str, Any] | None = None, show_file: bool = True, show_func: bool = False) -> None:
    """Log `name=value` for `args`, or for the arguments of the calling function."""
    frame = inspect.currentframe()
    caller = frame.f_back if frame else None
    if args is None:
        args = inspect.getargvalues(caller)[3] if caller else {}
    code = caller.f_code if caller else None
    place = [Path(code.co_filename).stem] if code and show_file else []
    place += [code.co_name] if code and show_func else []
    LOGGER.info(": ".join([*place, ", ".join(f"{name}={value}" for name, value in args.items())]))


class Profile(contextlib.ContextDecorator):
    """Timer of a block or a decorated function; it synchronizes CUDA, and `device` is ignored.

    Attributes:
        t: total seconds.
        dt: seconds of the last use.
    """

    def __init__(self, t: float = 0.0, device: torch.device | None = None) -> None:
        self.t, self.dt, self._start = t, 0.0, 0.0

    def __enter__(self) -> Profile:
        self._start = time_now()
        return self

    def __exit__(self, *_: object) -> None:
        self.dt = time_now() - self._start
        self.t += self.dt


def time_now() -> float:
    """Seconds of a monotonic clock, after synchronizing CUDA."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
