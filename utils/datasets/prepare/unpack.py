"""Unpacking of archives that may be damaged or hostile: all or nothing, and nothing outside the folder."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import math
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from utils.core.errors import InputError
from utils.core.limits import check_limit
from utils.datasets.prepare.tar_reader import BLOCK, CHUNK, Member, TarReader, is_header

MAX_MEMBERS = 2_000_000
MAX_DIRECTORY = 1 << 28  # bytes of the directory of a zip archive, which zipfile reads at once
MAX_RATIO, FREE_BYTES = 200, 1 << 28  # bytes unpacked: FREE_BYTES, and MAX_RATIO for each byte of the archive
MAX_PATH, MAX_NAME = 1024, 255  # bytes of a path, and of each name in it
PAGE = 4096  # bytes by which files take up space on most disks
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
NOT_ON_WINDOWS = re.compile(r'.*[<>:"|?*].*|.*[. ]|(con|prn|aux|nul|(com|lpt)\d)(\..*)?', re.IGNORECASE)
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError, OverflowError)
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile unpacks the others without a bound on memory
OPENERS: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
HAS_DIR_FD = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | NO_FOLLOW
FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | NO_FOLLOW

Members = Callable[[], Iterator[Member]]  # of an archive, from the start at each call
Parts = tuple[str, ...]  # of a path below the folder


def unpack_archive(archive: Path, folder: Path, *, exclude: Collection[str] = ()) -> None:
    """Unpack a .zip or .tar(.gz, .bz2, .xz) archive, replacing files of the same name.

    All members are checked first. Only folders and files are allowed, without their permissions, and nothing is
    written through a link. On an error the new files are removed.

    Args:
        exclude: members whose path contains one of these texts are skipped.

    Raises:
        InputError: not an archive, damaged, rejected, over a limit, or larger than the free space.
    """
    folder = Path(os.path.realpath(folder))
    try:
        with _open_archive(archive) as all_members:
            members = partial(_skip_members, all_members, exclude)
            files, folders, size = _check_members(archive, members())
            _check_folder(archive, folder, files, folders)
            _check_space(archive, folder, size)
            progress = tqdm(members(), archive.name, len(files), unit=" files", leave=None, disable=None)
            with FolderWriter(folder) as writer:
                for member in progress:
                    parts = _check_member(archive, member)
                    if member.kind == "folder":
                        writer.make_folder(parts)
                    else:
                        writer.write_file(parts, member)
    except InputError:
        raise
    except (*DAMAGE, OSError) as error:
        if reason := getattr(error, "strerror", None):
            raise InputError(
                f"{archive}: cannot be unpacked into {folder} ({reason}); free space or use another folder"
            ) from error
        raise InputError(f"{archive}: cannot be unpacked ({error}); download it again") from error


def _skip_members(members: Members, exclude: Collection[str]) -> Iterator[Member]:
    """The members of an archive whose path contains none of the texts."""
    return (member for member in members() if not any(text in member.name for text in exclude))


def find_name_problem(name: str, *, on_windows: bool = os.name == "nt") -> str | None:
    """What prevents a name from being one of a file or folder; None if it is one."""
    if not name.strip(". "):
        return "is empty or consists of dots"
    if CONTROL.search(name):
        return "has control characters"
    if len(os.fsencode(name)) > MAX_NAME:
        return f"is longer than {MAX_NAME} bytes"
    return "is no valid name on Windows" if on_windows and NOT_ON_WINDOWS.fullmatch(name) else None


def is_real_folder(path: str | Path) -> bool:
    """Whether a path is a folder, and no link to one; FileNotFoundError if there is none."""
    status = os.stat(path, follow_symlinks=False)  # noqa: PTH116 (also for str)
    is_junction = getattr(status, "st_reparse_tag", 0) == getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None)
    return stat.S_ISDIR(status.st_mode) and not is_junction


# -- reading ----------------------------------------------------------------------------------------------------------


@contextmanager
def _open_archive(archive: Path) -> Iterator[Members]:
    """Open an archive; InputError if it is none."""
    with archive.open("rb") as file:
        size, start = os.fstat(file.fileno()).st_size, file.read(BLOCK)
        opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), None)
        if opener is None and is_header(start):
            yield partial(_read_tar, archive, file, size, math.inf)
            return
    if opener is not None:
        with opener(archive) as stream:
            yield partial(_read_tar, archive, stream, None, FREE_BYTES + MAX_RATIO * size)
    elif zipfile.is_zipfile(archive):
        with _ZipFile(io.FileIO(archive)) as zip_file, zipfile.ZipFile(zip_file) as source:
            yield partial(_read_zip, archive, source, size)
    else:
        raise _not_an_archive(archive)


def _read_tar(archive: Path, stream: BinaryIO, length: int | None, max_bytes: float) -> Iterator[Member]:
    stream.seek(0)
    if not is_header(stream.read(BLOCK)):
        raise _not_an_archive(archive)
    stream.seek(0)
    yield from TarReader(archive, stream, length=length, max_bytes=max_bytes)


def _not_an_archive(archive: Path) -> InputError:
    return InputError(f"{archive}: not a zip or tar archive; download it again")


class _ZipFile(io.BufferedReader):
    """A zip archive whose directory is bounded."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > CHUNK:
            check_limit(self.name, "bytes in the directory of a zip archive", size, MAX_DIRECTORY)
        data = super().read(size)
        if len(data) > CHUNK:
            check_limit(self.name, "files", data.count(b"PK\1\2"), MAX_MEMBERS)
        return data


