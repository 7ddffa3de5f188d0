"""Paths: numbered run folders, files that are whole or absent, and looking names up in known folders."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from itertools import count
from pathlib import Path

from utils.core.errors import InputError
from utils.core.logging import LOGGER

LEFTOVER_AGE_S = 3600.0  # a temporary file of this age belongs to a process that was killed


def increment_path(path: str | Path, exist_ok: bool = False) -> Path:
    """The path itself where it is free, else the first free of `exp2`, `exp3`, ...; a file keeps its suffix.

    Args:
        exist_ok: give the path back even where it exists.
    """
    path = Path(path)
    if exist_ok or not path.exists():
        return path
    suffix = "" if path.is_dir() else path.suffix
    stem = path.name.removesuffix(suffix)
    return next(p for n in count(2) if not (p := path.with_name(f"{stem}{n}{suffix}")).exists())


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder, which becomes `path` when the block ends well.

    The content is on the disk before the rename, so a kill or a power cut leaves the old file or the new one, never a
    part. If the block raises, the temporary file is removed and `path` stays as it was.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        _flush(target.parent)


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files of writers of `target` that were killed."""
    limit = time.time() - LEFTOVER_AGE_S
    for leftover in target.parent.glob(f".{_without_magic(target.name)}.*.tmp"):
        with suppress(OSError):
            if leftover.stat().st_mtime < limit:
                leftover.unlink()


def _without_magic(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _flush(path: Path) -> None:
    """Have a file's content, or a folder's entries, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_run_folder(folder: Path) -> Path:
    """`folder`, made with its parents; InputError where that cannot be, or where no file can be written in it."""
    what = "made"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        what = "written in"
        probe = folder / f".{uuid.uuid4().hex[:12]}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = f"{folder}: the run folder cannot be {what}: {error.strerror}"
        raise InputError(f"{reason}; choose another --project") from error
    return folder


def check_space(folder: Path, size: int = 1 << 16) -> None:
    """OSError where no file of `size` bytes can be written in the folder, as on a full disk."""
    probe = folder / f".{uuid.uuid4().hex[:12]}.tmp"
    try:
        with naming(folder):
            probe.write_bytes(bytes(size))
    finally:
        probe.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Give an OSError of the `with` body the name of the file: where a disk is full it has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def new_folder(folder: Path, flag: str) -> Iterator[Path]:
    """A folder beside `folder` that takes its place when the block ends well, and is removed if it raises.

    Raises:
        InputError: `folder`, which `flag` names, has something in it already or cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{flag} {folder}: is there already and not empty; name a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise InputError(f"{flag} {folder}: cannot be made: {error.strerror}; name another folder") from error
    try:
        yield work
        work.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


class UniqueNames:
    """Output names in one folder: the wanted one, or with a number and a warning where another input has it already."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._last: dict[str, int] = {}  # number of a wanted name, where it is above 1

    def take(self, owner: str, stem: str, suffix: str) -> str:
        """The name for an input file, the same at every call for it."""
        if owner not in self._names:
            name, wanted = stem + suffix, stem + suffix
            number = self._last.get(wanted, 1)
            while name in self._owners:
                number += 1
                name = f"{stem}_{number}{suffix}"
            if number > 1:
                self._last[wanted] = number
                LOGGER.warning(f"WARNING {owner}: its output is called {name}, {self._owners[wanted]} has {wanted}")
            self._owners[name] = owner
            self._names[owner] = name
        return self._names[owner]


def folder_name(label: str) -> str:
    """A class name as the name of one folder, whatever characters it has."""
    return re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", label).strip(" .") or "_"


def expand_user(path: str | Path) -> Path:
    """The path with a leading ~ replaced by the home folder; as it is where there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (pathlib's own raises for an unknown user)


def find_file(name: str | Path, folders: Sequence[str | Path] = ()) -> Path:
    """The file as given, else the one of that name in the first of `folders` that has it.

    Raises:
        InputError: there is none; the message lists near misses or the folders searched.
    """
    given = expand_user(name)
    for candidate in (given, *(Path(folder) / given for folder in folders)):
        if candidate.is_file():
            return candidate
    known = [p.name for folder in folders for p in sorted(Path(folder).glob(f"*{given.suffix}")) if p.is_file()]
    near = get_close_matches(given.name, known, n=3)
    searched = ", ".join(dict.fromkeys(str(folder) for folder in (Path.cwd(), *folders)))
    hint = f"near: {', '.join(near)}" if near else f"searched {searched}"
    raise InputError(f"{name}: no such file; {hint}")
