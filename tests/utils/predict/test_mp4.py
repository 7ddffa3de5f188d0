"""MP4 files: the same frames as OpenCV's, playable when cut anywhere, plain MP4 when closed."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.predict.mp4 import Clip, FragmentedMp4, find_box, iter_boxes, pack_box, set_duration

CLIP_FRAMES, FPS = 12, 23.976


TEXTURE = np.kron(np.random.default_rng(0).integers(0, 40, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))


def draw_frame(number: int) -> np.ndarray:
    """A frame (48, 64, 3) with a moving texture and a brightness that encodes the number."""
    return np.roll(TEXTURE, number, axis=1) + np.uint8(4 * (number % 50))


def read_numbers(frames: list[np.ndarray]) -> list[int]:
    """The numbers of frames below 50, of which the first is 0."""
    return [round((frame.mean() - frames[0].mean()) / 4) for frame in frames]


def encode(file: Path, numbers: range, scale: int = 1) -> bytes:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), FPS, (64 * scale, 48 * scale))
    for number in numbers:
        writer.write(np.kron(draw_frame(number), np.ones((scale, scale, 1), np.uint8)))
    writer.release()
    return file.read_bytes()


def write_mp4(file: Path, num_frames: int, scale: int = 1) -> FragmentedMp4:
    """A file that is not closed."""
    mp4: FragmentedMp4 | None = None
    for start in range(0, num_frames, CLIP_FRAMES):
        numbers = range(start, min(start + CLIP_FRAMES, num_frames))
        clip = Clip.parse(encode(file.with_name("clip.mp4"), numbers, scale))
        mp4 = mp4 or FragmentedMp4(file, clip)
        mp4.append(clip)
    assert mp4 is not None
    return mp4


def read_frames(file: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(file)), []
    while (item := capture.read())[0]:
        frames.append(item[1])
    capture.release()
    return frames


def read_properties(file: Path) -> tuple[float, ...]:
    """Number of frames, frame rate, height and width."""
    capture = cv2.VideoCapture(str(file))
    names = ("FRAME_COUNT", "FPS", "FRAME_HEIGHT", "FRAME_WIDTH")
    values = tuple(capture.get(getattr(cv2, f"CAP_PROP_{name}")) for name in names)
    capture.release()
    return values


@pytest.mark.parametrize("num_frames", [1, 12, 13, 50])
@pytest.mark.parametrize("closed", [True, False])
def test_frames_equal_those_of_the_clips(tmp_path: Path, num_frames: int, closed: bool) -> None:
    mp4 = write_mp4(tmp_path / "a.mp4", num_frames)
    assert mp4.num_frames == num_frames
    if closed:
        mp4.close()
    frames = read_frames(tmp_path / "a.mp4")
    assert read_properties(tmp_path / "a.mp4") == (num_frames, pytest.approx(FPS), 48, 64)
    assert read_numbers(frames) == list(range(num_frames))


@pytest.mark.parametrize("closed", [True, False])
def test_every_frame_can_be_sought(tmp_path: Path, closed: bool) -> None:
    mp4 = write_mp4(tmp_path / "a.mp4", 50)
    if closed:
        mp4.close()
    frames, capture = read_frames(tmp_path / "a.mp4"), cv2.VideoCapture(str(tmp_path / "a.mp4"))
    for number in (49, 0, 30, 11, 12, 13, 48, 1):
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        assert np.array_equal(capture.read()[1], frames[number])
    capture.release()


def test_closed_file_has_one_index_and_one_media_box(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", 50).close()
    data = (tmp_path / "a.mp4").read_bytes()
    assert [kind for kind, _ in iter_boxes(data)] == [b"ftyp", b"mdat", b"moov"]
    tables = dict(iter_boxes(find_box(data, b"moov", b"trak", b"mdia", b"minf", b"stbl")))
    assert struct.unpack(">6I", tables[b"stss"][4:28]) == (5, 1, 13, 25, 37, 49)  # key frames
    assert struct.unpack(">8I", tables[b"stsc"]) == (0, 2, 1, 12, 1, 5, 2, 1)  # four clips of 12 frames, one of 2
    offset, size = struct.unpack(">I", tables[b"stco"][8:12])[0], struct.unpack(">I", tables[b"stsz"][12:16])[0]
    assert data[offset : offset + size] == Clip.parse(encode(tmp_path / "b.mp4", range(1))).frames


def test_file_is_hardly_larger_than_that_of_opencv(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", 120, scale=10).close()
    assert (tmp_path / "a.mp4").stat().st_size < 1.02 * len(encode(tmp_path / "b.mp4", range(120), scale=10))


def test_file_that_is_cut_anywhere_plays_as_far_as_it_goes(tmp_path: Path) -> None:
    mp4 = write_mp4(tmp_path / "a.mp4", 36)
    fragmented = (tmp_path / "a.mp4").stat().st_size
    mp4.close()
    closed, cut = (tmp_path / "a.mp4").read_bytes(), tmp_path / "cut.mp4"
    start = closed.index(b"mdat") - 4
    unfinished = closed[:start] + pack_box(b"free", bytes(8)) + closed[start + 16 :]  # before the last step of `close`
    counts = []
    for size in range(1500, len(unfinished) + 1, 997):
        cut.write_bytes(unfinished[:size])
        counts.append(len(read_frames(cut)))
        if size >= fragmented:
            assert counts[-1] == 36
    assert counts == sorted(counts) and counts[0] < 12 and counts[-1] == 36
    cut.write_bytes(unfinished)
    assert len(read_frames(cut)) == 36


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="the program ffprobe is not installed")
@pytest.mark.parametrize("closed", [True, False])
def test_ffprobe_agrees(tmp_path: Path, closed: bool) -> None:
    mp4 = write_mp4(tmp_path / "a.mp4", 50)
    if closed:
        mp4.close()
    fields = "stream=nb_read_frames,duration,avg_frame_rate"
    command = ["ffprobe", "-v", "warning", "-count_frames", "-show_entries", fields, "-of", "csv=p=0"]
    result = subprocess.run([*command, str(tmp_path / "a.mp4")], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert result.stdout.strip() == f"2997/125,{50 / FPS:.6f},50"


def test_failed_write_leaves_the_clips_before(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    mp4 = write_mp4(tmp_path / "a.mp4", 24)
    clip = Clip.parse(encode(tmp_path / "clip.mp4", range(12)))
    size = (tmp_path / "a.mp4").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[1]))
    try:
        with pytest.raises(OSError, match=r"large.*a\.mp4"):
            mp4.append(clip)
        assert (tmp_path / "a.mp4").stat().st_size == size
        with pytest.raises(OSError, match=r"large.*a\.mp4"):
            mp4.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(read_frames(tmp_path / "a.mp4")) == 24


@pytest.mark.parametrize("size", [0, 5, 40, 1000, -1])
def test_incomplete_clip(tmp_path: Path, size: int) -> None:
    data = encode(tmp_path / "clip.mp4", range(3))
    with pytest.raises(ValueError, match="incomplete MP4 file"):
        Clip.parse(data[:size])


def test_clip_with_other_data() -> None:
    table = pack_box(b"stsz", struct.pack(">3I", 0, 10, 2))
    header = pack_box(b"trak", pack_box(b"mdia", pack_box(b"minf", pack_box(b"stbl", table))))
    assert Clip.parse(pack_box(b"moov", header) + pack_box(b"mdat", bytes(20))).sizes == [10, 10]
    with pytest.raises(ValueError, match="more than one track"):
        Clip.parse(pack_box(b"moov", header) + pack_box(b"mdat", bytes(21)))
    with pytest.raises(ValueError, match="MP4 file without stbl"):
        Clip.parse(pack_box(b"moov", b"") + pack_box(b"mdat", b""))


def test_durations_beyond_32_bits_need_version_1() -> None:
    header = struct.pack(">6I", 7, 1, 2, 90_000, 5, 9)  # flags, created, modified, time scale, duration, rest
    assert set_duration(header, 2**32 - 1, place=16) == struct.pack(">6I", 7, 1, 2, 90_000, 2**32 - 1, 9)
    expected = struct.pack(">I2QIQI", 1 << 24 | 7, 1, 2, 90_000, 2**32, 9)
    assert set_duration(header, 2**32, place=16) == expected


def test_file_beyond_4_gb(tmp_path: Path) -> None:
    """The index has 64-bit places; the gap is a hole in the file."""
    mp4 = write_mp4(tmp_path / "a.mp4", 12)
    gap = 2**32
    mp4._file.write(struct.pack(">I4sQ", 1, b"free", gap))
    mp4._end += gap
    mp4._file.seek(mp4._end)
    mp4.append(Clip.parse(encode(tmp_path / "clip.mp4", range(12, 24))))
    mp4.close()
    assert read_numbers(read_frames(tmp_path / "a.mp4")) == list(range(24))
    assert read_properties(tmp_path / "a.mp4")[0] == 24
    (tmp_path / "a.mp4").unlink()
