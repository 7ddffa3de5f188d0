"""What other programs import from `utils.general`, with the arguments that they pass; the work is done elsewhere."""

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
from utils.predict.results import DrawStyle
from utils.predict.writers import WindowViewer

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
    """Rows with the corners in their first four columns replaced by center and size."""
    return _replaced(x, geometry.xyxy_to_xywh(x))


def xywh2xyxy(x: Boxes) -> Boxes:
    """Rows with center and size in their first four columns replaced by the corners."""
    return _replaced(x, geometry.xywh_to_xyxy(x))


def xywhn2xyxy(x: Boxes, w: float = 640, h: float = 640, padw: float = 0, padh: float = 0) -> Boxes:
    """Rows with center and size over `w` and `h` replaced by corners in pixels, moved by the padding."""
    return _replaced(x, geometry.xywhn_to_xyxy(x, (h, w), offset_wh=(padw, padh)))


def xyxy2xywhn(x: Boxes, w: int = 640, h: int = 640, clip: bool = False, eps: float = 0.0) -> Boxes:
    """Rows with corners in pixels replaced by center and size over `w` and `h`; with `clip` cut at the border first."""
    if clip:
        clip_boxes_(x, (h - eps, w - eps))  # type: ignore[arg-type]
    return _replaced(x, geometry.xyxy_to_xywhn(x, (h, w)))


def scale_boxes(img1_shape: Sequence[int], boxes: Boxes, img0_shape: Sequence[int], ratio_pad: Any = None) -> Boxes:
    """Boxes of a letterboxed `img1_shape` (h, w) in pixels of the image `img0_shape`, in place.

    Args:
        ratio_pad: ((ratio, ...), (left, top padding)) of the letterbox, where it is not centered or known better.
    """
    known = None if ratio_pad is None else ((ratio_pad[0][0], ratio_pad[0][0]), tuple(ratio_pad[1]))
    scaled = geometry.scale_boxes(boxes[..., :4], (img1_shape[0], img1_shape[1]), (img0_shape[0], img0_shape[1]), known)
    boxes[..., :4] = scaled
    return boxes


def clip_boxes(boxes: Boxes, shape: Sequence[int]) -> None:
    """Move corners outside of an image of `shape` (h, w) onto its border, in place."""
    clip_boxes_(boxes, (shape[0], shape[1]))


scale_coords, clip_coords = scale_boxes, clip_boxes  # their names before 7.0


def _replaced(rows: Boxes, columns: Boxes) -> Boxes:
    """A copy with other first four columns."""
    copy: Any = rows.clone() if isinstance(rows, Tensor) else np.copy(rows)
    copy[..., :4] = columns
    return copy


# -- sizes, files, checks ---------------------------------------------------------------------------------------------


def make_divisible(x: float, divisor: int | Tensor) -> int:
    """`x` rounded up to a multiple of `divisor` (of the largest one of a tensor)."""
    step = int(divisor.max()) if isinstance(divisor, Tensor) else divisor
    return math.ceil(x / step) * step


def check_img_size(imgsz: int | Sequence[int], s: int | Tensor = 32, floor: int = 0) -> int | list[int]:
    """The side(s) rounded up to multiples of the stride `s`, at least `floor`; warns where that changes them."""
    stride = int(s.max()) if isinstance(s, Tensor) else int(s)
    if isinstance(imgsz, int):
        return max(check_image_size(imgsz, stride), floor)
    return [max(check_image_size(side, stride), floor) for side in imgsz]


def increment_path(path: str | Path, exist_ok: bool = False, sep: str = "", mkdir: bool = False) -> Path:
    """The path where it is free, else the first free of `exp2`, `exp3`, ...

    Args:
        sep: between name and number.
        mkdir: make it as a folder.
    """
    path, free = Path(path), paths.increment_path(path, exist_ok)
    if sep and free != path:
        suffix = "" if path.is_dir() else path.suffix
        number = 2
        while (free := path.with_name(f"{path.name.removesuffix(suffix)}{sep}{number}{suffix}")).exists():
            number += 1
    if mkdir:
        free.mkdir(parents=True, exist_ok=True)
    return free


def check_file(file: str | Path, suffix: str | Sequence[str] = "") -> str:
    """The path of a file, looked for in data/ and models/ too; InputError where there is none or it ends otherwise."""
    endings = (suffix,) if isinstance(suffix, str) else tuple(suffix)
    if not str(file).lower().endswith(endings):
        raise InputError(f"{file}: expected a file that ends in {' or '.join(endings)}")
    return str(paths.find_file(file, [ROOT / "data", ROOT / "data/hyps", ROOT / "models", ROOT / "models/hub"]))


def check_requirements(requirements: str | Path | Iterable[str] = (), exclude: Sequence[str] = (), **_: Any) -> bool:
    """Whether the packages are there; warns with the pip line where not. Nothing is installed.

    Args:
        requirements: a requirements file, a package or several, whose versions are not compared.
        exclude: names to leave out.
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
        LOGGER.warning(f"WARNING: packages are missing: pip install {' '.join(missing)}")
    return not missing


def check_imshow(warn: bool = False) -> bool:
    """Whether images can be shown in windows here."""
    try:
        WindowViewer(DrawStyle()).close()
    except InputError as error:
        if warn:
            LOGGER.warning(f"WARNING: {error}")
        return False
    return True


def strip_optimizer(f: str | Path = "best.pt", s: str | Path = "") -> None:
    """Take the training state out of checkpoint `f`, into file `s` where one is given."""
    strip_checkpoint(f, s or None)


# -- log --------------------------------------------------------------------------------------------------------------


def set_logging(name: str | None = None, verbose: bool = True) -> None:
    """Send the log to standard error; `name` plays no part."""
    setup_logging(verbose=verbose)


def colorstr(*input: str) -> str:
    """Text for a terminal: `colorstr("red", "bold", "text")`, bold blue where only the text is given."""
    *styles, text = input
    codes = "".join(f"\033[{ANSI[style]}m" for style in styles or ("blue", "bold"))
    return f"{codes}{text}\033[{ANSI['end']}m"


def print_args(args: Mapping[str, Any] | None = None, show_file: bool = True, show_func: bool = False) -> None:
    """Log settings as `name=value`: those given, or the arguments of the calling function."""
    frame = inspect.currentframe()
    caller = frame.f_back if frame else None
    if args is None:
        args = inspect.getargvalues(caller)[3] if caller else {}
    code = caller.f_code if caller else None
    place = [Path(code.co_filename).stem] if code and show_file else []
    place += [code.co_name] if code and show_func else []
    LOGGER.info(": ".join([*place, ", ".join(f"{name}={value}" for name, value in args.items())]))


class Profile(contextlib.ContextDecorator):
    """Seconds that a block, or a decorated function, takes; waits for CUDA, whatever `device` says.

    Attributes:
        t: sum over all uses. dt: of the last one.
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
    """Seconds of a clock that never goes back, after all work of CUDA is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
