"""Files: paths, YAML, images, archives, downloads, ages and sizes, Git."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import yaml

from utils.config.base import ROOT
from utils.core import files as paths
from utils.core.downloads import download_file
from utils.core.hardware import available_cpus
from utils.core.logging import LOGGER
from utils.core.yaml_files import read_yaml
from utils.datasets.prepare.archives import ARCHIVE_SUFFIXES, datasets_folder
from utils.datasets.prepare.unpack import unpack_archive

__all__ = [
    "DATASETS_DIR", "NUM_THREADS", "ROOT", "check_git_info", "check_git_status", "check_online", "clean_str",
    "date_modified", "download", "file_age", "file_date", "file_size", "get_latest_run", "git_describe", "imread",
    "imshow", "imwrite", "increment_path", "unzip_file", "url2file", "user_config_dir", "yaml_load", "yaml_save",
]  # fmt: skip
DATASETS_DIR = datasets_folder()
NUM_THREADS = min(8, max(1, available_cpus() - 1))
CONFIG_FOLDERS = {"Windows": "AppData/Roaming", "Darwin": "Library/Application Support"}  # below the home folder
ONLINE_PROBE, PROBE_SECONDS = ("1.1.1.1", 443), 5.0
GIT_SECONDS = 10.0


# -- paths ------------------------------------------------------------------------------------------------------------


def increment_path(path: str | Path, exist_ok: bool = False, sep: str = "", mkdir: bool = False) -> Path:
    """The path if it does not exist, or else the first free one of `exp2`, `exp3`, ...

    Args:
        sep: separator between name and number.
        mkdir: create the folder.
    """
    if mkdir:
        return paths.make_run_folder(path, exist_ok=exist_ok, sep=sep)
    return paths.increment_path(path, exist_ok, sep)


def get_latest_run(search_dir: str | Path = ".") -> str:
    """The `last*.pt` below a folder that was written last; "" if there is none."""
    checkpoints = [path for path in Path(search_dir).rglob("last*.pt") if path.is_file()]
    return str(max(checkpoints, key=lambda path: path.stat().st_mtime)) if checkpoints else ""


def user_config_dir(dir: str = "Ultralytics", env_var: str = "YOLOV5_CONFIG_DIR") -> Path:
    """The folder for settings of the user, which is created: that of the environment variable, else `dir`.

    `dir` is a folder within ~/.config, on Windows AppData/Roaming, on macOS Library/Application Support; within the
    folder for temporary files if that is read-only.
    """
    if chosen := os.getenv(env_var):
        folder = Path(chosen)
    else:
        folder = Path.home() / CONFIG_FOLDERS.get(platform.system(), ".config") / dir
        parents = (parent for parent in folder.parents if parent.exists())
        if not os.access(next(parents, folder), os.W_OK):
            folder = Path("/tmp") / dir
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def file_age(path: str | Path = __file__) -> int:
    """Whole days since a file was last changed."""
    return (datetime.now() - _get_time(path)).days


def file_date(path: str | Path = __file__) -> str:
    """Date at which a file was last changed, such as "2021-3-26"."""
    changed = _get_time(path)
    return f"{changed.year}-{changed.month}-{changed.day}"


date_modified = file_date  # name in 6.0 and 5.0


def _get_time(path: str | Path) -> datetime:
    return datetime.fromtimestamp(Path(path).stat().st_mtime)


def file_size(path: str | Path) -> float:
    """Size of a file, or of all files below a folder, in MiB; 0 if there is none."""
    path = Path(path)
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file()) / (1 << 20)


def clean_str(s: str) -> str:
    """A text for file names and window titles: all but letters, digits, spaces and `_-./` become underscores."""
    return "".join(char if char.isalnum() or char.isspace() or char in "_-./\\" else "_" for char in s)


def url2file(url: str | Path) -> str:
    """The file name in a URL, without its query."""
    return Path(unquote(str(url)).split("?")[0]).name


# -- content ----------------------------------------------------------------------------------------------------------


def yaml_load(file: str | Path = "data.yaml") -> Any:
    """Content of a YAML file; InputError with file and line if it cannot be read."""
    return read_yaml(file)


def yaml_save(file: str | Path = "data.yaml", data: Any = {}) -> None:  # noqa: B006 (not changed)
    """Write a mapping as YAML in its order, with paths as text."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in dict(data).items()}
    with paths.atomic_write(file) as temporary:
        temporary.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")


