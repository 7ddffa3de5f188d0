from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from utils.imaging.letterbox import compute_rect_shapes, fit_longest_side, letterbox


@pytest.mark.parametrize("case", range(8))
def test_letterbox_golden(shared: Path, case: int) -> None:
    golden = np.load(shared / "reference/golden/letterbox.npz")
    meta = json.loads(str(golden["meta"]))[case]
    frame, out = golden[f"in{case}"], golden[f"out{case}"]
    shape = meta["new_shape"]
    padded, fit = letterbox(
        frame,
        shape if isinstance(shape, int) else tuple(shape),
        auto=meta["auto"],
        scale_fill=meta["scale_fill"],
        scale_up=meta["scaleup"],
        stride=meta["stride"],
    )
    np.testing.assert_array_equal(padded, out)
    assert fit.pad_wh == (
        int(meta["pad"][0]),
        int(meta["pad"][1]),
    )
    sides_wh = (frame.shape[1], frame.shape[0])
    for real, nominal, side in zip(fit.ratio_wh, meta["ratio"], sides_wh, strict=True):
        assert abs(real * side - nominal * side) <= 0.5  # the resized side is the nominal one, rounded


def test_letterbox_maps_corners_exactly() -> None:
    frame = np.full((30, 40, 3), 200, np.uint8)
    out, fit = letterbox(frame, (64, 64))
    assert fit.original_hw == (30, 40)
    assert fit.ratio_wh == (1.6, 1.6)
    assert fit.pad_wh == (0, 8)
    assert (out[8:56] == 200).all()
    assert (out[:8] == 114).all()
    assert (out[56:] == 114).all()


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1)])
def test_thin_image_keeps_a_pixel(shape: tuple[int, int]) -> None:
    out, _ = letterbox(np.full((*shape, 3), 7, np.uint8), (64, 64))
    assert (out == 7).any()
    assert min(fit_longest_side(shape, 64)) == 1


@pytest.mark.parametrize("channels", [1, 4, 10, 300])
def test_letterbox_keeps_channels(channels: int) -> None:
    plane = np.arange(200, dtype=np.uint8).reshape(20, 10, 1)
    out, _ = letterbox(np.repeat(plane, channels, axis=2), (32, 64))
    np.testing.assert_array_equal(out, np.repeat(letterbox(plane, (32, 64))[0], channels, axis=2))


def test_rect_shapes_by_hand() -> None:
    sizes = np.array([[480, 640], [500, 640], [640, 640], [640, 480], [1000, 500], [640, 320]])
    # flat pair: 500/640 * 640 / 32 + 0.5 = 16.125 -> 17; mixed pair: square 20.5 -> 21; tall pair: 1/2 -> 10.5 -> 11
    shapes = compute_rect_shapes(sizes, 2, imgsz=640, stride=32, pad=0.5)
    assert shapes.tolist() == [[544, 672], [672, 672], [672, 352]]
    assert compute_rect_shapes(sizes[:1], 4, imgsz=640, stride=32, pad=0.0).tolist() == [[480, 640]]
    assert compute_rect_shapes(np.zeros((0, 2)), 4, imgsz=640, stride=32, pad=0.0).shape == (0, 2)
