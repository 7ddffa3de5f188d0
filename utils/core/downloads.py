"""Fetching files over HTTP and unpacking archives inside their folder."""

from __future__ import annotations

import hashlib
import lzma
import math
import os
import re
import shutil
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from utils.core.errors import InputError
from utils.core.logging import LOGGER, hidden_bar

OFFICIAL_RELEASES = "https://github.com/ultralytics/yolov5/releases"
OFFICIAL_WEIGHTS = tuple(f"yolov5{size}{kind}.pt" for kind in ("", "6", "-cls", "-seg") for size in "nsmlx")
WEIGHTS_MIN_BYTES = 100_000  # anything smaller is an error page
TIMEOUT_S = 20.0  # for the connection and for each read
TRIES = 4
CHUNK = 1 << 18
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)  # of archives
BUSY = (408, 425, 429, 500, 502, 503, 504)  # statuses that may pass


class UnreachableError(InputError):
    """The server gives no answer at all; asking it for another file is in vain."""


class OverLimitError(InputError):
    """The file is larger, or takes longer, than the caller allows."""


class InterruptedFetchError(Exception):
    """The transfer broke off in a way that another try may mend."""


def fetch(
    url: str,
    dest: str | Path,
    *,
    sha256: str | None = None,
    resume: bool = True,
    progress: bool = True,
    tries: int = TRIES,
    pause_s: float = 1.0,
    max_bytes: float = math.inf,
    max_seconds: float = math.inf,
    remedy: str = "",
) -> Path:
    """Download `url` to the file `dest`, which is there only when complete.

    The bytes come in beside it as `dest.part`. A transfer that breaks off is tried again after a doubling pause. What
    has arrived is kept, also for a later call, and continued where the server says the file is still the same.

    Args:
        sha256: hex digest that the file must have.
        resume: whether to continue a part that an earlier call left.
        tries: attempts in all.
        pause_s: seconds before the second attempt.
        max_bytes, max_seconds: limits of the file and of all attempts together; what is above them is removed.
        remedy: what messages advise where the server is not reached; by default to put the file at `dest`.

    Raises:
        InputError: not http(s) or with a user name, the server cannot be reached or refuses, a limit is exceeded, the
            digest is wrong, or no space is left.
    """
    dest, shown, parts = Path(dest), without_secrets(url), urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise InputError(f"{shown}: only http and https addresses can be downloaded")
    if "@" in parts.netloc:
        raise InputError(f"{shown}: user names in addresses are not supported; download it and give the file")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{dest}: its folder cannot be made ({error.strerror}); choose another") from error
    remedy = remedy or f"put the file at {dest}"
    deadline = time.monotonic() + max_seconds
    transfer = _Transfer(url, dest, progress=progress, max_bytes=max_bytes, deadline=deadline, remedy=remedy)
    if not resume:
        transfer.forget()
    for attempt in range(1, tries + 1):
        try:
            transfer.run()
            break
        except OverLimitError:
            transfer.forget()
            raise
        except InterruptedFetchError as error:
            if attempt == tries:
                raise InputError(f"{shown}: {error}, {tries} times; try later or {remedy}") from error
            LOGGER.warning(f"{shown}: {error}; trying again")
            time.sleep(pause_s * 2 ** (attempt - 1))
    if sha256 is not None and (found := file_sha256(transfer.part)) != sha256.lower():
        transfer.forget()
        raise InputError(f"{shown}: SHA-256 is {found}, expected {sha256}; the download was removed, try again")
    transfer.finish()
    return dest


def without_secrets(url: str) -> str:
    """An address as messages name it: without user, password and query, which may hold a key."""
    return re.sub(r"^([^:/?#]+://)[^/?#]*@", r"\1", url).partition("?")[0]


