"""Image files of a folder, list file or glob pattern. Listing opens no file but lists."""

# Paths are strings here: for a hundred thousand of them os.path is several times faster than pathlib.
# ruff: noqa: PTH110, PTH116, PTH117, PTH119, PTH122

from __future__ import annotations

import glob
import itertools
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeGuard

from utils.core.errors import InputError
from utils.core.files import read_text
from utils.core.limits import check_limit
from utils.imaging.read import IMAGE_SUFFIXES

MAX_ENTRIES = 20_000_000  # files and folders below a folder or pattern
MAX_LIST_BYTES = 4 << 30
PATH = re.compile("[^\0\ud800-\udc7f\udd00-\udfff]{1,4096}")  # Python writes bytes that are not UTF-8 as dc80 to dcff
CONTROL_CHARACTERS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MAX_PROBED_LINES = 1000  # of a list file, to find the folder that its lines are relative to


def list_images(path: Path, root: Path) -> list[str]:
    """Images in a folder (recursive), list file or glob pattern, or the image itself; sorted.

    Links to folders are followed, but no folder is listed twice. A line of a list file that starts with ./ is relative
    to that file's folder. Other relative lines are relative to the working folder, `root` or the file's folder,
    whichever has the first existing file. Lines that start with # are comments.

    Raises:
        InputError: a list file cannot be read, or a limit is exceeded.
    """
    if path.is_file():
        return [str(path)] if path.suffix.lower() in IMAGE_SUFFIXES else _read_list(path, root)
    return _filter_images(iter_files(path))


def is_path(value: Any) -> TypeGuard[str]:
    """Whether a value from a file can be a path: text of limited length that the system can encode."""
    return isinstance(value, str) and PATH.fullmatch(value) is not None


def is_plain_text(text: str) -> bool:
    """Whether a name can be shown in a line and encoded as UTF-8."""
    return not CONTROL_CHARACTERS.search(text)


def iter_files(path: Path) -> Iterator[str]:
    """Files in a folder (recursive), or those that match a glob pattern or are in a folder that does.

    Raises:
        InputError: the whole disk, or more files and folders than the limit.
    """
    fixed = path.parts
    if not path.is_dir():
        fixed = tuple(itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        if fixed == path.parts:  # a pipe, or nothing
            return iter([str(path)] if os.path.lexists(path) else [])
    if fixed == (os.sep,):
        raise InputError(f"{path}: this is the whole disk; give a folder, or a pattern that starts with one")
    return _FolderWalk(str(Path(*fixed)), path.parts[len(fixed) :]).iter_files()


class _FolderWalk:
    """Files below a folder.

    No folder is listed twice: links are followed after all real folders, unless they lead to a folder on the way to
    `top`, which contains what is listed.

    Args:
        top: the folder.
        pattern: names of folders and files below it, which may have wildcards; `**` is any number of folders. A folder
            that matches all of them means the files in it.
    """

    def __init__(self, top: str, pattern: Sequence[str]) -> None:
        self._top = top
        pairs = zip(pattern, ["", *pattern], strict=False)  # each with the one before
        self._pattern = [part for part, before in pairs if not part == before == "**"]
        self._num_entries = 0
        self._visited: set[tuple[object, frozenset[int]]] = set()
        self._above = {None, *map(_get_identity, Path(os.path.realpath(top)).parents)}

    def iter_files(self) -> Iterator[str]:
        """The files, in any order."""
        folders, links = deque([(self._top, self._skip(frozenset([0])))]), deque[tuple[str, frozenset[int]]]()
        while folders or links:
            folder, positions = (folders or links).popleft()
            subfolders = []
            for entry in self._scan(folder, positions):
                reached = self._advance(positions, entry.name)
                if reached and _is_folder(entry):
                    subfolders.append((entry.path, reached, entry.is_symlink()))
                elif len(self._pattern) in reached:
                    yield entry.path
            for path, reached, is_link in sorted(subfolders, key=lambda item: item[0]):
                (links if is_link else folders).append((path, reached))

    def _scan(self, folder: str, positions: frozenset[int]) -> Iterator[os.DirEntry[str]]:
        """Entries of a folder; none if it was listed at these positions, contains `top`, or cannot be read."""
        identity = _get_identity(folder)
        if identity in self._above or (identity, positions) in self._visited:
            return
        self._visited.add((identity, positions))
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._num_entries += 1
                    if self._num_entries > MAX_ENTRIES:
                        check_limit(self._top, "files and folders", self._num_entries, MAX_ENTRIES)
                    yield entry
        except OSError:
            return

    def _advance(self, positions: frozenset[int], name: str) -> frozenset[int]:
        """Positions in the pattern, of the part that is next, after a name; its end matches all that follows."""
        pattern = self._pattern
        if len(pattern) in positions:
            return positions
        stays = {k for k in positions if pattern[k] == "**" and not name.startswith(".")}
        moves = {k + 1 for k in positions if pattern[k] != "**" and _matches(name, pattern[k])}
        return self._skip(frozenset(stays | moves))

    def _skip(self, positions: frozenset[int]) -> frozenset[int]:
        """The positions and those behind a `**`, which may be no folder; only the end if it is among them."""
        end = len(self._pattern)
        behind = frozenset(k + 1 for k in positions if k < end and self._pattern[k] == "**")
        return frozenset([end]) if end in positions | behind else positions | behind


def _get_identity(folder: str | Path) -> tuple[int, int] | None:
    """Device and number of a folder, which are the same by whatever links; None if there is none."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _matches(name: str, part: str) -> bool:
    return fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))


def _filter_images(files: Iterable[str]) -> list[str]:
    """Sorted images without hidden files; an .npy file next to an image of the same name is a cache, not an image."""
    paths = [
        file
        for file in files
        if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES and not os.path.basename(file).startswith(".")
    ]
    if any(path.lower().endswith(".npy") for path in paths):
        images = {os.path.splitext(path)[0] for path in paths if not path.lower().endswith(".npy")}
        paths = [path for path in paths if not path.lower().endswith(".npy") or os.path.splitext(path)[0] not in images]
    return sorted(paths)


def _read_list(file: Path, root: Path) -> list[str]:
    try:
        lines = [line.strip() for line in read_text(file, max_bytes=MAX_LIST_BYTES).splitlines()]
    except InputError as error:
        raise InputError(f"{error}: neither an image nor a readable list of images") from error
    for number, line in enumerate(lines, 1):
        if line and not is_path(line):
            raise InputError(f"{file}:{number}: {line[:60]!r} is not a path; correct the list")
    lines = [line for line in lines if line and not line.startswith("#")]
    relative = (line for line in lines if not line.startswith("./") and not os.path.isabs(line))
    bases = (Path.cwd(), root, file.parent)
    candidates = ((base, line) for line in itertools.islice(relative, MAX_PROBED_LINES) for base in bases)
    base = next((base for base, line in candidates if os.path.exists(base / line)), file.parent)
    absolute = (file.parent / line if line.startswith("./") else base / line for line in lines)
    return [os.path.normpath(path) for path in absolute]
