"""Archives of data sets: downloaded and unpacked into their folders."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from utils.config.base import ROOT
from utils.core.downloads import download_file, hide_secrets, parse_url
from utils.core.errors import InputError
from utils.core.files import expand_user
from utils.core.lazy import PACKAGE
from utils.datasets.prepare.unpack import find_name_problem, is_real_folder, unpack_archive

ARCHIVE_SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar", ".zip")
YAML_SUFFIXES = (".yaml", ".yml")
YAML_MAX_BYTES = 1e8
FETCHED = ".fetched"  # folder below a root for downloads and marks
UNFINISHED = Path(FETCHED) / "unfinished"  # mark while a data set is incomplete


def download_archive(url: str, folder: Path) -> None:
    """Download an archive and unpack it into `folder`, once.

    Raises:
        InputError: the download fails, or the archive is damaged.
    """
    name = get_file_name(url)
    archive, done = folder / FETCHED / name, folder / FETCHED / f"{name}.done"
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
    if not parse_url(url).path.lower().endswith(ARCHIVE_SUFFIXES):
        raise InputError(f"download: {url}: not an archive ({', '.join(ARCHIVE_SUFFIXES)})")
    archive = root / FETCHED / get_file_name(url)
    download_file(url, archive)
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=root) as work:
        content = Path(work, "content")
        unpack_archive(archive, content)
        nested = content / root.name
        source = nested if nested.is_dir() else content
        _check_folders(source, root)
        (root / UNFINISHED).touch()
        _move_files(source, root)
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
    known = origin.read_text(encoding="utf-8", errors="replace") if origin.is_file() else "elsewhere"
    if file.exists() and known != url:
        raise InputError(f"--data {url}: {file} exists and is from {known}; remove it, or use --data {file}")
    if not file.exists():
        origin.parent.mkdir(parents=True, exist_ok=True)
        origin.write_text(url, encoding="utf-8")
        download_file(url, file, max_bytes=YAML_MAX_BYTES if name.lower().endswith(YAML_SUFFIXES) else math.inf)
    return file


def unpack_data_yaml(archive: Path) -> Path:
    """Unpack the archive of a data set into a folder beside it, once, and return the YAML file in it.

    Raises:
        InputError: the archive is damaged, or does not have exactly one YAML file.
    """
    suffix = next(suffix for suffix in ARCHIVE_SUFFIXES if archive.name.lower().endswith(suffix))
    stem = archive.name[: -len(suffix)]
    if problem := find_name_problem(stem):
        raise InputError(f"{archive}: its name before {suffix} {problem}; rename it")
    folder = archive.with_name(stem)
    if not folder.exists():
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=archive.parent) as work:
            unpack_archive(archive, Path(work, folder.name))
            Path(work, folder.name).replace(folder)
    files = sorted(file for suffix in YAML_SUFFIXES for file in folder.rglob(f"*{suffix}"))
    if len(files) != 1:
        raise InputError(f"{archive}: {len(files)} YAML files in it, expected one that describes the data")
    return files[0]


def get_file_name(url: str) -> str:
    """The last part of a URL as a file name, also if its slashes are written as %2F.

    Raises:
        InputError: the URL is not valid, or its last part is not a file name.
    """
    name = PurePosixPath(unquote(parse_url(url).path).replace("\\", "/")).name
    if problem := find_name_problem(name):
        raise InputError(f"{hide_secrets(url)}: its file name {name!r} {problem}; download the file yourself")
    return name


def find_work_folder() -> Path:
    """The folder that `datasets` is beside: the checkout, or the working directory if this package is installed."""
    return Path.cwd() if PACKAGE else ROOT


def datasets_folder() -> Path:
    """The folder of downloaded data sets: YOLOv5_DATASETS_DIR, or else `datasets` beside the work folder."""
    moved = os.getenv("YOLOv5_DATASETS_DIR")
    return expand_user(moved).absolute() if moved else find_work_folder().parent / "datasets"


def _check_folders(source: Path, target: Path) -> None:
    """InputError if `target` has a link or a file in place of a folder of `source`."""
    for folder, _, _ in os.walk(source):
        path = target / Path(folder).relative_to(source)
        if path != target and os.path.lexists(path) and not is_real_folder(path):
            raise InputError(f"{path}: a link or a file, but a folder in the archive; remove it")


def _move_files(source: Path, target: Path) -> None:
    """Move all files to the same paths below `target`, except those that exist there."""
    for folder, _, names in os.walk(source):
        place = target / Path(folder).relative_to(source)
        place.mkdir(exist_ok=True)
        for name in names:
            if not os.path.lexists(place / name):
                Path(folder, name).replace(place / name)
