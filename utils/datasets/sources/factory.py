"""Sources from a `--source` value: files, folders, globs, lists, URLs, webcams, streams, screen, standard input."""

from __future__ import annotations

import codecs
import glob
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

from utils.core.downloads import download_file, hide_secrets
from utils.core.errors import InputError
from utils.core.files import read_file, to_folder_name
from utils.core.limits import check_limit
from utils.datasets.index.listing import iter_files
from utils.datasets.sources.capture import VIDEO_FILE, LiveAddress, is_media_url, parse_address
from utils.datasets.sources.frames import MEDIA_SUFFIXES, VIDEO_SUFFIXES, Source, describe_formats
from utils.datasets.sources.media import MediaSource
from utils.datasets.sources.screen import ScreenSource, is_screen
from utils.datasets.sources.streams import StreamSource, StreamTiming
from utils.datasets.sources.watch import PathLines, WatchedFiles

STDIN = "-"
DOWNLOAD_BYTES, DOWNLOAD_SECONDS = 2e9, 1800.0  # limits of a file that is downloaded first
MAX_LIST_BYTES = 256 * 2**20
MAX_STREAMS = 256  # a thread and a decoder each


@dataclass(frozen=True)
class SourceOptions:
    """Options of a source.

    Attributes:
        vid_stride: sample every Nth frame of videos and streams.
        watch: wait for new files in a folder or glob until the user stops the run.
        timing: timeouts of streams.
        in_parts: as for `MediaSource`.
    """

    vid_stride: int = 1
    watch: bool = False
    timing: StreamTiming = StreamTiming()
    in_parts: bool = False


def open_source(source: str, options: SourceOptions = SourceOptions()) -> Source:
    """Open the source that a `--source` value names; the caller closes it.

    A number, `screen` and `-` mean a webcam, the screen and standard input even if a file has that name.

    Raises:
        InputError: no such file, no image or video in it, no stream that can be opened, or a missing package.
    """
    source = source.strip()
    if not source:
        raise InputError("--source is empty; pass a file, a folder, a glob, a stream or a .txt list")
    try:
        return _open(source, options)
    except OSError as error:
        raise InputError(f"--source {source}: cannot be read: {error.strerror or error}") from error


def open_streams(sources: str | Sequence[str], options: SourceOptions = SourceOptions()) -> StreamSource:
    """Open live sources, and video files that are read like them: side by side, at their frame rate.

    Args:
        sources: a webcam number, a stream address or a video file; a text file with one of them per word; or several.

    Raises:
        InputError: neither of these, or none of them sends a frame.
    """
    words = [sources] if isinstance(sources, str) else [str(source) for source in sources]
    places = [("--source", word) for word in words]
    if len(words) == 1 and _is_stream_list(words[0]):
        lines = _read_lines(Path(words[0]))
        places = [(f"{words[0]}:{number}", word) for number, line in lines for word in line.split()]
        if not places:
            raise InputError(f"{words[0]}: contains no streams; write one address or video file per line")
    check_limit("--source", "streams", len(places), MAX_STREAMS)
    addresses = [_parse_stream(word, place) for place, word in places]
    return StreamSource(addresses, vid_stride=options.vid_stride, timing=options.timing)


def _is_stream_list(text: str) -> bool:
    suffix = Path(text).suffix.lower()
    is_other_file = suffix not in MEDIA_SUFFIXES and not text.isdecimal() and Path(text).is_file()
    return suffix in (".streams", ".txt") or is_other_file


def _parse_stream(text: str, place: str) -> LiveAddress:
    """The address of a live source or of a video file, which may be relative to the list that names it."""
    for file in (Path(text), Path(place.rpartition(":")[0]).parent / text):
        if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file():
            return LiveAddress(str(file), VIDEO_FILE, text, to_folder_name(file.name))
    address = parse_address(text, place=place)
    if address is None:
        raise InputError(f"{place}: {text}: neither a webcam number, nor a stream address, nor a video file")
    return address


def _open(source: str, options: SourceOptions) -> Source:
    if options.watch and not (Path(source).is_dir() or glob.has_magic(source)):
        raise InputError(f"--watch: {source} is neither a folder nor a glob; remove the flag")
    if is_screen(source):
        return ScreenSource(source)
    if source == STDIN:
        lines = PathLines(sys.stdin.fileno())
        return MediaSource(lines, vid_stride=options.vid_stride, in_parts=options.in_parts, on_close=(lines.close,))
    if not Path(source).exists() and is_media_url(source):
        return _download_media(source, options)
    address = parse_address(source) if source.isdecimal() or not Path(source).exists() else None
    addresses = [address] if address else _read_stream_list(Path(source))
    if addresses:
        return StreamSource(addresses, vid_stride=options.vid_stride, timing=options.timing)
    if options.watch:
        watched = WatchedFiles(partial(_list_files, source))
        return MediaSource(
            watched,
            vid_stride=options.vid_stride,
            endless=True,
            in_parts=options.in_parts,
            on_close=(watched.close,),
        )
    return MediaSource(find_media(source), vid_stride=options.vid_stride, in_parts=options.in_parts)


