"""Drawing functions under the names and with the arguments that other programs import from `utils.plots`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor

from utils.core.files import increment_path
from utils.imaging.draw import Color, class_color_bgr, draw_boxes, draw_text, text_height, to_bgr
from utils.imaging.read import imwrite
from utils.ops.boxes import clip_boxes_, xywh_to_xyxy, xyxy_to_xywh

JPEG_QUALITY = 95


class Colors:
    """Colors of classes; the instance `colors` is called with the number of a class.

    Attributes:
        palette: RGB colors of the first `n` classes; further classes have colors of their own.
    """

    def __init__(self) -> None:
        self.n = 20
        self.palette = [self(i) for i in range(self.n)]

    def __call__(self, i: Any, bgr: bool = False) -> Color:
        """Color of class `i`, a number or tensor with one, RGB or with `bgr` BGR."""
        blue, green, red = class_color_bgr(int(i))
        return (blue, green, red) if bgr else (red, green, blue)

    @staticmethod
    def hex2rgb(h: str) -> Color:
        """The RGB color of a text such as "#FF7F50"."""
        red, green, blue = ImageColor.getrgb(h)[:3]
        return red, green, blue


colors = Colors()


class Annotator:
    """Draws boxes and text on an image, in place if it is a writable (H, W, 3) uint8 array.

    Args:
        im: array or PIL image; colors are in the order of its channels.
        line_width: of boxes in pixels; by default proportional to the image size.
        font_size: height of `text` in pixels; by default proportional to the image size.
        font, pil, example: ignored; fonts are chosen by script.
    """

    def __init__(
        self,
        im: Any, line_width: int | None = None, font_size: int | None = None, font: str = "Arial.ttf",
        pil: bool = False, example: str = "abc",
    ) -> None:  # fmt: skip
        self.fromarray(im)
        self.lw = max(1, line_width or round(sum(self.im.shape[:2]) / 600))
        self.pil, self._font_size = False, font_size

    def box_label(
        self,
        box: Any,
        label: str = "",
        color: Sequence[int] = (128, 128, 128),
        txt_color: Sequence[int] = (255, 255, 255),
    ) -> None:
        """Draw a box (x1, y1, x2, y2) with its label in black or white; `txt_color` is ignored."""
        corners = [float(value) for value in box]
        draw_boxes(self.im, [corners], [label], [_color(color)], line_thickness=self.lw)

    def masks(self, masks: Any, colors: Sequence[Sequence[int]], im_gpu: Any = None, alpha: float = 0.5) -> None:
        """Blend masks into the image, the first one lowest.

        Args:
            masks: (n, h, w) in [0, 1], a tensor or array, of the image's size or that of its letterboxed copy.
            colors: n colors in the order of the image's channels.
            im_gpu: ignored: the image itself stays, not the copy that the network has seen.
            alpha: opacity.
        """
        planes = masks.detach().float().cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks, np.float32)
        if not planes.size:
            return
        layer = np.zeros((*planes.shape[1:], 4), np.float32)  # colors times opacity, and transparency
        layer[..., 3] = 1
        for plane, color in zip(planes, colors, strict=True):
            opacity = alpha * plane[..., None]
            layer *= 1 - opacity
            layer[..., :3] += opacity * np.asarray(color, np.float32)
        layer = _undo_letterbox(layer, (self.im.shape[0], self.im.shape[1]))
        blended = self.im * layer[..., 3:] + layer[..., :3]
        self.im[:] = np.rint(blended.clip(0, 255)).astype(np.uint8)

    def rectangle(self, xy: Any, fill: Any = None, outline: Any = None, width: int = 1) -> None:
        """Draw a rectangle (x1, y1, x2, y2), filled or with an outline of some pixels."""
        x1, y1, x2, y2 = (round(float(value)) for value in xy)
        if fill is not None:
            cv2.rectangle(self.im, (x1, y1), (x2, y2), _color(fill), cv2.FILLED)
        if outline is not None and width:
            cv2.rectangle(self.im, (x1, y1), (x2, y2), _color(outline), width)

    def fromarray(self, im: Any) -> None:
        """Continue with another image; drawn on in place if it is a writable (H, W, 3) uint8 array."""
        array = np.asarray(im)
        is_bgr_array = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
        self.im = array if is_bgr_array and array.flags.c_contiguous and array.flags.writeable else to_bgr(array)

    def text(
        self, xy: Sequence[float], text: str, txt_color: Sequence[int] = (255, 255, 255), anchor: str = "top"
    ) -> None:
        """Draw text on a background of `txt_color` with its top (or bottom) left corner at `xy`."""
        height = self._font_size or text_height((self.im.shape[0], self.im.shape[1]))
        top = int(xy[1]) - (height if anchor == "bottom" else 0)
        draw_text(self.im, text, (int(xy[0]), top), height, _color(txt_color))

    def result(self) -> np.ndarray:
        return self.im


def save_one_box(
    xyxy: Any,
    im: np.ndarray,
    file: str | Path = Path("im.jpg"),
    gain: float = 1.02,
    pad: float = 10,
    square: bool = False,
    BGR: bool = False,
    save: bool = True,
) -> np.ndarray:
    """Crop a box from an image, with its sides times `gain` plus `pad` pixels, and save it as a numbered .jpg.

    Args:
        square: extend the box to a square of its longer side.
        BGR: `im` is BGR, else RGB. The returned crop is BGR.
    """
    boxes_xywh = xyxy_to_xywh(torch.as_tensor(xyxy, dtype=torch.float32).reshape(-1, 4)[:1].cpu())
    if square:
        boxes_xywh[:, 2:] = boxes_xywh[:, 2:].max()
    boxes_xywh[:, 2:] = boxes_xywh[:, 2:] * gain + pad
    boxes_xyxy = clip_boxes_(xywh_to_xyxy(boxes_xywh), (im.shape[0], im.shape[1]))
    x1, y1, x2, y2 = boxes_xyxy[0].long().tolist()
    crop = np.ascontiguousarray(im[y1:y2, x1:x2, :: 1 if BGR else -1])
    if save:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        imwrite(increment_path(Path(file).with_suffix(".jpg")), crop, quality=JPEG_QUALITY)
    return crop


def _color(values: Sequence[int]) -> Color:
    first, second, third = (int(value) for value in values)
    return first, second, third


def _undo_letterbox(frame: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The part of a letterboxed (h, w, C) array that is the image, at the image's size."""
    if frame.shape[:2] == size_hw:
        return frame
    (height, width), (inner_h, inner_w) = frame.shape[:2], size_hw
    gain = min(height / inner_h, width / inner_w)
    inner_h, inner_w = max(1, round(inner_h * gain)), max(1, round(inner_w * gain))
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    return cv2.resize(frame[top : top + inner_h, left : left + inner_w], size_hw[::-1], interpolation=cv2.INTER_LINEAR)