def _read_zip(archive: Path, source: zipfile.ZipFile, archive_size: int) -> Iterator[Member]:
    infos = source.infolist()
    if sum(info.compress_size for info in infos) > archive_size:
        raise ValueError("its members overlap")
    size = sum(info.file_size for info in infos)
    check_limit(archive, "bytes unpacked", size, FREE_BYTES + MAX_RATIO * archive_size)
    for info in infos:
        if info.flag_bits & 1 or info.compress_type not in ZIP_METHODS:
            reason = "is encrypted" if info.flag_bits & 1 else f"has compression method {info.compress_type}"
            raise InputError(f"{archive}: {info.filename[:MAX_NAME]!r} {reason}; unpack it yourself")
        kind = stat.S_IFMT(info.external_attr >> 16)
        is_folder = info.orig_filename.endswith(("/", "\\")) or kind == stat.S_IFDIR
        yield Member(
            info.orig_filename,
            info.file_size,
            "other" if kind not in (0, stat.S_IFREG, stat.S_IFDIR) else "folder" if is_folder else "file",
            partial(_read_zip_member, source, info),
        )


def _read_zip_member(source: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with source.open(info) as file:
        while chunk := file.read(CHUNK):
            yield chunk


# -- checks -----------------------------------------------------------------------------------------------------------


def _check_members(archive: Path, members: Iterator[Member]) -> tuple[set[str], set[str], int]:
    """The files and folders of an archive, and the space that they take up in bytes."""
    files, folders, size = set[str](), set[str](), 0
    for count, member in enumerate(members, start=1):
        check_limit(archive, "files", count, MAX_MEMBERS)
        parts = _check_member(archive, member)
        if member.kind == "file":
            files.add("/".join(parts))
            size += -(-member.size // PAGE) * PAGE
            parts = parts[:-1]
        while parts and (path := "/".join(parts)) not in folders:
            folders.add(path)
            parts = parts[:-1]
    for name in files & folders:
        raise _reject(archive, name, "is a file and a folder")
    return files, folders, size


def _check_member(archive: Path, member: Member) -> Parts:
    """The parts of the path of a member; InputError if it must not be written."""
    path = member.name.replace("\\", "/")
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in parts:
        raise _reject(archive, member.name, "is outside the folder")
    if member.kind == "other":
        raise _reject(archive, member.name, "is a link, a device or a sparse file")
    problem = next((problem for part in parts if (problem := find_name_problem(part))), None)
    if len(os.fsencode(path)) > MAX_PATH:
        problem = f"is longer than {MAX_PATH} bytes"
    if member.kind == "file" and not parts:
        problem = "is the folder itself"
    if problem:
        raise _reject(archive, member.name, problem)
    return parts


def _reject(archive: Path, name: str, problem: str) -> InputError:
    shown = name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..."
    return InputError(f"{archive}: rejected, nothing was unpacked: {shown!r} {problem}; get another archive")


def _check_folder(archive: Path, folder: Path, files: set[str], folders: set[str]) -> None:
    """InputError if the folder has a link or a file in place of a folder, or a folder in place of a file."""
    existing = {""} if folder.is_dir() else set()
    for name in sorted(folders):
        if name.rpartition("/")[0] in existing:
            with suppress(FileNotFoundError):
                if not is_real_folder(folder / name):
                    raise InputError(f"{folder / name}: a link or a file, but a folder in {archive}; remove it")
                existing.add(name)
    for name in files:
        if name.rpartition("/")[0] in existing:
            with suppress(FileNotFoundError):
                if is_real_folder(folder / name):
                    raise InputError(f"{folder / name}: a folder, but a file in {archive}; remove it")


def _check_space(archive: Path, folder: Path, size: int) -> None:
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if size > free:
        raise InputError(f"{archive}: needs {size / 1e9:.1f} GB in {folder}, but {free / 1e9:.1f} GB are free")


# -- writing ----------------------------------------------------------------------------------------------------------


class FolderWriter:
    """Creates folders and files below `root`, which is created too; if the block raises, it removes them.

    Each folder is opened in its parent and must not be a link, so that no other process can redirect it. Systems
    without `dir_fd` check the path instead.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._created: list[str] = []  # paths below the root; those of folders end with a slash
        self._parts: Parts = ()  # of the current folder
        self._base = ""  # prefix of the paths in the current folder
        self._fd: int | None = None  # descriptor of the current folder

    def __enter__(self) -> FolderWriter:
        self._is_new = not self.root.exists()
        self.root.mkdir(parents=True, exist_ok=True)
        self._enter_root()
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is not None:
            self._remove_created()
        self._leave()

    def make_folder(self, parts: Parts) -> None:
        self._enter(parts)

    def write_file(self, parts: Parts, member: Member) -> None:
        """Write a file, replacing one that exists; ValueError if it has another size than declared."""
        self._enter(parts[:-1])
        path, size = self._base + parts[-1], 0
        with suppress(FileNotFoundError):
            os.unlink(path, dir_fd=self._fd)  # a link is replaced, and other hard links keep their content
        descriptor = os.open(path, FILE_FLAGS, 0o666, dir_fd=self._fd)
        self._created.append("/".join(parts))
        with os.fdopen(descriptor, "wb") as file:
            for chunk in member.read_chunks():
                size += len(chunk)
                if size > member.size:
                    break
                file.write(chunk)
        if size != member.size:
            raise ValueError(f"{member.name!r} does not have the {member.size:,} bytes that it declares")

    def _enter(self, parts: Parts) -> None:
        """Make a folder below the root the current one, creating it with its parents."""
        if parts != self._parts:
            self._enter_root()
            for part in parts:
                self._enter_child(part)

    def _enter_root(self) -> None:
        self._leave()
        self._parts = ()
        if HAS_DIR_FD:
            self._fd = os.open(self.root, FOLDER_FLAGS)
        else:
            self._base = f"{self.root}{os.sep}"

    def _enter_child(self, name: str) -> None:
        path, parts = self._base + name, (*self._parts, name)
        with suppress(FileExistsError):
            os.mkdir(path, dir_fd=self._fd)
            self._created.append("/".join(parts) + "/")
        if HAS_DIR_FD:
            child = os.open(path, FOLDER_FLAGS, dir_fd=self._fd)
            self._leave()
            self._fd = child
        elif is_real_folder(path):
            self._base = path + os.sep
        else:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        self._parts = parts

    def _leave(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _remove_created(self) -> None:
        for path in reversed(self._created):
            *parents, name = path.rstrip("/").split("/")
            with suppress(OSError):
                self._enter(tuple(parents))
                remove = os.rmdir if path.endswith("/") else os.unlink
                remove(self._base + name, dir_fd=self._fd)
        if self._is_new:
            with suppress(OSError):
                self.root.rmdir()
