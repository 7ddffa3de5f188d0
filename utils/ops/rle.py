"""COCO run-length encoding (RLE) of masks, plain and compressed (cocodataset.org/#format-data).

Runs alternate between 0 and 1, starting with 0, and fill the image column by column. The compressed form encodes each
run in groups of five bits, low bits first, as characters from 48 on; a sixth bit means that more groups follow, the top
bit of the last group is the sign, and from the fourth run on the value is the difference to the run before the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FIRST_CHARACTER = 48
GROUP_BITS, GROUP, SIGN, MORE = 5, 0x1F, 0x10, 0x20
MAX_SHIFT = 60


def encode_rle(bitmap: np.ndarray, left_top: tuple[int, int], size_hw: tuple[int, int]) -> dict[str, Any]:
    """Compressed RLE `{"size": [h, w], "counts": text}` of a bitmap in a larger frame that is empty elsewhere.

    Time is linear in the size of the bitmap, not of the frame.

    Args:
        bitmap: (h, w) bool.
        left_top: position of the bitmap in the frame.
        size_hw: size of the frame.
    """
    return {"size": [int(side) for side in size_hw], "counts": compress_counts(compute_runs(bitmap, left_top, size_hw))}


def compute_runs(bitmap: np.ndarray, left_top: tuple[int, int], size_hw: tuple[int, int]) -> np.ndarray:
    """Run lengths of a bitmap in a frame; arguments as `encode_rle`."""
    (left, top), (frame_h, frame_w) = left_top, size_hw
    columns = np.zeros((bitmap.shape[1], bitmap.shape[0] + 1), np.int8)  # an empty pixel after each column
    columns[:, :-1] = bitmap.T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=np.int8(0)))  # alternating starts and ends
    column, row = np.divmod(changes, columns.shape[1])
    positions = (left + column) * frame_h + top + row
    continued = np.flatnonzero(positions[1:-1:2] == positions[2::2]) * 2 + 1  # runs across the end of a column
    positions = np.delete(positions, np.concatenate([continued, continued + 1]))
    runs = np.diff(positions, prepend=0, append=frame_h * frame_w)
    return runs[:-1] if len(positions) and not runs[-1] else runs


def compress_counts(runs: np.ndarray) -> str:
    """Compress run lengths to text."""
    values = np.array(runs, np.int64)
    values[3:] -= np.asarray(runs, np.int64)[1:-2]
    characters, done = [], np.zeros(len(values), bool)
    while not done.all():
        groups = values & GROUP
        values = values >> GROUP_BITS
        ends = np.where(groups & SIGN, values == -1, values == 0)
        characters.append(np.where(done, 0, groups + np.where(ends, 0, MORE) + FIRST_CHARACTER))
        done = done | ends
    text = np.stack(characters, axis=1).astype(np.uint8) if characters else np.zeros(0, np.uint8)
    return text[text > 0].tobytes().decode("ascii")


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray | None:
    """Mask (H, W) uint8 of a plain or compressed RLE; None if it is malformed."""
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        runs = np.array(_decompress_counts(counts) if isinstance(counts, str) else counts, np.int64)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return None
    pixels = height * width
    if min(height, width) < 0 or runs.ndim != 1 or ((runs < 0) | (runs > pixels)).any() or runs.sum() != pixels:
        return None
    values = np.repeat(np.arange(len(runs), dtype=np.uint8) % 2, runs)
    return np.ascontiguousarray(values.reshape(width, height).T)


def _decompress_counts(text: str) -> Sequence[int]:
    runs: list[int] = []
    position = 0
    while position < len(text):
        value = shift = 0
        more = True
        while more:
            if shift > MAX_SHIFT:  # each group more would take longer
                raise ValueError("a run of more than 64 bits")
            group = ord(text[position]) - FIRST_CHARACTER
            value |= (group & GROUP) << shift
            shift += GROUP_BITS
            position += 1
            more = bool(group & MORE)
        if group & SIGN:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs
