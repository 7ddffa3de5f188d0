from __future__ import annotations

import numpy as np
import pytest

from utils.ops.rle import compress_counts, compute_runs, decode_rle, encode_rle


def test_run_lengths_by_hand() -> None:
    mask = decode_rle({"size": [2, 3], "counts": [1, 2, 3]})
    assert mask is not None
    assert mask.tolist() == [[0, 1, 0], [1, 0, 0]]
    packed = decode_rle({"size": [2, 3], "counts": "123"})
    assert packed is not None
    assert packed.tolist() == mask.tolist()
    for bad in ({"size": [2, 3], "counts": [1, 2]}, {"size": [2, 3], "counts": "P"}, {"counts": []}):
        assert decode_rle(bad) is None


def test_compressed_run_lengths_against_pycocotools() -> None:
    coco_mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for threshold in (0.02, 0.5, 0.999):
        mask = (rng.random((61, 47)) < threshold).astype(np.uint8)
        rle = coco_mask.encode(np.asfortranarray(mask))
        decoded = decode_rle({"size": rle["size"], "counts": rle["counts"].decode()})
        assert decoded is not None
        assert (decoded == mask).all()


@pytest.mark.parametrize(
    ("left_top", "size_hw", "runs"),
    [
        pytest.param((0, 0), (2, 2), [0, 3, 1], id="whole-frame"),
        pytest.param((1, 1), (4, 4), [5, 2, 2, 1, 6], id="inside"),
        pytest.param((2, 0), (2, 4), [4, 3, 1], id="touching-columns"),
        pytest.param((2, 2), (4, 4), [10, 2, 2, 1, 1], id="lower-right-corner"),
    ],
)
def test_runs_of_a_bitmap_in_a_frame(left_top: tuple[int, int], size_hw: tuple[int, int], runs: list[int]) -> None:
    bitmap = np.array([[True, True], [True, False]])
    assert compute_runs(bitmap, left_top, size_hw).tolist() == runs


def test_full_last_column_adds_no_empty_run() -> None:
    assert compute_runs(np.ones((2, 1), bool), (2, 0), (2, 3)).tolist() == [4, 2]
    assert compute_runs(np.zeros((2, 1), bool), (2, 0), (2, 3)).tolist() == [6]
    assert compute_runs(np.zeros((0, 0), bool), (0, 0), (2, 3)).tolist() == [6]


def test_encoding_against_pycocotools() -> None:
    coco_mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for number in range(200):
        frame_hw = rng.integers(1, 40, 2)
        low, high = np.sort(np.stack([rng.integers(0, frame_hw + 1), rng.integers(0, frame_hw + 1)]), axis=0)
        frame = np.zeros(frame_hw, np.uint8)
        bitmap = rng.random(high - low) < rng.choice([0, 0.1, 0.5, 0.9, 1])
        frame[low[0] : high[0], low[1] : high[1]] = bitmap
        code = encode_rle(bitmap, (int(low[1]), int(low[0])), (int(frame_hw[0]), int(frame_hw[1])))
        expected = coco_mask.encode(np.asfortranarray(frame))
        assert code["counts"] == expected["counts"].decode(), number
        assert code["size"] == expected["size"]
        decoded = decode_rle(code)
        assert decoded is not None and (decoded == frame).all()


def test_long_runs_take_several_groups_of_bits() -> None:
    runs = np.array([0, 1, 31, 32, 1 << 20, 5, 3])
    decoded = decode_rle({"size": [1, int(runs.sum())], "counts": compress_counts(runs)})
    assert decoded is not None
    assert np.flatnonzero(np.diff(decoded[0], prepend=0)).tolist() == [0, 1, 32, 64, (1 << 20) + 64, (1 << 20) + 69]
