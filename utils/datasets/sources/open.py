"""What a `--source` value names: files, folders, globs, lists, addresses, webcams, the screen, standard input."""

from __future__ import annotations

import glob
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from utils.core.downloads import fetch, without_secrets
from utils.core.errors import InputError
from utils.datasets.sources.frames import MEDIA_SUFFIXES, Source, known_formats
from utils.datasets.sources.live import LiveAddress, is_download, parse_address
from utils.datasets.sources.media import MediaSource
from utils.datasets.sources.screen import ScreenSource, is_screen
from utils.datasets.sources.streams import StreamSource, Timing
from utils.datasets.sources.watch import PathLines, WatchedFiles

STDIN = "-"
DOWNLOAD_BYTES, DOWNLOAD_SECONDS = 2e9, 1800.0  # limits of an address that is downloaded first
DOWNLOAD_REMEDY = "check the address, or download it another way and give the file"


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read.

    Attributes:
        vid_stride: take every Nth frame of videos and streams.
        watch: look for new files in a folder or glob until the user ends the run.
        decode_threads: of a video file's decoder; 0 leaves it the choice.
        timing: how long streams are waited for.
    """

    vid_stride: int = 1
    watch: bool = False
    decode_threads: int = 0
    timing: Timing = Timing()


def open_source(source: str, options: SourceOptions | None = None) -> Source:
    """The source that a `--source` value names, opened; close it.

    Digits, `screen` and `-` are a webcam, the screen and standard input even where a file has that name.

    Raises:
        InputError: nothing there, no image or video among it, no stream that can be opened, or a package is missing.
    """
    options, source = options or SourceOptions(), source.strip()
    if not source:
        raise InputError("--source is empty; give a file, a folder, a glob, a stream or a .txt list")
    try:
        return _open(source, options)
    except OSError as error:
        raise InputError(f"--source {source}: cannot be read: {error.strerror or error}") from error


def _open(source: str, options: SourceOptions) -> Source:
    if options.watch and not (Path(source).is_dir() or glob.has_magic(source)):
        raise InputError(f"--watch: {source} is neither a folder nor a glob; leave the flag out")
    if is_screen(source):
        return ScreenSource(source)
    if source == STDIN:
        lines = PathLines(_stdin_descriptor())
        return _media(lines, options, on_close=(lines.close,))
    if not Path(source).exists() and is_download(source):
        return _downloaded(source, options)
    address = parse_address(source) if source.isdecimal() or not Path(source).exists() else None
    addresses = [address] if address else _listed_streams(Path(source))
    if addresses:
        return StreamSource(addresses, vid_stride=options.vid_stride, timing=options.timing)
    if options.watch:
        watched = WatchedFiles(partial(_list_files, source))
        return _media(watched, options, endless=True, on_close=(watched.close,))
    return _media(find_media(source), options)


def find_media(source: str) -> list[str]:
    """Images and videos of a file, folder (not its subfolders), glob or list file; sorted within folder and glob.

    Raises:
        InputError: nothing there, or no image or video among it.
    """
    path = Path(source)
    if path.is_dir() or (glob.has_magic(source) and not path.exists()):
        if found := _list_files(source):
            return found
        raise InputError(
            f"{source}: the {'folder' if path.is_dir() else 'glob'} has no images or videos; {known_formats()}"
        )
    if not path.is_file():
        raise InputError(f"--source {source}: there is no such file or folder")
    if path.suffix.lower() == ".txt":
        return _read_list(path)
    if path.suffix.lower() not in MEDIA_SUFFIXES:
        raise InputError(f"{source}: {path.suffix or 'no suffix'} is no format known here; {known_formats()}")
    return [source]


def _list_files(source: str) -> list[str]:
    """Images and videos directly in a folder, or of a glob, sorted."""
    path = Path(source)
    if path.is_dir():
        paths = (str(p) for p in path.iterdir() if p.is_file())
    else:
        matches = glob.glob(source, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute patterns
        paths = (p for p in matches if Path(p).is_file())
    return sorted(p for p in paths if Path(p).suffix.lower() in MEDIA_SUFFIXES)


def _media(files: Iterable[str], options: SourceOptions, **more: object) -> MediaSource:
    return MediaSource(
        files,
        vid_stride=options.vid_stride,
        decode_threads=options.decode_threads,
        **more,  # type: ignore[arg-type]
    )


def _downloaded(url: str, options: SourceOptions) -> MediaSource:
    """The file of an address, in a temporary folder that goes with the source."""
    folder = tempfile.TemporaryDirectory(prefix="openyolov5-")
    name = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", unquote(PurePosixPath(urlsplit(url).path).name))
    try:
        file = fetch(
            url,
            Path(folder.name) / name,
            max_bytes=DOWNLOAD_BYTES,
            max_seconds=DOWNLOAD_SECONDS,
            remedy=DOWNLOAD_REMEDY,
        )
    except BaseException:
        folder.cleanup()
        raise
    return _media([str(file)], options, titles={str(file): without_secrets(url)}, on_close=(folder.cleanup,))


def _stdin_descriptor() -> int:
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError) as error:
        raise InputError("--source -: there is no standard input to read paths from") from error


def _listed_streams(path: Path) -> list[LiveAddress]:
    """The streams of a list: any .streams file, and a .txt file that names streams only; [] for everything else.

    Entries are separated by white space; lines that start with `#` are left out.

    Raises:
        InputError: a .streams file that is missing, empty or names something else.
    """
    always = path.suffix.lower() == ".streams"
    if not always and path.suffix.lower() != ".txt":
        return []
    if not path.is_file():
        if not always:
            return []
        raise InputError(f"--source {path}: there is no such list of streams")
    entries = [(f"{path}:{n}", word) for n, line in _lines_of(path) for word in line.split()]
    found = [(place, word, parse_address(word, place=place)) for place, word in entries]
    if not always and not (found and all(address and not is_download(word) for _, word, address in found)):
        return []
    if wrong := next(((place, word) for place, word, address in found if address is None), None):
        raise InputError(f"{wrong[0]}: {wrong[1]}: neither a webcam number nor the address of a stream")
    if not found:
        raise InputError(f"{path}: names no streams; write one address a line")
    return [address for _, _, address in found if address is not None]


def _lines_of(listing: Path) -> list[tuple[int, str]]:
    """Number and text of the lines that are neither empty nor start with `#`."""
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{listing}: cannot be read as a list: {error}") from error
    numbered = enumerate((line.strip() for line in lines), start=1)
    return [(n, line) for n, line in numbered if line and not line.startswith("#")]


def _read_list(listing: Path) -> list[str]:
    """Paths of a list file, one a line, relative to the list's folder or else to the working directory.

    A file that is missing shows up when it is to be read.
    """
    files = []
    for number, entry in _lines_of(listing):
        beside = listing.parent / entry
        path = beside if os.path.exists(beside) else Path(entry)  # noqa: PTH110 - an address is no path, and no error
        if not path.exists() and is_download(entry):
            raise InputError(f"{listing}:{number}: {entry}: a list names files; give an address to --source by itself")
        if not path.exists() and parse_address(entry, place=f"{listing}:{number}"):
            raise InputError(f"{listing}:{number}: {entry}: a list names either files or streams, not both")
        if path.suffix.lower() not in MEDIA_SUFFIXES:
            raise InputError(f"{listing}:{number}: {entry}: neither an image nor a video; {known_formats()}")
        files.append(str(path))
    if not files:
        raise InputError(f"{listing}: names no images or videos; write one path a line")
    return files