class _Transfer:
    """The state of one download on disk: `dest.part`, and in `dest.part.tag` which version of which address it is."""

    def __init__(self, url: str, dest: Path, *, progress: bool, max_bytes: float, deadline: float, remedy: str) -> None:
        self.url, self.dest, self.progress, self.remedy = url, dest, progress, remedy
        self.shown = without_secrets(url)
        self.max_bytes, self.deadline = max_bytes, deadline
        self.part = dest.with_name(dest.name + ".part")
        self.tag = dest.with_name(dest.name + ".part.tag")

    def run(self) -> None:
        """Bring the part to its full length; InterruptedFetchError where another try may help."""
        have, version = self._left_over()
        headers = {"User-Agent": "OpenYOLOv5", "Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": version}
        with self._open(headers) as response:
            start = have if response.status == 206 and _range_start(response) == have else 0
            if response.status == 206 and start != have:
                self.forget()
                raise InterruptedFetchError("the server sent another part than asked for")
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdigit() else None
            if start == 0:
                self._note_version(response)
            self._receive(response, start, total)

    @contextmanager
    def _open(self, headers: dict[str, str]) -> Iterator[HTTPResponse]:
        """The answer to a request; failures as InputError or InterruptedFetchError."""
        try:
            with urlopen(Request(self.url, headers=headers), timeout=TIMEOUT_S) as response:
                yield response
        except HTTPError as error:
            error.close()
            if error.code == 416:  # the part is as long as the file, or longer
                self.forget()
            if error.code in (*BUSY, 416):
                raise InterruptedFetchError(f"the server answered {error.code} {error.reason}") from error
            raise InputError(
                f"{self.shown}: the server answered {error.code} {error.reason}; check the address"
            ) from error
        except URLError as error:
            message = f"{self.shown}: cannot be reached ({error.reason}); {self.remedy}"
            raise UnreachableError(message) from error
        except (TimeoutError, ConnectionError, HTTPException) as error:
            raise InterruptedFetchError(f"the transfer broke off ({type(error).__name__})") from error
        except OSError as error:
            raise InputError(
                f"{self.part}: cannot be written ({error.strerror}); free space or choose another folder"
            ) from error

    def _receive(self, response: HTTPResponse, start: int, total: int | None) -> None:
        """Append the body to the first `start` bytes of the part."""
        with (
            self.part.open("r+b" if start else "wb") as file,
            tqdm(
                total=total,
                initial=start,
                unit="B",
                unit_scale=True,
                desc=self.dest.name,
                disable=hidden_bar(self.progress),
            ) as bar,
        ):
            file.seek(start)
            self._check_limits(total or 0)
            while chunk := response.read1(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                self._check_limits(file.tell())
            have = file.tell()
        if total is not None and have < total:
            raise InterruptedFetchError(f"the transfer broke off after {have} of {total} bytes")

    def _check_limits(self, size: int) -> None:
        """OverLimitError once the file is too large or the time is over."""
        over = f"larger than {self.max_bytes / 1e6:.0f} MB" if size > self.max_bytes else ""
        if time.monotonic() > self.deadline:
            over = "not here within the time allowed"
        if over:
            raise OverLimitError(f"{self.shown}: {over}; download it another way and give the file")

    def _left_over(self) -> tuple[int, str]:
        """Bytes of an earlier try of this address and the version they are of; (0, "") where they cannot be used."""
        try:
            url, version = self.tag.read_text(encoding="utf-8").splitlines()
            have = self.part.stat().st_size
        except (OSError, ValueError):
            return 0, ""
        return (have, version) if url == self.url and version else (0, "")

    def _note_version(self, response: HTTPResponse) -> None:
        """Remember what a later try can ask to continue: a strong ETag, else the date of the file."""
        etag = response.headers.get("ETag") or ""
        version = etag if etag.startswith('"') else response.headers.get("Last-Modified") or ""
        self.tag.write_text(f"{self.url}\n{version}\n", encoding="utf-8")

    def forget(self) -> None:
        """Remove what has arrived."""
        self.part.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the complete file its name."""
        self.part.replace(self.dest)
        self.tag.unlink(missing_ok=True)


def _range_start(response: HTTPResponse) -> int | None:
    """First byte of a partial answer: 500 of "bytes 500-999/1000"."""
    unit, _, span = (response.headers.get("Content-Range") or "").partition(" ")
    first = span.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdigit() else None


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_weights(
    target: str | Path,
    *,
    check: Callable[[Path], Any] | None = None,
    releases: str = OFFICIAL_RELEASES,
    progress: bool = True,
) -> Path:
    """Fetch an official checkpoint (AGPL-3.0) from release 7.0, else from the newest, and put it at `target`.

    Args:
        target: path whose last part is one of OFFICIAL_WEIGHTS.
        check: called with the downloaded file before it gets its name; raises InputError if the file is no good.
        releases: address of the releases page.

    Raises:
        InputError: not an official name, not to be had, or the check failed; says where to put the file by hand.
    """
    target = Path(target)
    if target.name not in OFFICIAL_WEIGHTS:
        raise InputError(f"{target.name}: not an official checkpoint; there are {', '.join(OFFICIAL_WEIGHTS)}")
    incoming = target.with_name(f".{target.name}.incoming")
    LOGGER.info(f"{target} is not here: fetching it from {releases} (licence AGPL-3.0)")
    reasons = []
    for place in ("download/v7.0", "latest/download"):
        try:
            fetch(f"{releases}/{place}/{target.name}", incoming, progress=progress)
            _check_weights(incoming, check)
        except InputError as error:
            incoming.unlink(missing_ok=True)
            reasons.append(str(error).split(";")[0])
            if isinstance(error, UnreachableError):
                break
            continue
        incoming.replace(target)
        return target
    raise InputError(f"{target}: not on disk and not to be had ({reasons[0]}); put the file at {target.absolute()}")


def _check_weights(file: Path, check: Callable[[Path], Any] | None) -> None:
    """Raise InputError unless the file can be a checkpoint."""
    if (size := file.stat().st_size) < WEIGHTS_MIN_BYTES:
        raise InputError(f"the server sent {size} bytes, which is no checkpoint")
    if check is not None:
        check(file)


# -- archives ---------------------------------------------------------------------------------------------------------


def unpack(archive: str | Path, into: str | Path, *, progress: bool = True) -> list[Path]:
    """Unpack a .zip or .tar(.gz, .bz2, .xz) below `into`; files of the same name are replaced.

    Every member is looked at before the first is written: a path that is absolute or climbs out with "..", a link or
    a device refuses the whole archive.

    Returns:
        The archive's top-level files and folders, sorted.

    Raises:
        InputError: not an archive, damaged, refused, or larger than the free space.
    """
    archive, into = Path(archive), Path(into)
    try:
        if zipfile.is_zipfile(archive):
            return _unpack_zip(archive, into, progress)
        if tarfile.is_tarfile(archive):
            return _unpack_tar(archive, into, progress)
    except (*DAMAGE, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{archive}: cannot be unpacked ({error}); download it again") from error
    raise InputError(f"{archive}: not a zip or tar archive; download it again")


def _unpack_zip(archive: Path, into: Path, progress: bool) -> list[Path]:
    with zipfile.ZipFile(archive) as source:
        members = source.infolist()
        for member in members:
            _check_member(archive, member.filename, regular=not stat.S_ISLNK(member.external_attr >> 16))
        _check_space(archive, into, sum(member.file_size for member in members))
        for member in tqdm(members, desc=archive.name, unit=" files", disable=hidden_bar(progress)):
            source.extract(member, into)
        return _top_level(into, [member.filename for member in members])


def _unpack_tar(archive: Path, into: Path, progress: bool) -> list[Path]:
    with tarfile.open(archive) as source:
        members = source.getmembers()
        while source.fileobj is not None and source.fileobj.read(CHUNK):  # gzip has its checksum at the very end
            pass
        for member in members:
            _check_member(archive, member.name, regular=member.isfile() or member.isdir())
        _check_space(archive, into, sum(member.size for member in members))
        guard: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 and later
        for member in tqdm(members, desc=archive.name, unit=" files", disable=hidden_bar(progress)):
            source.extract(member, into, **guard)
        return _top_level(into, [member.name for member in members])


def _check_member(archive: Path, name: str, *, regular: bool) -> None:
    """Raise InputError for a member that could write outside the folder."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    outside = not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\0" in name
    if name.strip("./") and (outside or not regular):
        why = "points outside its folder" if outside else "is a link or a device"
        raise InputError(
            f"{archive}: refused, nothing was unpacked: {name!r} {why}; get the archive from its publisher"
        )


def _check_space(archive: Path, into: Path, needed: int) -> None:
    """Raise InputError where the content would not fit; makes the folder."""
    into.mkdir(parents=True, exist_ok=True)
    if needed > (free := shutil.disk_usage(into).free):
        raise InputError(f"{archive}: needs {needed / 1e9:.1f} GB in {into}, where {free / 1e9:.1f} GB are free")


def _top_level(into: Path, names: list[str]) -> list[Path]:
    first = {PurePosixPath(os.path.normpath(name)).parts[:1] for name in names}
    return sorted(into / parts[0] for parts in first if parts and parts[0] != ".")
