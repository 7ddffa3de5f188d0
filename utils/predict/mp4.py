"""MP4 files that stay playable if the program is killed (box format: ISO/IEC 14496-12)."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np

from utils.core.files import add_path_to_errors

CONTAINERS = frozenset({b"trak", b"mdia", b"minf"})
BRANDS = b"isom" + struct.pack(">I", 0x200) + b"isomiso2iso5mp41"
KEY_FRAME, OTHER_FRAME = 0x02000000, 0x01010000  # sample flags: depends on no other; no sync sample
MAX_UINT32 = 2**32 - 1


@dataclass(frozen=True)
class Clip:
    """Content of an MP4 file with one video track of constant frame rate.

    Attributes:
        header: content of the `moov` box.
        sizes: bytes of each frame.
        keyframes: positions of the key frames, from 0.
        frames: the encoded frames, one after another.
    """

    header: bytes
    sizes: Sequence[int]
    keyframes: Sequence[int]
    frames: bytes

    @classmethod
    def parse(cls, data: bytes) -> Clip:
        """Parse the content of a file; ValueError if it is incomplete, or contains more than a video track."""
        boxes = dict(iter_boxes(data))
        if not {b"moov", b"mdat"} <= boxes.keys():
            raise ValueError("incomplete MP4 file")
        tables = dict(iter_boxes(find_box(boxes[b"moov"], b"trak", b"mdia", b"minf", b"stbl")))
        equal_size, count = struct.unpack_from(">2I", tables[b"stsz"], 4)
        sizes = [equal_size] * count if equal_size else np.frombuffer(tables[b"stsz"], ">u4", count, 12).tolist()
        keyframes: Sequence[int] = range(count)  # without the table, all
        if b"stss" in tables:
            keyframes = [number - 1 for number in np.frombuffer(tables[b"stss"], ">u4", offset=8).tolist()]
        if sum(sizes) != len(boxes[b"mdat"]):
            raise ValueError("MP4 file with more than one track")
        return cls(boxes[b"moov"], sizes, keyframes, boxes[b"mdat"])

    @cached_property
    def frame_duration(self) -> int:
        """Duration of a frame in units of the track's time scale."""
        return int(struct.unpack_from(">I", find_box(self.header, b"trak", b"mdia", b"minf", b"stbl", b"stts"), 12)[0])

    @cached_property
    def track_id(self) -> int:
        """Number of the video track."""
        return int(struct.unpack_from(">I", find_box(self.header, b"trak", b"tkhd"), 12)[0])

    def pack_header(self, num_frames: int, tables: bytes, more: bytes = b"") -> bytes:
        """The `moov` box of a longer file.

        Args:
            tables: boxes of the frames' durations, sizes and places.
            more: further boxes.
        """
        movie, track = find_box(self.header, b"mvhd"), find_box(self.header, b"trak", b"tkhd")
        media = find_box(self.header, b"trak", b"mdia", b"mdhd")
        codec = find_box(self.header, b"trak", b"mdia", b"minf", b"stbl", b"stsd")
        duration = num_frames * self.frame_duration
        movie_scale, media_scale = (struct.unpack_from(">I", header, 12)[0] for header in (movie, media))
        movie_duration = -(-duration * movie_scale // media_scale)  # rounded up
        content = edit_boxes(
            self.header,
            {
                b"mvhd": set_duration(movie, movie_duration, place=16),
                b"tkhd": set_duration(track, movie_duration, place=20),
                b"mdhd": set_duration(media, duration, place=16),
                b"edts": None,  # the duration of the clip
                b"stbl": pack_box(b"stsd", codec) + tables,
            },
        )
        return pack_box(b"moov", content + more)

    def pack_fragment(self, number: int, start: int, track_id: int) -> bytes:
        """The clip as a movie fragment: boxes `moof` and `mdat`.

        Args:
            number: of the fragment, from 1.
            start: time of the first frame in units of the time scale.
        """
        flags = [OTHER_FRAME] * len(self.sizes)
        for position in self.keyframes:
            flags[position] = KEY_FRAME
        samples = np.array([self.sizes, flags], ">u4").T.tobytes()

        def pack_moof(offset: int) -> bytes:
            track = pack_box(b"tfhd", struct.pack(">2I", 0x020000, track_id))  # offsets from the start of the fragment
            time = pack_box(b"tfdt", struct.pack(">IQ", 1 << 24, start))
            run = pack_box(b"trun", struct.pack(">3I", 0x000601, len(flags), offset) + samples)  # a size and flags each
            sequence = pack_box(b"mfhd", struct.pack(">2I", 0, number))
            return pack_box(b"moof", sequence + pack_box(b"traf", track + time + run))

        return pack_moof(len(pack_moof(0)) + 8) + pack_box(b"mdat", self.frames)


class FragmentedMp4:
    """An MP4 file that grows by clips and is playable after each of them (movie fragments).

    `close` adds the index of an ordinary MP4 file and declares everything before it media data, because not all
    players support fragments.

    Args:
        path: replaced if it exists.
        template: a clip with the frame size, frame rate and codec of the file.

    Raises:
        OSError: the file cannot be created.
    """

    def __init__(self, path: Path, template: Clip) -> None:
        self.path, self.template = path, template
        self._end = 0  # of the file
        self._sizes, self._keyframes = array("I"), array("I")  # of all frames; numbers from 1
        self._offsets, self._counts = array("Q"), array("I")  # of the frames in each clip
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by close()
        self._write(pack_box(b"ftyp", BRANDS))
        self._start = self._end
        defaults = struct.pack(">6I", 0, template.track_id, 1, template.frame_duration, 0, 0)
        fragments = pack_box(b"mvex", pack_box(b"trex", defaults))
        self._write(pack_box(b"free", bytes(8)) + template.pack_header(0, self._pack_tables(), fragments))

    @property
    def num_frames(self) -> int:
        """Number of frames in the file."""
        return len(self._sizes)

    def append(self, clip: Clip) -> None:
        """Append a clip; OSError if it cannot be written, in which case the file ends with the one before."""
        start = self.num_frames * self.template.frame_duration
        self._write(clip.pack_fragment(len(self._counts) + 1, start, self.template.track_id))
        self._keyframes.extend(self.num_frames + 1 + position for position in clip.keyframes)
        self._offsets.append(self._end - len(clip.frames))
        self._counts.append(len(clip.sizes))
        self._sizes.extend(clip.sizes)

    def close(self) -> None:
        """Finish the file; OSError if the index cannot be written, which leaves the file fragmented."""
        if self._file.closed:
            return
        with self._file:
            end = self._end
            self._write(self.template.pack_header(self.num_frames, self._pack_tables()))
            self._file.seek(self._start)
            self._file.write(struct.pack(">I4sQ", 1, b"mdat", end - self._start))  # in place of the `free` box

    def _write(self, data: bytes) -> None:
        """Append all of the data or, on an error, nothing."""
        try:
            with add_path_to_errors(self.path):
                rest = memoryview(data)
                while rest:
                    rest = rest[self._file.write(rest) :]
        except BaseException:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            raise
        self._end += len(data)

    def _pack_tables(self) -> bytes:
        """Boxes with the duration, size and place of each frame."""
        layout, chunk = [], 1
        for count, group in groupby(self._counts):
            layout.append((chunk, count, 1))
            chunk += len(list(group))
        durations = [(self.num_frames, self.template.frame_duration)] if self.num_frames else []
        is_small = self._end <= MAX_UINT32
        tables = {
            b"stts": np.array(durations, ">u4"),
            b"stss": np.array(self._keyframes, ">u4"),
            b"stsc": np.array(layout, ">u4"),
            b"stco" if is_small else b"co64": np.array(self._offsets, ">u4" if is_small else ">u8"),
        }
        sizes = struct.pack(">3I", 0, 0, self.num_frames) + np.array(self._sizes, ">u4").tobytes()
        boxes = [pack_box(kind, struct.pack(">2I", 0, len(rows)) + rows.tobytes()) for kind, rows in tables.items()]
        return b"".join([*boxes, pack_box(b"stsz", sizes)])


def iter_boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of each box; ValueError if one exceeds the data."""
    place = 0
    while place < len(data):
        head = data[place : place + 16]
        size, kind = struct.unpack_from(">I4s", head) if len(head) >= 8 else (0, b"")
        begin = place + 8
        if size == 1 and len(head) == 16:
            size, begin = struct.unpack_from(">Q", head, 8)[0], place + 16
        if not begin - place <= size <= len(data) - place:
            raise ValueError("incomplete MP4 file")
        yield kind, data[begin : place + size]
        place += size


def find_box(data: bytes, *path: bytes) -> bytes:
    """Content of a nested box; ValueError if it is missing."""
    for kind in path:
        data = next((content for name, content in iter_boxes(data) if name == kind), b"")
    if not data:
        raise ValueError(f"MP4 file without {path[-1].decode()}")
    return data


def edit_boxes(data: bytes, changes: Mapping[bytes, bytes | None]) -> bytes:
    """The boxes with new content for those in `changes`, at any depth; None removes one."""
    edited = []
    for kind, content in iter_boxes(data):
        new = edit_boxes(content, changes) if kind in CONTAINERS else changes.get(kind, content)
        if new is not None:
            edited.append(pack_box(kind, new))
    return b"".join(edited)


def pack_box(kind: bytes, content: bytes) -> bytes:
    """A box: length, type, content."""
    return struct.pack(">I4s", 8 + len(content), kind) + content


def set_duration(header: bytes, duration: int, *, place: int) -> bytes:
    """A `mvhd`, `tkhd` or `mdhd` box of version 0 with the duration at byte `place`; longer ones become version 1."""
    if duration <= MAX_UINT32:
        return header[:place] + struct.pack(">I", duration) + header[place + 4 :]
    flags, created, modified = struct.unpack_from(">3I", header)
    times = struct.pack(">I2Q", 1 << 24 | flags, created, modified)
    return times + header[12:place] + struct.pack(">Q", duration) + header[place + 4 :]
