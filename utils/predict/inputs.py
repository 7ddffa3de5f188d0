"""Inputs of the hub model: files, addresses, PIL images, arrays, tensors."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from utils.core.downloads import download_image
from utils.core.errors import InputError
from utils.core.limits import are_limits_on, describe_excess
from utils.core.logging import LOGGER
from utils.imaging.read import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    ImageError,
    decode_image,
    fit_channels,
    read_bytes,
    read_image,
    to_uint8,
)
from utils.predict.predictor import bgr_to_rgb

URL = re.compile(r"(https?):/{1,2}(?=[^/])", re.IGNORECASE)  # a Path has lost one of the two slashes
CHANNEL_COUNTS = (1, 2, 3, 4)  # by which (C, H, W) is distinguished from (H, W, C)
MAX_TOTAL_PIXELS = 2**31  # of all images of a call
DEEP_MODES = ("F", "I", "I;16", "I;16B", "I;16L")  # of Pillow, with more than 8 bits per channel
SUPPORTED = "a file name, URL, PIL image, NumPy array, tensor, or the bytes of an image file"


@dataclass(frozen=True)
class NamedImage:
    """An input image.

    Attributes:
        array: (H, W, C) uint8; C = 3 is RGB.
        name: file name, or `image<position>`.
    """

    array: np.ndarray
    name: str


def load_images(ims: Any, *, channels: int = 3) -> list[NamedImage]:
    """Load an image, or all images of a list, tuple, generator or (B, H, W, C) array.

    An image is a file name, an http(s) URL, a PIL image, an open image file or its bytes, or an array or tensor:
    RGB (H, W, C) or (C, H, W), or gray (H, W). Values are uint8, uint16 (reduced to the upper byte), or floats in 0-1
    (in 0-255 if any exceeds 1). EXIF rotation is applied; alpha and excess channels are dropped.

    Raises:
        InputError: no images, or a value that is not an image.
    """
    images: list[NamedImage] = []
    num_pixels = 0
    single = _is_single(ims)
    for position, value in enumerate([ims] if single else ims):
        try:
            images.append(_load(value, position, channels))
        except InputError as error:
            place = "" if single else f"ims[{position}] ({type(value).__name__}): "
            raise InputError(f"{place}{error}") from error
        num_pixels += images[-1].array.shape[0] * images[-1].array.shape[1]
        if num_pixels > MAX_TOTAL_PIXELS and are_limits_on():
            problem = f"{position + 1:,} images have more than {MAX_TOTAL_PIXELS:,} pixels"
            raise InputError(f"ims: {problem}; pass fewer at once")
    if not images:
        raise InputError("no images given: the list is empty")
    return images


def _is_single(ims: Any) -> bool:
    """Whether the input is one image, or else an iterable of images."""
    if isinstance(ims, np.ndarray | Tensor):
        return ims.ndim != 4
    kinds = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, Mapping)
    return isinstance(ims, kinds) or hasattr(ims, "read") or not isinstance(ims, Iterable)


def _load(value: Any, position: int, channels: int) -> NamedImage:
    """Load one image; ImageError or InputError if it is not an image."""
    name = f"image{position}"
    if isinstance(value, str | os.PathLike):
        return _load_path(os.fsdecode(value), channels)
    if isinstance(value, Image.Image):
        name = str(getattr(value, "filename", "") or name)
        return NamedImage(_to_rgb(_from_pil(value, name, channels), channels, name), name)
    if hasattr(value, "read") and not isinstance(value, type):
        file_name = getattr(value, "name", name)
        name = file_name if isinstance(file_name, str) else name
        value = _read_stream(value, name)
    if isinstance(value, bytes | bytearray | memoryview):
        data = value.tobytes() if isinstance(value, memoryview) else value  # which may have strides
        return NamedImage(_decode(np.frombuffer(data, np.uint8), name, channels), name)
    if isinstance(value, Tensor):
        value = _from_tensor(value, channels, name)
    if isinstance(value, np.ndarray):
        return NamedImage(_to_rgb(_from_array(value, channels, name), channels, name), name)
    raise InputError(f"{type(value).__name__} is not an image; give {SUPPORTED}")


def _read_stream(stream: Any, name: str) -> Any:
    """Content of an open file."""
    try:
        content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError, TypeError) as error:  # it is closed, or has another kind of `read`
        raise ImageError(name, f"cannot be read ({error})") from error
    if len(content) > MAX_FILE_BYTES:
        raise ImageError(name, f"more than {MAX_FILE_BYTES:,} bytes")
    return content


def _load_path(path: str, channels: int) -> NamedImage:
    """Load an image by file name or URL."""
    if not path:
        raise InputError("an empty string is not an image; give a file name or URL")
    if URL.match(path):
        url = URL.sub(lambda match: f"{match[1].lower()}://", path, count=1)
        data = np.frombuffer(download_image(url), np.uint8)
        return NamedImage(_decode(data, url, channels), PurePosixPath(unquote(urlsplit(url).path)).name or "image")
    if "://" in path:
        raise InputError(f"{path}: only http and https URLs are supported; download the image and give the file")
    if path.lower().endswith(".npy"):
        return NamedImage(bgr_to_rgb(read_image(path, channels=channels)), path)
    return NamedImage(_decode(read_bytes(path), path, channels), path)


def _decode(data: np.ndarray, name: str, channels: int) -> np.ndarray:
    """Decode an image file to RGB with OpenCV, or with Pillow, which supports more formats."""
    if not data.size:
        raise ImageError(name, "empty (0 bytes)")
    try:
        frame = decode_image(data, name, channels=channels, warn=lambda why: LOGGER.warning(f"WARNING: {name}: {why}"))
        return bgr_to_rgb(frame)
    except ImageError:
        image = None
        with suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            image = Image.open(BytesIO(data.data), formats=_list_pillow_formats())
        if image is None:
            raise
    return _to_rgb(_from_pil(image, name, channels), channels, name)


@cache
def _list_pillow_formats() -> tuple[str, ...]:
    """Formats of Pillow other than EPS, whose images are programs."""
    Image.init()
    return tuple(name for name in Image.OPEN if name != "EPS")


def _from_pil(image: Image.Image, name: str, channels: int) -> np.ndarray:
    """(H, W) or (H, W, C) uint8, EXIF rotation applied; C = 3 is RGB."""
    _check_shape((image.height, image.width), channels, name)
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode in DEEP_MODES:
            deep = np.asarray(image)
            if image.mode == "I" and deep.size and deep.max() > 255:  # 16-bit values in 32 bits
                deep = np.clip(deep, 0, 2**16 - 1).astype(np.uint16)
            return _to_uint8(deep, name)
        keep_alpha = image.mode == "RGBA" and channels == 4
        return np.asarray(image if keep_alpha else image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(name, f"damaged image ({error})") from error


def _from_array(array: np.ndarray, channels: int, name: str) -> np.ndarray:
    """(H, W) or (H, W, C) uint8 of an array in HWC or CHW order."""
    _check_shape(array.shape, channels, name)
    array = _to_uint8(array, name)
    counts = (*CHANNEL_COUNTS, channels)
    if array.ndim == 3 and array.shape[0] in counts and array.shape[2] not in counts:
        return array.transpose(1, 2, 0)
    return array


def _from_tensor(tensor: Tensor, channels: int, name: str) -> np.ndarray:
    tensor = tensor.detach()
    try:
        _check_shape(tensor.shape, channels, name)
        return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
    except (RuntimeError, TypeError) as error:  # a sparse, quantized, nested or meta tensor
        reason = str(error).partition("\n")[0]
        raise InputError(f"{name}: the tensor has no values that NumPy can read ({reason})") from error


def _check_shape(shape: Sequence[int], channels: int, name: str) -> None:
    """InputError for the shape of an array that is not an image, or is too large."""
    size = math.prod(shape)
    if len(shape) not in (2, 3) or not size:
        problem = f"an array of shape {tuple(shape)} is not an image"
        raise InputError(f"{name}: {problem}; expected (H, W), (H, W, C) or (C, H, W)")
    limit = MAX_PIXELS if len(shape) == 2 else MAX_PIXELS * max(channels, 4)
    if excess := describe_excess("values", size, limit):
        raise InputError(f"{name}: an array of shape {tuple(shape)} has {excess}")


def _to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind not in "buif":
        raise InputError(f"{name}: an array of {array.dtype} is not an image; give integers or floats")
    return to_uint8(array.astype(array.dtype.newbyteorder("="), copy=False))


def _to_rgb(array: np.ndarray, channels: int, name: str) -> np.ndarray:
    """(H, W, channels), contiguous, from a gray, RGB or RGBA array."""
    if array.ndim == 3 and channels == 3 and array.shape[2] > 3:
        array = array[..., :3]
    if array.ndim == 3 and channels == 1 and array.shape[2] in (3, 4):
        array = array[..., 2::-1]  # `fit_channels` expects BGR
    return fit_channels(array, channels, name)
