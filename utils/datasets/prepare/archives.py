"""Archives of published data sets: fetched, unpacked below the set's folder, removed."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from utils.config.base import ROOT
from utils.core.downloads import fetch, unpack
from utils.core.errors import InputError
from utils.core.files import expand_user

ARCHIVE_SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar", ".zip")
YAML_SUFFIXES = (".yaml", ".yml")


def fetch_and_unpack(url: str, into: Path) -> None:
    """Fetch an archive, resuming what an earlier try left, and unpack it below `into`.

    Raises:
        InputError: the address does not answer, the archive is damaged or the folder cannot be written.
    """
    name = file_name(url)
    done = into / ".fetched" / f"{name}.done"
    if done.exists():
        return
    archive = done.with_name(name)
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        fetch(url, archive)
        unpack(archive, into)
        done.touch()
        archive.unlink()
    except OSError as error:
        raise InputError(f"{into}: {error.strerror or error} while fetching {url}") from error


def fetch_data_set(url: str, root: Path) -> None:
    """Fetch an archive that holds a whole data set, with or without a folder named like `root` around it.

    Raises:
        InputError: as `fetch_and_unpack`, or the URL names no archive.
    """
    if not urlsplit(url).path.lower().endswith(ARCHIVE_SUFFIXES):
        raise InputError(f"download: {url}: not an archive ({', '.join(ARCHIVE_SUFFIXES)})")
    try:
        root.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".unpacked-", dir=root))
    except OSError as error:
        raise InputError(f"{root}: {error.strerror}; set path or YOLOv5_DATASETS_DIR to a writable folder") from error
    archive = root / ".fetched" / file_name(url)
    try:
        archive.parent.mkdir(exist_ok=True)
        fetch(url, archive)
        unpack(archive, work)
        nested = work / root.name
        _merge(nested if nested.is_dir() else work, root)
        shutil.rmtree(archive.parent)
    except OSError as error:
        raise InputError(f"{root}: {error.strerror or error} while fetching {url}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def file_name(url: str) -> str:
    """What an address ends in, as the name of one file: also where its slashes are written as %2F."""
    return Path(unquote(urlsplit(url).path)).name


def datasets_folder() -> Path:
    """Where sets are kept that are known by name or address: YOLOv5_DATASETS_DIR, else `datasets` beside us."""
    moved = os.getenv("YOLOv5_DATASETS_DIR")
    return expand_user(moved).absolute() if moved else ROOT.parent / "datasets"


def is_url(data: str | Path) -> bool:
    """Whether `--data` is an address to fetch."""
    return str(data).lower().startswith(("http://", "https://"))


def fetched_data(url: str) -> Path:
    """The archive or data YAML of an address, in the datasets folder; fetched unless it is there from that address.

    Raises:
        InputError: it names neither, does not answer, or the folder has a file of that name from elsewhere.
    """
    name = file_name(url)
    if not name.lower().endswith((*ARCHIVE_SUFFIXES, *YAML_SUFFIXES)):
        raise InputError(f"--data {url}: names neither a YAML nor an archive ({', '.join(ARCHIVE_SUFFIXES)})")
    folder = datasets_folder()
    file, origin = folder / name, folder / ".addresses" / name
    try:
        known = origin.read_text(encoding="utf-8") if origin.is_file() else "elsewhere"
        if file.exists() and known != url:
            raise InputError(f"--data {url}: {file} is there already, from {known}; remove it, or give --data {file}")
        if not file.exists():
            origin.parent.mkdir(parents=True, exist_ok=True)
            origin.write_text(url, encoding="utf-8")
            fetch(url, file)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; set YOLOv5_DATASETS_DIR to a writable folder") from error
    return file


def yaml_of_archive(archive: Path) -> Path:
    """Unpack a data set's archive into a folder of its name beside it, once; gives the one YAML file in it.

    Raises:
        InputError: the archive is damaged, or holds no YAML file or several.
    """
    name = archive.name.lower()
    into = archive.with_name(archive.name[: -len(next(s for s in ARCHIVE_SUFFIXES if name.endswith(s)))])
    if not into.exists():
        work = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=archive.parent))
        try:
            unpack(archive, work)
            work.chmod(0o755)
            work.replace(into)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    found = sorted(file for suffix in ("*.yaml", "*.yml") for file in into.rglob(suffix))
    if len(found) != 1:
        raise InputError(f"{archive}: {len(found)} YAML files in it, expected one that describes the data")
    return found[0]


def _merge(source: Path, target: Path) -> None:
    """Move everything below `source` into `target`; files that are there stay as they are."""
    for item in source.iterdir():
        place = target / item.name
        if item.is_dir() and place.is_dir():
            _merge(item, place)
        elif not place.exists():
            item.replace(place)
