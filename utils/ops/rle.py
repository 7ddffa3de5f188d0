"""COCO's run-length code of bitmaps, plain and compressed, without a dependency (format: cocodataset.org/#format-data).

Runs alternate between 0 and 1, starting with 0, and fill the image column by column. The compressed form writes each
run as groups of five bits, low first, from character 48 on; a sixth bit says that more follow, the top bit of the last
group is the sign, and from the fourth run on the value is the difference to the run before the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FIRST_CHARACTER = 48
GROUP_BITS, GROUP, SIGN, MORE = 5, 0x1F, 0x10, 0x20


def encode_rle(bitmap: np.ndarray, left_top: tuple[int, int], size_hw: tuple[int, int]) -> dict[str, Any]:
    """The compressed code `{"size": [h, w], "counts": text}` of a bitmap that lies in a larger, else empty frame.

    The work grows with the bitmap, not with the frame.

    Args:
        bitmap: (h, w) bool.
        left_top: its place in the frame.
        size_hw: of the frame.
    """
    return {"size": [int(side) for side in size_hw], "counts": pack_counts(runs_of(bitmap, left_top, size_hw))}


def runs_of(bitmap: np.ndarray, left_top: tuple[int, int], size_hw: tuple[int, int]) -> np.ndarray:
    """Lengths of the runs of a bitmap in a frame, arguments as `encode_rle`."""
    (left, top), (frame_h, frame_w) = left_top, size_hw
    columns = np.zeros((bitmap.shape[1], bitmap.shape[0] + 1), np.int8)  # an empty pixel ends every column
    columns[:, :-1] = bitmap.T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=np.int8(0)))  # starts and ends in turn
    column, row = np.divmod(changes, columns.shape[1])
    places = (left + column) * frame_h + top + row
    goes_on = np.flatnonzero(places[1:-1:2] == places[2::2]) * 2 + 1  # a run to the foot of one column into the next
    places = np.delete(places, np.concatenate([goes_on, goes_on + 1]))
    runs = np.diff(places, prepend=0, append=frame_h * frame_w)
    return runs[:-1] if len(places) and not runs[-1] else runs


def pack_counts(runs: np.ndarray) -> str:
    """The compressed text of run lengths."""
    values = np.array(runs, np.int64)
    values[3:] -= np.asarray(runs, np.int64)[1:-2]
    characters, last = [], np.zeros(len(values), bool)
    while not last.all():
        groups = values & GROUP
        values = values >> GROUP_BITS
        ends = np.where(groups & SIGN, values == -1, values == 0)
        shown = np.where(last, 0, groups + np.where(ends, 0, MORE) + FIRST_CHARACTER)
        characters.append(shown)
        last = last | ends
    text = np.stack(characters, axis=1).astype(np.uint8) if characters else np.zeros(0, np.uint8)
    return text[text > 0].tobytes().decode("ascii")


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray | None:
    """(H, W) uint8 mask of a run-length code, plain or compressed; None if it is malformed."""
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        runs = np.array(_unpack_counts(counts) if isinstance(counts, str) else counts, np.int64)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return None
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
        return None
    values = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8)
    return np.ascontiguousarray(values.reshape(width, height).T)


def _unpack_counts(text: str) -> Sequence[int]:
    runs: list[int] = []
    position = 0
    while position < len(text):
        value = shift = 0
        more = True
        while more:
            group = ord(text[position]) - FIRST_CHARACTER
            value |= (group & GROUP) << shift
            shift += GROUP_BITS
            position += 1
            more = bool(group & MORE)
        if group & SIGN:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs
