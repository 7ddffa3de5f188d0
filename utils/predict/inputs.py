"""Any kind of image that a program may hold, as a uint8 array of the channels that the model wants."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.remote import fetch_image
from utils.imaging.read import ImageError, decode_image, fit_channels, read_bytes, read_image, to_uint8

URL = re.compile(r"(https?):/{1,2}(?=[^/])", re.IGNORECASE)  # a Path has lost one of the two slashes
PLANES = (1, 2, 3, 4)  # numbers of channels that tell a (C, H, W) array from a (H, W, C) one
DEEP_MODES = ("F", "I", "I;16", "I;16B", "I;16L")  # of Pillow: more than 8 bits a pixel
KINDS = "a file name, http address, PIL image, NumPy array, tensor, or the bytes of an image file"


@dataclass(frozen=True)
class NamedImage:
    """One image for a model.

    Attributes:
        array: (H, W, C) uint8; C = 3 is RGB.
        name: of its file; `image<position>` where it has none.
    """

    array: np.ndarray
    name: str


def load_images(ims: Any, *, channels: int = 3) -> list[NamedImage]:
    """The image, or all images of a list, tuple, generator or (B, H, W, C) array.

    Each may be a file name, an http(s) address, a PIL image, the bytes of an image file or an open one, or an array
    or tensor: RGB (H, W, C) or (C, H, W), or gray (H, W). Bytes stay as they are, 16-bit values keep their upper byte,
    floats are 0-1 (0-255 if any exceeds 1). EXIF rotation is applied; alpha and channels beyond the wanted are dropped.

    Raises:
        InputError: nothing given, or one that is no image; the message says which.
    """
    values = _as_list(ims)
    if not values:
        raise InputError("no images given: the list is empty")
    images = []
    for position, value in enumerate(values):
        try:
            images.append(_load(value, position, channels))
        except (ImageError, InputError) as error:
            place = f"ims[{position}] ({type(value).__name__}): " if len(values) > 1 else ""
            raise InputError(f"{place}{error}") from error
    return images


def _as_list(ims: Any) -> list[Any]:
    """What is given as a list of single images."""
    if isinstance(ims, np.ndarray | Tensor):
        return list(ims) if ims.ndim == 4 else [ims]
    single = isinstance(ims, str | bytes | bytearray | memoryview | os.PathLike | Image.Image | Mapping)
    return [ims] if single or hasattr(ims, "read") or not isinstance(ims, Iterable) else list(ims)


def _load(value: Any, position: int, channels: int) -> NamedImage:
    """One image; ImageError or InputError where it is none."""
    name = f"image{position}"
    if isinstance(value, str | os.PathLike):
        return _load_place(os.fspath(value), channels)
    if isinstance(value, Image.Image):
        name = str(getattr(value, "filename", "") or name)
        return NamedImage(_to_rgb(_from_pil(value, name, channels), channels, name), name)
    if hasattr(value, "read"):
        given = getattr(value, "name", name)
        name, value = given if isinstance(given, str) else name, value.read()
    if isinstance(value, bytes | bytearray | memoryview):
        return NamedImage(_decode(np.frombuffer(value, np.uint8), name, channels), name)
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    if isinstance(value, np.ndarray):
        return NamedImage(_to_rgb(_from_array(value, channels, name), channels, name), name)
    raise InputError(f"{type(value).__name__} is no image; give {KINDS}")


def _load_place(place: str | bytes, channels: int) -> NamedImage:
    """An image by file name or address."""
    place = os.fsdecode(place)
    if not place:
        raise InputError("an empty text is no image; give a file name or an http address")
    if URL.match(place):
        url = URL.sub(lambda match: f"{match[1].lower()}://", place, count=1)
        data = np.frombuffer(fetch_image(url), np.uint8)
        return NamedImage(_decode(data, url, channels), PurePosixPath(unquote(urlsplit(url).path)).name or "image")
    if "://" in place:
        raise InputError(f"{place}: only http and https addresses can be fetched; download it and give the file")
    if place.lower().endswith(".npy"):
        return NamedImage(_flipped(read_image(place, channels=channels)), place)
    return NamedImage(_decode(read_bytes(place), place, channels), place)


def _decode(data: np.ndarray, name: str, channels: int) -> np.ndarray:
    """The image of a file's content, RGB: by OpenCV, or by Pillow which knows more formats."""
    if not data.size:
        raise ImageError(name, "empty (0 bytes)")
    try:
        frame = decode_image(data, name, channels=channels, warn=lambda why: LOGGER.warning(f"WARNING: {name}: {why}"))
        return _flipped(frame)
    except ImageError:
        try:
            image = Image.open(BytesIO(data.data))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            image = None
        if image is None:
            raise
    return _to_rgb(_from_pil(image, name, channels), channels, name)


def _from_pil(image: Image.Image, name: str, channels: int) -> np.ndarray:
    """(H, W) or (H, W, C) uint8, upright; C = 3 is RGB."""
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode in DEEP_MODES:
            deep = np.asarray(image)
            if image.mode == "I" and deep.size and deep.max() > 255:  # 16 bits in memory of 32
                deep = np.clip(deep, 0, 2**16 - 1).astype(np.uint16)
            return _to_bytes(deep, name)
        if image.mode == "La":  # Pillow converts it by way of LA only
            image = image.convert("LA")
        keeps = image.mode == "RGBA" and channels == 4
        return np.asarray(image if keeps else image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(name, f"damaged image ({error})") from error


def _from_array(array: np.ndarray, channels: int, name: str) -> np.ndarray:
    """(H, W) or (H, W, C) uint8 of an array in either order of axes."""
    array = _to_bytes(array, name)
    planes = (*PLANES, channels)
    if array.ndim == 3 and array.shape[0] in planes and array.shape[2] not in planes:
        return array.transpose(1, 2, 0)
    return array


def _to_bytes(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind not in "buif":
        raise InputError(f"{name}: an array of {array.dtype} is no image; give numbers")
    if array.ndim not in (2, 3) or not array.size:
        shape = f"an array of shape {array.shape}"
        raise InputError(f"{name}: {shape} is no image; expected (H, W), (H, W, C) or (C, H, W)")
    return to_uint8(array.astype(array.dtype.newbyteorder("="), copy=False))


def _to_rgb(array: np.ndarray, channels: int, name: str) -> np.ndarray:
    """(H, W, channels), contiguous, of a gray, RGB or RGBA array."""
    if array.ndim == 3 and channels == 3 and array.shape[2] > 3:
        array = array[..., :3]
    if array.ndim == 3 and channels == 1 and array.shape[2] in (3, 4):
        array = array[..., 2::-1]  # `fit_channels` weighs BGR
    return fit_channels(array, channels, name)


def _flipped(frame: np.ndarray) -> np.ndarray:
    """RGB from BGR; other channel counts as they are."""
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if frame.shape[2] == 3 else frame
