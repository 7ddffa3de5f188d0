"""Inputs of the hub model."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from loopback import respond, serve_responses
from PIL import Image, ImageCms

from utils.core.errors import InputError
from utils.predict.inputs import load_images

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (40, 60, 3)).astype(np.uint8)
RGB[0, 0] = 255  # floats of it reach 1 exactly
GRAY = RGB[..., 0]
GRAY3 = np.repeat(GRAY[..., None], 3, axis=2)
ALPHA = np.dstack((RGB, np.full((40, 60), 7, np.uint8)))


def one(value: Any, channels: int = 3) -> np.ndarray:
    (image,) = load_images(value, channels=channels)
    assert image.array.dtype == np.uint8
    assert image.array.flags.c_contiguous
    return image.array


def encoded(suffix: str = ".png", array: np.ndarray = RGB) -> bytes:
    return cv2.imencode(suffix, array[..., 2::-1] if array.ndim == 3 else array)[1].tobytes()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(RGB, RGB, id="hwc"),
        pytest.param(RGB.transpose(2, 0, 1), RGB, id="chw"),
        pytest.param(RGB[..., ::-1][..., ::-1], RGB, id="negative-strides"),
        pytest.param(GRAY, GRAY3, id="gray"),
        pytest.param(GRAY[..., None], GRAY3, id="gray-hw1"),
        pytest.param(GRAY[None], GRAY3, id="gray-1hw"),
        pytest.param(ALPHA, RGB, id="rgba"),
        pytest.param(ALPHA.transpose(2, 0, 1), RGB, id="rgba-chw"),
        pytest.param(np.dstack((ALPHA, ALPHA)), RGB, id="eight-channels"),
        pytest.param(RGB.astype(np.uint16) * 257, RGB, id="uint16"),
        pytest.param((RGB.astype(np.uint16) * 257).astype(">u2"), RGB, id="uint16-other-byte-order"),
        pytest.param(RGB.astype(np.float32) / 255, RGB, id="float-0-1"),
        pytest.param(RGB.astype(np.float64), RGB, id="float-0-255"),
        pytest.param(RGB.astype(np.float16), RGB, id="half-0-255"),
        pytest.param(RGB.astype(np.int64), RGB, id="int64"),
        pytest.param(GRAY > 99, (GRAY3 > 99).astype(np.uint8) * 255, id="bool"),
        pytest.param(torch.from_numpy(RGB.transpose(2, 0, 1).copy()), RGB, id="tensor-chw"),
        pytest.param(torch.from_numpy(RGB), RGB, id="tensor-hwc"),
        pytest.param(torch.from_numpy(RGB).float().permute(2, 0, 1) / 255, RGB, id="tensor-float"),
        pytest.param(torch.from_numpy(RGB).float().bfloat16(), RGB, id="tensor-bfloat16"),
        pytest.param(torch.from_numpy(GRAY > 99).long(), (GRAY3 > 99).astype(np.uint8), id="tensor-int64-dark"),
        pytest.param(torch.from_numpy(GRAY).float().requires_grad_() / 255, GRAY3, id="tensor-gray-with-gradient"),
    ],
)
def test_arrays_and_tensors(value: Any, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(one(value), expected)


def test_narrow_image_is_not_mistaken_for_chw() -> None:
    narrow = RGB[:3]  # (3, 60, 3): three rows of pixels
    np.testing.assert_array_equal(one(narrow), narrow)
    np.testing.assert_array_equal(one(RGB[:, :4].transpose(2, 0, 1)[:, :, :4]), RGB[:, :4].transpose(2, 0, 1)[..., :3])


def deep(mode: str) -> Image.Image:
    if mode == "I":
        return Image.fromarray(GRAY.astype(np.int32) * 257)
    return Image.fromarray((GRAY / 255).astype(np.float32)) if mode == "F" else Image.fromarray(GRAY.astype("u2") * 257)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.fromarray(RGB), RGB, id="RGB"),
        pytest.param(Image.fromarray(ALPHA), RGB, id="RGBA"),
        pytest.param(Image.fromarray(GRAY), GRAY3, id="L"),
        pytest.param(Image.fromarray(GRAY).convert("LA"), GRAY3, id="LA"),
        pytest.param(Image.fromarray(ALPHA[..., :3]).convert("RGBA").convert("RGBa"), RGB, id="RGBa"),
        pytest.param(Image.fromarray(GRAY > 99), (GRAY3 > 99).astype(np.uint8) * 255, id="1"),
        pytest.param(Image.fromarray(GRAY).convert("P"), GRAY3, id="P"),
        pytest.param(Image.fromarray(RGB).convert("CMYK"), RGB, id="CMYK"),
        pytest.param(deep("I;16"), GRAY3, id="I;16"),
        pytest.param(deep("I"), GRAY3, id="I"),
        pytest.param(Image.fromarray(GRAY.astype(np.int32)), GRAY3, id="I-of-bytes"),
        pytest.param(deep("F"), GRAY3, id="F"),
    ],
)
def test_pil_modes(image: Image.Image, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(one(image), expected)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB"])
def test_pil_modes_that_convert_with_loss(mode: str) -> None:
    gradient = np.dstack([np.tile(np.linspace(40, 200, 64, dtype=np.uint8), (40, 1))] * 3)
    image = Image.fromarray(gradient)
    if mode == "LAB":  # Pillow converts to it by color profiles only
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    np.testing.assert_allclose(one(image if mode == "LAB" else image.convert(mode)), gradient, atol=3)


def test_exif_rotation(tmp_path: Path) -> None:
    turned = Image.fromarray(RGB)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned left: shown turned right
    file = tmp_path / "turned.png"
    turned.save(file, exif=exif)
    expected = np.rot90(RGB, -1)
    np.testing.assert_array_equal(one(Image.open(file)), expected)
    jpeg = tmp_path / "turned.jpg"
    turned.save(jpeg, exif=exif, quality=95)
    assert one(jpeg).shape == one(Image.open(jpeg)).shape == (60, 40, 3)


def test_files_bytes_and_streams(tmp_path: Path) -> None:
    file = tmp_path / "übung 1.png"
    file.write_bytes(encoded())
    for value in (str(file), file, file.read_bytes(), bytearray(file.read_bytes()), io.BytesIO(file.read_bytes())):
        np.testing.assert_array_equal(one(value), RGB)
    with file.open("rb") as stream:
        (image,) = load_images(stream)
    assert image.name == str(file)
    np.save(tmp_path / "a.npy", RGB[..., ::-1])  # arrays in files are BGR, as everywhere in the project
    np.testing.assert_array_equal(one(tmp_path / "a.npy"), RGB)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_files(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"deep{suffix}"
    file.write_bytes(encoded(suffix, RGB.astype(np.uint16) * 257))
    np.testing.assert_array_equal(one(file), RGB)
    file.write_bytes(encoded(suffix, GRAY.astype(np.uint16) * 257))
    np.testing.assert_array_equal(one(file), GRAY3)


def test_formats_that_only_pillow_supports(tmp_path: Path) -> None:
    file = tmp_path / "icon.ico"
    Image.fromarray(RGB).resize((32, 32), Image.Resampling.NEAREST).save(file, sizes=[(32, 32)])
    assert one(file).shape == (32, 32, 3)


def test_models_of_other_channel_counts() -> None:
    gray = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)[..., None]
    for value in (RGB, ALPHA, Image.fromarray(RGB), RGB.transpose(2, 0, 1)):
        np.testing.assert_array_equal(one(value, channels=1), gray)
    np.testing.assert_array_equal(one(GRAY, channels=1), GRAY[..., None])
    np.testing.assert_array_equal(one(ALPHA, channels=4), ALPHA)
    np.testing.assert_array_equal(one(Image.fromarray(ALPHA), channels=4), ALPHA)
    ten = RNG.integers(0, 256, (40, 60, 10)).astype(np.uint8)
    np.testing.assert_array_equal(one(ten, channels=10), ten)
    np.testing.assert_array_equal(one(ten.transpose(2, 0, 1), channels=10), ten)
    with pytest.raises(InputError, match="has 3 channels, but the model expects 10"):
        one(RGB, channels=10)


@pytest.mark.parametrize("group", [list, tuple, iter, lambda values: (v for v in values)])
def test_several_images(group: Callable[[list[Any]], Any]) -> None:
    images = load_images(group([RGB, Image.fromarray(GRAY), encoded()]))
    assert [p.name for p in images] == ["image0", "image1", "image2"]
    for image, expected in zip(images, (RGB, GRAY3, RGB), strict=True):
        np.testing.assert_array_equal(image.array, expected)


def test_batch_in_one_array() -> None:
    assert [p.array.shape for p in load_images(np.stack((RGB, RGB)))] == [RGB.shape] * 2


def test_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOv5_ALLOW_PRIVATE_URLS", "1")
    with serve_responses({"/a%20b.png": respond(encoded()), "/page": respond(b"<html>")}) as base:
        for value in (f"{base}/a%20b.png?x=1", Path(f"{base}/a%20b.png"), base.replace("http", "HTTP") + "/a%20b.png"):
            (image,) = load_images(value)
            np.testing.assert_array_equal(image.array, RGB)
            assert image.name == "a b.png"
        with pytest.raises(InputError, match="/page: damaged, or not an image in a known format"):
            load_images(f"{base}/page")
    monkeypatch.delenv("YOLOv5_ALLOW_PRIVATE_URLS")
    with pytest.raises(InputError, match="not a public address"):
        load_images(f"{base}/a.png")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param({"image": RGB}, "dict is not an image; give a file name", id="mapping"),
        pytest.param(None, "NoneType is not an image", id="none"),
        pytest.param("", "an empty string is not an image", id="empty-text"),
        pytest.param(7, "int is not an image", id="number"),
        pytest.param([], "no images given", id="empty-list"),
        pytest.param(b"", "empty", id="no-bytes"),
        pytest.param(b"text", "image0: damaged, or not an image", id="other-bytes"),
        pytest.param("nowhere.jpg", "nowhere.jpg: No such file", id="no-file"),
        pytest.param("ftp://a/b.jpg", "only http and https", id="other-scheme"),
        pytest.param(np.zeros((0, 4, 3)), r"shape \(0, 4, 3\) is not an image", id="no-pixels"),
        pytest.param(np.zeros(5), r"shape \(5,\) is not an image", id="one-axis"),
        pytest.param(np.zeros((9, 9, 2)), "has 2 channels, but the model expects 3", id="two-channels"),
        pytest.param(np.array([["a"]]), "an array of <U1 is not an image", id="text"),
        pytest.param(np.zeros((9, 9), complex), "an array of complex128", id="complex"),
        pytest.param([RGB, "nowhere.jpg"], r"^ims\[1\] \(str\): nowhere.jpg: No such file", id="second"),
        pytest.param([RGB, RGB, object()], r"^ims\[2\] \(object\): object is not an image", id="third"),
        pytest.param([torch.zeros(1, 3, 8, 8)], r"shape \(1, 3, 8, 8\)", id="batch-in-a-list"),
        pytest.param([None], r"^ims\[0\] \(NoneType\): NoneType is not an image", id="only-one"),
        pytest.param([[RGB]], r"^ims\[0\] \(list\): list is not an image", id="nested-list"),
        pytest.param(np.array([RGB, RGB[:4]], object), r"shape \(2,\) is not an image", id="array-of-arrays"),
        pytest.param(np.array([[1, None]]), "an array of object is not an image", id="objects"),
        pytest.param(np.zeros((8, 8), [("x", int)]), r"an array of \[\('x', .* is not an image", id="records"),
        pytest.param(Image.new("RGB", (0, 5)), r"image0: an array of shape \(5, 0\) is not an image", id="pil-empty"),
        pytest.param("a\0.jpg", r"a\\x00\.jpg: ", id="null-byte"),
        pytest.param("http://[::1", r"http://\[::1: ", id="ipv6"),
        pytest.param("http://h\0/a", r"http://h\\x00/a: ", id="null-byte-in-url"),
        pytest.param("http://\udcff/a", r"http://\\udcff/a: ", id="url-not-utf-8"),
        pytest.param("http://a..b/a.jpg", r"http://a\.\.b/a\.jpg: cannot be reached", id="host"),
        pytest.param(memoryview(RGB)[::2], "image0: damaged, or not an image", id="memory-with-strides"),
        pytest.param(torch.zeros(8, 8).to_sparse(), "the tensor has no values that NumPy can read", id="sparse"),
        pytest.param(torch.zeros(8, 8, device="meta"), "the tensor has no values that NumPy can read", id="meta"),
    ],
)
def test_values_that_are_not_images(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_images(value)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(np.broadcast_to(np.uint8(0), (100_000, 100_000, 3)), id="bytes"),
        pytest.param(np.broadcast_to(np.float32(0), (60_000, 60_000)), id="floats"),
        pytest.param(torch.zeros(1).expand(200_000, 200_000), id="tensor"),
        pytest.param(Image.new("1", (20_000, 20_000)), id="pil"),
    ],
)
def test_huge_shapes(value: Any) -> None:
    with pytest.raises(InputError, match=r"^ims\[1\] .*: image1: an array of shape .* the limit is .*--no-limits"):
        load_images([RGB, value])


def test_endless_iterables(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^ims\[0\] \(NoneType\)"):
        load_images(iter(lambda: None, 0))
    monkeypatch.setattr("utils.predict.inputs.MAX_TOTAL_PIXELS", 10 * RGB.shape[0] * RGB.shape[1])
    with pytest.raises(InputError, match="ims: 11 images have more than 24,000 pixels; pass fewer at once"):
        load_images(RGB for _ in itertools.count())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.parametrize("name", ["pipe.jpg", "pipe.npy"])
def test_named_pipe(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: not a regular file"):
        load_images(tmp_path / name)


@pytest.mark.skipif(os.name != "posix", reason="reads /dev/zero")
def test_streams_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    with open(tmp_path / "a.png", "rb") as closed:
        pass
    with pytest.raises(InputError, match=r"a\.png: cannot be read \(read of closed file\)"):
        load_images(closed)
    with open(tmp_path / "a.png") as text, pytest.raises(InputError, match=r"a\.png: cannot be read .*utf-8"):
        load_images(text)
    monkeypatch.setattr("utils.predict.inputs.MAX_FILE_BYTES", 1000)
    with open("/dev/zero", "rb") as endless, pytest.raises(InputError, match="more than 1,000"):
        load_images(endless)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -5.0])
def test_values_that_are_no_brightness(value: float) -> None:
    array = one(np.full((8, 8, 3), value))
    assert array.dtype == np.uint8 and len(np.unique(array)) == 1


def test_negative_strides_and_read_only_arrays() -> None:
    np.testing.assert_array_equal(one(RGB[::-1, ::-1]), RGB[::-1, ::-1])
    np.testing.assert_array_equal(one(np.broadcast_to(RGB[:1], RGB.shape)), np.broadcast_to(RGB[:1], RGB.shape))


def test_programs_are_not_images() -> None:
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    assert Image.open(io.BytesIO(program)).format == "EPS"
    with pytest.raises(InputError, match="damaged, or not an image in a known format"):
        load_images(program)


def test_truncated_image(tmp_path: Path) -> None:
    data = encoded()
    broken = Image.open(io.BytesIO(data[: len(data) // 2]))
    with pytest.raises(InputError, match="image0: damaged image"):
        load_images(broken)


def test_input_is_not_modified() -> None:
    mine = RGB.copy()
    array = one(mine)
    assert array is mine or not np.shares_memory(array, mine)
    np.testing.assert_array_equal(mine, RGB)
