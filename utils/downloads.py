"""Public address of downloads, with their known signatures.

All transfers go through `utils.core.downloads`: public addresses only, bounded, resumed after an interruption.
"""

from __future__ import annotations

from http.cookiejar import LoadError, MozillaCookieJar
from pathlib import Path
from urllib.parse import quote, urlsplit

from utils.core.downloads import OFFICIAL_WEIGHTS, WEIGHTS_MAX_BYTES, download_file, read_size
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.general import check_requirements, download, is_ascii, unzip_file, url2file
from utils.tasks.networks import find_weights

__all__ = [
    "attempt_download", "check_requirements", "download", "gdrive_download", "get_token", "gsutil_getsize", "is_ascii",
    "is_url", "safe_download", "unzip_file", "url2file", "url_getsize",
]  # fmt: skip
REPO, RELEASE = "ultralytics/yolov5", "v7.0"
GDRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
STORAGE = "https://storage.googleapis.com/"


def is_url(url: str | Path, check: bool = True) -> bool:
    """Whether a text is a URL with scheme and host; with `check` also whether a file can be fetched there."""
    try:
        parts = urlsplit(str(url))
        if not (parts.scheme and parts.netloc):
            return False
        if check:
            read_size(str(url))
    except ValueError:  # InputError included
        return False
    return True


def url_getsize(url: str = "https://ultralytics.com/images/bus.jpg") -> int:
    """Size in bytes of the file at a URL; -1 if the server does not say.

    Raises:
        InputError: there is no such file.
    """
    size = read_size(url)
    return -1 if size is None else size


def gsutil_getsize(url: str = "") -> int:
    """Size in bytes of a public object in Google Cloud Storage (`gs://bucket/object`); 0 if there is none."""
    try:
        return read_size(STORAGE + quote(url.removeprefix("gs://"))) or 0
    except InputError:
        return 0


def safe_download(
    file: str | Path, url: str, url2: str | None = None, min_bytes: float = 1.0, error_msg: str = ""
) -> None:
    """Download a file from `url`, or else from `url2`; logs an error, and leaves no file, if both fail.

    Args:
        min_bytes: a file that is not larger is rejected.
        error_msg: what to do instead, for the log.
    """
    target = Path(file)

    def check(part: Path) -> None:
        if part.stat().st_size <= min_bytes:
            raise InputError(f"{target}: {part.stat().st_size} bytes, expected more than {min_bytes:g}")

    for source in filter(None, (url, url2)):
        LOGGER.info(f"Downloading {source} to {target}")
        try:
            download_file(source, target, check=check)
        except InputError as error:
            LOGGER.error(f"ERROR {error}")
        else:
            return
    target.unlink(missing_ok=True)
    if error_msg:
        LOGGER.error(f"ERROR {target}: {error_msg}")


def attempt_download(file: str | Path, repo: str = REPO, release: str = RELEASE) -> str:
    """The path of a checkpoint, which is downloaded if it is a URL or has an official name and is not on disk.

    Any other name is returned as it is.

    Args:
        repo, release: GitHub repository and tag of other weights; official ones also come from the latest release.

    Raises:
        InputError: the download failed.
    """
    name = str(file).strip().replace("'", "")
    if not name or Path(name).is_file():
        return name
    if name.startswith(("http:/", "https:/")):
        url = name.replace(":/", "://", 1) if "://" not in name else name  # a Path has lost a slash
        target = Path(url2file(url))
        return str(target if target.is_file() else download_file(url, target, max_bytes=WEIGHTS_MAX_BYTES))
    if (repo, release) == (REPO, RELEASE):
        return str(find_weights(name)) if Path(name).name in OFFICIAL_WEIGHTS else name
    target = Path(name)
    LOGGER.info(f"{target} not found, downloading it from release {release} of {repo}")
    url = f"https://github.com/{repo}/releases/download/{release}/{target.name}"
    return str(download_file(url, target, max_bytes=WEIGHTS_MAX_BYTES))


def gdrive_download(id: str = "16TiPfZj7htmTyhntwcZyEEAejOUxuT6m", file: str | Path = "tmp.zip") -> int:
    """Download a public file from Google Drive; a zip archive is unpacked beside it and removed. Returns 0.

    Raises:
        InputError: the download failed.
    """
    target = download_file(GDRIVE + quote(id, safe=""), file)
    if target.suffix == ".zip":
        unzip_file(target)
        target.unlink()
    return 0


def get_token(cookie: str | Path = "./cookie") -> str:
    """The value of the download cookie in a cookies file in Netscape format; "" if there is none."""
    jar = MozillaCookieJar(str(cookie))
    try:
        jar.load(ignore_discard=True, ignore_expires=True)
    except (OSError, LoadError):
        return ""
    return next((entry.value or "" for entry in jar if "download" in entry.name), "")
