"""Files and folders: run folders, atomic writes, unique names, search."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from glob import escape
from itertools import count
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.core.limits import check_limit
from utils.core.logging import LOGGER

LEFTOVER_AGE_S = 3600.0  # an older temporary file is from a process that was killed
TEMPORARY_FILE = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")  # of atomic_write


def increment_path(path: str | Path, exist_ok: bool = False, sep: str = "") -> Path:
    """The path if it does not exist, or else the first free one of `exp2`, `exp3`, ...; a file keeps its suffix.

    Another process may take the path meanwhile; for a folder use `make_run_folder`.

    Args:
        exist_ok: return the path even if it exists.
        sep: separator between name and number.
    """
    path = Path(path)
    if exist_ok:
        return path
    return next(p for p in _iter_numbered(path, sep, "" if path.is_dir() else path.suffix) if not p.exists())


def _iter_numbered(path: Path, sep: str, suffix: str = "") -> Iterator[Path]:
    """The path, then with numbers from 2 between its stem and `suffix`."""
    yield path
    stem = path.name.removesuffix(suffix)
    yield from (path.with_name(f"{stem}{sep}{n}{suffix}") for n in count(2))


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` after the block.

    The content is flushed to disk before the rename, so that a kill or a power failure leaves the old file or the new
    one. If the block raises, the temporary file is removed and `path` is unchanged.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            error.filename = str(target)
            del error.filename2
        raise
    if os.name == "posix":
        _flush(target.parent)


def remove_temporary_files(folder: Path) -> None:
    """Remove temporary files that killed writers left in a folder to which no process writes."""
    for leftover in folder.glob(".*.tmp"):
        if TEMPORARY_FILE.fullmatch(leftover.name):
            with suppress(OSError):
                leftover.unlink()


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files of killed writers of `target`."""
    limit = time.time() - LEFTOVER_AGE_S
    for leftover in target.parent.glob(f".{escape(target.name)}.*.tmp"):
        with suppress(OSError):
            if leftover.stat().st_mtime < limit:
                leftover.unlink()


def _flush(path: Path) -> None:
    """Flush the content of a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_run_folder(folder: str | Path, *, exist_ok: bool = False, sep: str = "") -> Path:
    """Create a run folder: `exp`, or the first of `exp2`, `exp3`, ... that does not exist.

    Processes that start at the same time get different folders.

    Args:
        exist_ok: use the folder even if it exists.
        sep: separator between name and number.

    Raises:
        InputError: the folder cannot be created or is not writable.
    """
    folder, action = Path(folder), "created"
    try:
        folder = _make_first_free(folder, exist_ok, sep)
        action = "written to"
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:  # ValueError: a null byte
        reason = getattr(error, "strerror", None) or str(error)
        place = getattr(error, "filename", None) if action == "created" else None
        raise InputError(
            f"{place or folder}: the run folder cannot be {action}: {reason}; choose another --project or --name"
        ) from error
    return folder


def _make_first_free(folder: Path, exist_ok: bool, sep: str) -> Path:
    if not folder.name:
        raise ValueError("the path has no name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if exist_ok:
        folder.mkdir(exist_ok=True)
        return folder
    paths = _iter_numbered(folder, sep)
    while True:
        path = next(paths)
        with suppress(FileExistsError):
            path.mkdir()
            return path


def check_space(folder: Path) -> None:
    """OSError if the folder has no space for a file of 64 kB."""
    with add_path_to_errors(folder), tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(1 << 16))
        probe.flush()


@contextmanager
def add_path_to_errors(path: str | Path) -> Iterator[None]:
    """Add the path to an OSError of the context that has none, as on a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_folder(folder: Path, flag: str) -> Iterator[Path]:
    """A temporary folder beside `folder`, renamed to `folder` after the block, and removed if the block raises.

    Raises:
        InputError: `folder`, the value of `flag`, is not empty or cannot be created.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{flag} {folder}: is not empty; give a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise InputError(f"{flag} {folder}: cannot be created: {error.strerror}; give another folder") from error
    try:
        yield work
        work.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


class UniqueNames:
    """Unique output names in one folder; a name that another input has gets a number and a warning."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._last_numbers: dict[str, int] = {}  # of the names that are used more than once

    def assign(self, owner: str, stem: str, suffix: str) -> str:
        """The output name for an input file, the same on each call."""
        if owner not in self._names:
            name = plain_name = stem + suffix
            number = self._last_numbers.get(plain_name, 1)
            while name in self._owners:
                number += 1
                name = f"{stem}_{number}{suffix}"
            if number > 1:
                self._last_numbers[plain_name] = number
                LOGGER.warning(f"WARNING {owner}: output named {name}, {plain_name} is from {self._owners[plain_name]}")
            self._owners[name] = owner
            self._names[owner] = name
        return self._names[owner]


def to_folder_name(label: str) -> str:
    """A class name as a valid folder name, of at most 200 bytes."""
    name = re.sub(r'[\x00-\x1f<>:"/\\|?*\ud800-\udfff]', "_", label).encode()[:200].decode(errors="ignore")
    return name.strip(" .") or "_"


def expand_user(path: str | Path) -> Path:
    """The path with a leading ~ replaced by the home folder; unchanged if there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (pathlib raises for an unknown user)


def find_file(name: str | Path, folders: Sequence[str | Path] = ()) -> Path:
    """The file at path `name`, or else in the first of `folders` that has it.

    Raises:
        InputError: not found; the message lists similar names or the folders searched.
    """
    path = expand_user(name)
    for candidate in (path, *(Path(folder) / path for folder in folders)):
        if candidate.is_file():
            return candidate
    known = [p.name for folder in folders for p in sorted(Path(folder).glob(f"*{path.suffix}")) if p.is_file()]
    near = get_close_matches(path.name, known, n=3)
    searched = ", ".join(dict.fromkeys(str(folder) for folder in (Path.cwd(), *folders)))
    hint = f"near: {', '.join(near)}" if near else f"searched {searched}"
    raise InputError(f"{name}: no such file; {hint}")


def read_file(path: str | Path, *, max_bytes: float = math.inf) -> bytes:
    """Content of a regular file; a pipe or device, whose end may never come, is refused.

    Raises:
        InputError: not a readable regular file, or larger than `max_bytes`.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 (takes any name)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: not a regular file; give the path of a file")
        check_limit(path, "bytes", status.st_size, max_bytes)
        return Path(path).read_bytes()
    except InputError:
        raise
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error) or "larger than the free memory"
        raise InputError(f"{path}: cannot be read ({reason}); check the path") from error


def read_text(path: str | Path, *, max_bytes: float = math.inf) -> str:
    """Content of a text file in UTF-8, without a byte order mark.

    Raises:
        InputError: as `read_file`, or with the line that is not UTF-8.
    """
    data = read_file(path, max_bytes=max_bytes)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"{path}:{data[: error.start].count(10) + 1}"  # 10: end of a line
        raise InputError(f"{place}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8") from error


def read_json(file: Path) -> Any:
    """Content of a JSON file; InputError with file and line if it is not valid."""
    text = read_text(file)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{file}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or nested as deep
        raise InputError(f"{file}: cannot be read ({error})") from error
