"""Archives of data sets: downloaded, checked and unpacked inside their folder."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from utils.config.base import ROOT
from utils.core.downloads import download_file
from utils.core.errors import InputError
from utils.core.files import expand_user

ARCHIVE_SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar", ".zip")
YAML_SUFFIXES = (".yaml", ".yml")
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError)


def download_archive(url: str, folder: Path) -> None:
    """Download an archive and unpack it into `folder`, once.

    Raises:
        InputError: the download fails, or the archive is damaged.
    """
    name = get_file_name(url)
    archive, done = folder / ".fetched" / name, folder / ".fetched" / f"{name}.done"
    if done.exists():
        return
    download_file(url, archive)
    unpack_archive(archive, folder)
    done.touch()
    archive.unlink()


def download_dataset(url: str, root: Path) -> None:
    """Download the archive of a data set, with or without a folder named like `root` around it.

    Raises:
        InputError: as `download_archive`, or the URL is not one of an archive.
    """
    if not urlsplit(url).path.lower().endswith(ARCHIVE_SUFFIXES):
        raise InputError(f"download: {url}: not an archive ({', '.join(ARCHIVE_SUFFIXES)})")
    archive = root / ".fetched" / get_file_name(url)
    download_file(url, archive)
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=root) as work:
        content = Path(work, "content")
        unpack_archive(archive, content)
        nested = content / root.name
        shutil.copytree(nested if nested.is_dir() else content, root, copy_function=_move_file, dirs_exist_ok=True)
    shutil.rmtree(archive.parent)


def download_data(url: str) -> Path:
    """Download the data YAML or archive of a `--data` URL into the datasets folder, once.

    Raises:
        InputError: the URL is neither, the download fails, or the folder has a file of that name from elsewhere.
    """
    name = get_file_name(url)
    if not name.lower().endswith((*ARCHIVE_SUFFIXES, *YAML_SUFFIXES)):
        raise InputError(f"--data {url}: neither a YAML file nor an archive ({', '.join(ARCHIVE_SUFFIXES)})")
    folder = datasets_folder()
    file, origin = folder / name, folder / ".addresses" / name
    known = origin.read_text(encoding="utf-8") if origin.is_file() else "elsewhere"
    if file.exists() and known != url:
        raise InputError(f"--data {url}: {file} exists and is from {known}; remove it, or use --data {file}")
    if not file.exists():
        origin.parent.mkdir(parents=True, exist_ok=True)
        origin.write_text(url, encoding="utf-8")
        download_file(url, file)
    return file


def unpack_data_yaml(archive: Path) -> Path:
    """Unpack the archive of a data set into a folder beside it, once, and return the YAML file in it.

    Raises:
        InputError: the archive is damaged, or does not have exactly one YAML file.
    """
    suffix = next(suffix for suffix in ARCHIVE_SUFFIXES if archive.name.lower().endswith(suffix))
    folder = archive.with_name(archive.name[: -len(suffix)])
    if not folder.exists():
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=archive.parent) as work:
            unpack_archive(archive, Path(work, folder.name))
            Path(work, folder.name).replace(folder)
    files = sorted(file for suffix in YAML_SUFFIXES for file in folder.rglob(f"*{suffix}"))
    if len(files) != 1:
        raise InputError(f"{archive}: {len(files)} YAML files in it, expected one that describes the data")
    return files[0]


def unpack_archive(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .tar(.gz, .bz2, .xz) archive, replacing files of the same name.

    All members are checked first: an absolute path, a path out of the folder, a link or a device rejects the archive.

    Raises:
        InputError: not an archive, damaged, rejected, or larger than the free space.
    """
    try:
        with _open_archive(archive) as source:
            members = _check_members(archive, source)
            folder.mkdir(parents=True, exist_ok=True)
            size, free = sum(size for _, size in members), shutil.disk_usage(folder).free
            if size > free:
                raise InputError(f"{archive}: needs {size / 1e9:.1f} GB in {folder}, but {free / 1e9:.1f} GB are free")
            for member, _ in tqdm(members, desc=archive.name, unit=" files", leave=None, disable=None):
                source.extract(member, folder)
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"{archive}: cannot be unpacked ({error}); download it again") from error


def _open_archive(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    if zipfile.is_zipfile(archive):
        return zipfile.ZipFile(archive)
    if not tarfile.is_tarfile(archive):
        raise InputError(f"{archive}: not a zip or tar archive; download it again")
    return tarfile.open(archive)


def _check_members(archive: Path, source: zipfile.ZipFile | tarfile.TarFile) -> list[tuple[Any, int]]:
    """The members with their sizes; InputError if one could write outside the folder."""
    rows: list[tuple[Any, str, int, bool]]
    if isinstance(source, zipfile.ZipFile):
        rows = [(m, m.filename, m.file_size, not stat.S_ISLNK(m.external_attr >> 16)) for m in source.infolist()]
    else:
        rows = [(m, m.name, m.size, m.isfile() or m.isdir()) for m in source.getmembers()]
        source.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later
        while source.fileobj is not None and source.fileobj.read(1 << 18):  # gzip has its checksum at the very end
            pass
    for _, name, _, is_regular in rows:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        outside = not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\0" in name
        if name.strip("./") and (outside or not is_regular):
            problem = "is outside the folder" if outside else "is a link or a device"
            raise InputError(f"{archive}: rejected, nothing was unpacked: {name!r} {problem}; get another archive")
    return [(member, size) for member, _, size, _ in rows]


def get_file_name(url: str) -> str:
    """The last part of a URL as a file name, also if its slashes are written as %2F."""
    return Path(unquote(urlsplit(url).path)).name


def datasets_folder() -> Path:
    """The folder of downloaded data sets: YOLOv5_DATASETS_DIR, or else `datasets` beside the repository."""
    moved = os.getenv("YOLOv5_DATASETS_DIR")
    return expand_user(moved).absolute() if moved else ROOT.parent / "datasets"


def _move_file(source: str, target: str) -> None:
    """Move a file, unless the target exists."""
    if not Path(target).exists():
        Path(source).replace(target)