def find_media(source: str) -> list[str]:
    """Find the images and videos of a file, folder (without subfolders), glob or list file.

    Folders and globs are sorted, a list file keeps its order.

    Raises:
        InputError: no such file, or no image or video in it.
    """
    path = Path(source)
    if path.is_dir() or (glob.has_magic(source) and not path.exists()):
        if paths := _list_files(source):
            return paths
        raise InputError(
            f"{source}: the {'folder' if path.is_dir() else 'glob'} has no images or videos; {describe_formats()}"
        )
    if not path.is_file():
        problem = "not a regular file" if path.exists() else "no such file or folder"
        raise InputError(f"--source {source}: {problem}")
    if path.suffix.lower() == ".txt":
        return _read_media_list(path)
    if path.suffix.lower() not in MEDIA_SUFFIXES:
        raise InputError(f"{source}: {path.suffix or 'no suffix'} is not a supported format; {describe_formats()}")
    return [source]


def _list_files(source: str) -> list[str]:
    """Sorted images and videos of a glob, or directly in a folder; InputError if a `**` matches too many files.

    A named pipe with such a name is included, so that the run reports it.
    """
    path = Path(source)
    if path.is_dir():
        paths: Iterable[str] = map(str, path.iterdir())
    elif "**" in path.parts:
        paths = (p for p in iter_files(path) if fnmatchcase(Path(p).name, path.name))
    else:
        paths = glob.iglob(source)  # noqa: PTH207 - Path.glob takes no absolute patterns
    media = (p for p in paths if Path(p).suffix.lower() in MEDIA_SUFFIXES)
    return sorted(p for p in media if Path(p).exists() and not Path(p).is_dir())


def _download_media(url: str, options: SourceOptions) -> MediaSource:
    """Download a file into a temporary folder that the source removes when it closes."""
    folder = tempfile.TemporaryDirectory(prefix="openyolov5-")
    name = to_folder_name(unquote(re.split("[?#]", url)[0].rpartition("/")[2]))
    try:
        file = download_file(url, Path(folder.name) / name, max_bytes=DOWNLOAD_BYTES, max_seconds=DOWNLOAD_SECONDS)
    except BaseException:
        folder.cleanup()
        raise
    titles = {str(file): hide_secrets(url)}
    return MediaSource(
        [str(file)],
        vid_stride=options.vid_stride,
        in_parts=options.in_parts,
        titles=titles,
        on_close=(folder.cleanup,),
    )


def _read_stream_list(path: Path) -> list[LiveAddress]:
    """Addresses, separated by white space, in a .streams file, or in a .txt file of streams only; else [].

    InputError for a .streams file that is empty or contains something else.
    """
    suffix = path.suffix.lower()
    if suffix not in (".streams", ".txt") or not path.is_file():
        return []
    addresses = []
    for place, word in ((f"{path}:{number}", word) for number, line in _read_lines(path) for word in line.split()):
        address = parse_address(word, place=place)
        if suffix == ".txt" and (address is None or is_media_url(word)):
            return []
        if address is None:
            raise InputError(f"{place}: {word}: neither a webcam number nor a stream address")
        addresses.append(address)
        check_limit(place, "streams", len(addresses), MAX_STREAMS)
    if suffix == ".streams" and not addresses:
        raise InputError(f"{path}: contains no streams; write one address per line")
    return addresses


def _read_lines(listing: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines of a list, without empty lines and comments."""
    data = read_file(listing, max_bytes=MAX_LIST_BYTES).removeprefix(codecs.BOM_UTF8)
    for number, row in enumerate(BytesIO(data), start=1):
        try:
            line = row.decode().strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{listing}:{number}: not UTF-8; save the list as UTF-8") from error
        if "\0" in line:
            raise InputError(f"{listing}:{number}: a null byte, which no path or address has; correct the list")
        if line and not line.startswith("#"):
            yield number, line


def _read_media_list(listing: Path) -> list[str]:
    """Paths in a list file, one per line, relative to the list's folder or else to the working directory.

    Missing files are reported later, when they are read.
    """
    files = []
    for number, entry in _read_lines(listing):
        path = os.path.join(os.path.dirname(listing), entry)  # noqa: PTH118, PTH120 - many times faster for long lists
        if not os.path.exists(path):  # noqa: PTH110
            path = entry
        if not os.path.exists(path):  # noqa: PTH110
            place = f"{listing}:{number}"
            if is_media_url(entry):
                raise InputError(f"{place}: {entry}: a list contains files; pass a URL to --source directly")
            if parse_address(entry, place=place):
                raise InputError(f"{place}: {entry}: a list contains either files or streams, not both")
        if os.path.splitext(path)[1].lower() not in MEDIA_SUFFIXES:  # noqa: PTH122
            raise InputError(f"{listing}:{number}: {entry}: neither an image nor a video; {describe_formats()}")
        files.append(path)
    if not files:
        raise InputError(f"{listing}: contains no images or videos; write one path per line")
    return files