def imread(path: str | Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """Read an image from any path, as `cv2.imread`; None if it cannot be decoded."""
    data = np.fromfile(path, np.uint8)
    return cv2.imdecode(data, flags) if data.size else None


def imwrite(path: str | Path, im: np.ndarray) -> bool:
    """Write an image to any path, as `cv2.imwrite`; whether it was written."""
    try:
        encoded = cv2.imencode(Path(path).suffix, im)[1]
        encoded.tofile(path)
    except (cv2.error, OSError):
        return False
    return True


def imshow(path: str | Path, im: np.ndarray) -> None:
    """Show an image in a window, whose title is the path in ASCII."""
    cv2.imshow(str(path).encode("unicode_escape").decode(), im)


def unzip_file(
    file: str | Path, path: str | Path | None = None, exclude: Collection[str] = (".DS_Store", "__MACOSX")
) -> None:
    """Unpack an archive into a folder, by default its own, without members whose path has a text of `exclude`.

    All members are checked first, see `utils.datasets.prepare.unpack`: nothing is written outside the folder.

    Raises:
        InputError: not an archive, damaged, or rejected.
    """
    file = Path(file)
    unpack_archive(file, file.parent if path is None else Path(path), exclude=exclude)


def download(
    url: str | Path | Sequence[str | Path],
    dir: str | Path = ".",
    unzip: bool = True,
    delete: bool = True,
    curl: bool = False,
    threads: int = 1,
    retry: int = 3,
) -> None:
    """Download files into a folder and unpack archives there.

    Public addresses only; an interrupted transfer is resumed, see `utils.core.downloads`.

    Args:
        url: one or several URLs; the path of a local archive is only unpacked.
        unzip: unpack archives, and then `delete` those that were downloaded.
        threads: files at the same time.
        curl, retry: ignored: transfers are always retried.

    Raises:
        InputError: a file cannot be downloaded or unpacked.
    """
    folder = Path(dir)
    folder.mkdir(parents=True, exist_ok=True)

    def fetch(address: str | Path) -> None:
        local = Path(address)
        file = local if local.is_file() else folder / url2file(address)
        if not file.is_file():
            LOGGER.info(f"Downloading {address} to {file}")
            download_file(str(address), file)
        if unzip and file.name.lower().endswith(ARCHIVE_SUFFIXES):
            unpack_archive(file, folder)
            if delete and file != local:
                file.unlink()

    addresses = [url] if isinstance(url, str | Path) else list(url)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(fetch, addresses))  # raises the errors


# -- network and Git --------------------------------------------------------------------------------------------------


def check_online() -> bool:
    """Whether the internet can be reached: a connection to 1.1.1.1 succeeds within five seconds."""
    try:
        socket.create_connection(ONLINE_PROBE, PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def check_git_status(repo: str = "ultralytics/yolov5", branch: str = "master") -> None:
    """Does nothing: this project looks for updates only when its user runs `git pull`."""


def check_git_info(path: str | Path = ".") -> dict[str, str | None]:
    """Address of the remote, branch and commit of a Git checkout: `remote`, `branch`, `commit`, each may be None."""
    return {
        "remote": _run_git(path, "config", "--get", "remote.origin.url") or None,
        "branch": _run_git(path, "symbolic-ref", "--short", "HEAD") or None,
        "commit": _run_git(path, "rev-parse", "HEAD") or None,
    }


def git_describe(path: str | Path = ROOT) -> str:
    """Tag, number of commits since and commit of a Git checkout, such as "v7.0-12-g3e55763"; "" if it is none."""
    return _run_git(path, "describe", "--tags", "--long", "--always")


def _run_git(path: str | Path, *arguments: str) -> str:
    """Output of a Git command in a folder; "" if it fails."""
    command = ["git", "-C", str(path), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
