"""HTTP downloads: files, images and official weights."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import socket
import string
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, InvalidURL
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, quote, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from tqdm import tqdm

from utils.core.errors import InputError
from utils.core.logging import LOGGER

OFFICIAL_RELEASES = "https://github.com/ultralytics/yolov5/releases"
OFFICIAL_WEIGHTS = tuple(f"yolov5{size}{kind}.pt" for kind in ("", "6", "-cls", "-seg") for size in "nsmlx")
ALLOW_PRIVATE = "YOLOv5_ALLOW_PRIVATE_URLS"
IMAGE_MAX_BYTES, IMAGE_MAX_SECONDS = 64 * 2**20, 20.0
WEIGHTS_MAX_BYTES = 2e9
TIMEOUT_S = 20.0  # for the connection and for each read
ANSWER_S = 60.0  # for the headers of an answer, with redirects
MIN_SPEED, SPEED_S = 1000.0, 60.0  # bytes per second, and the seconds over which they are averaged
FREE_BYTES = 1e8  # space that a file of unknown size must leave free
TRIES, PAUSE_S = 4, 1.0  # attempts at a file, and seconds before the second; the pause doubles
CHUNK = 1 << 18
MAX_REDIRECTS = 5
MAX_ADDRESSES = 4  # of a host that are tried
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)  # errors that another attempt may not meet
REMEDY = "check the address, or download the file yourself"
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last four bytes
GLOBAL_UNICAST = IPv6Network("2000::/3")  # all of IPv6 that is assigned to the internet (RFC 4291)


class InterruptedTransferError(InputError):
    """The transfer failed in a way that another attempt may fix."""


def download_image(url: str) -> bytes:
    """Download an image into memory, without proxies.

    It connects to public addresses only, unless the environment variable YOLOv5_ALLOW_PRIVATE_URLS is 1. Every address
    is checked right before the connection to it, also after a redirect, so that a URL cannot reach into the local
    network.

    Raises:
        InputError: the image cannot be downloaded within the limits.
    """
    deadline = time.monotonic() + IMAGE_MAX_SECONDS
    with _open_url(url, {}, ProxyHandler({}), deadline) as response:
        return b"".join(_read_chunks(response, url, IMAGE_MAX_BYTES, deadline))


def download_file(
    url: str,
    dest: str | Path,
    *,
    check: Callable[[Path], Any] | None = None,
    max_bytes: float = math.inf,
    max_seconds: float = math.inf,
) -> Path:
    """Download a file to `dest`, which exists only when it is complete.

    The data is written to `dest.part`. An interrupted transfer is retried after a doubling pause and resumed, also by
    a later call, if the file on the server is still the same version.

    It connects to public addresses only, as `download_image` does. A proxy that the environment names is trusted: it
    may have a private address, and resolves names itself.

    Args:
        check: called with the complete part; raises InputError to reject it, and it is removed.
        max_bytes, max_seconds: limits of the file and of all attempts together. Free space and a minimum speed of
            1 kB/s, averaged over a minute, always limit a download.

    Raises:
        InputError: the file cannot be downloaded within the limits or written, or the check failed.
    """
    dest = Path(dest)
    part, tag = dest.with_name(f"{dest.name}.part"), dest.with_name(f"{dest.name}.part.tag")
    deadline = time.monotonic() + max_seconds
    with _write_errors(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, TRIES + 1):
            try:
                _download_part(url, part, tag, max_bytes, deadline)
                break
            except InterruptedTransferError as error:
                if attempt == TRIES:
                    raise
                LOGGER.warning(f"{str(error).split(';')[0]}; retrying")
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
    try:
        if check is not None:
            check(part)
    except InputError:
        part.unlink()
        tag.unlink(missing_ok=True)
        raise
    with _write_errors(dest):
        part.replace(dest)
        tag.unlink(missing_ok=True)
    return dest


def read_size(url: str) -> int | None:
    """Size in bytes of the file at a URL, None if the server does not say; the file itself is not transferred.

    Raises:
        InputError: the URL is not valid, not at a public address, or there is no such file.
    """
    with _open_url(url, {}, ProxyHandler(), time.monotonic() + ANSWER_S) as response:
        return response.length


def download_weights(
    target: str | Path, *, check: Callable[[Path], Any] | None = None, releases: str = OFFICIAL_RELEASES
) -> Path:
    """Download an official checkpoint (AGPL-3.0) from release 7.0, or else from the latest release.

    Args:
        target: file to write; its name is one of OFFICIAL_WEIGHTS.
        check: as for `download_file`.
        releases: URL of the releases page.

    Raises:
        InputError: not available, or the check failed.
    """
    target = Path(target)
    LOGGER.info(f"{target} not found, downloading it from {releases} (license: AGPL-3.0)")
    reasons = []
    for release in ("download/v7.0", "latest/download"):
        try:
            url = f"{releases}/{release}/{target.name}"
            return download_file(url, target, check=check, max_bytes=WEIGHTS_MAX_BYTES)
        except InputError as error:
            reasons.append(str(error).split(";")[0])
    raise InputError(f"{target}: not found, download failed ({reasons[0]}); put the file at {target.absolute()}")


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hide_secrets(url: str) -> str:
    """The URL without user, password and query, for messages."""
    return re.sub(r"^([^:/?#]+://)[^/?#]*@", r"\1", url).partition("?")[0]


def parse_url(url: str) -> SplitResult:
    """The parts of an http or https URL; InputError if it is not a valid one."""
    shown = hide_secrets(url)
    try:
        parts = urlsplit(url)
        _ = parts.port  # a ValueError if it is not one
    except ValueError as error:
        raise InputError(f"{shown}: not a valid URL ({error}); {REMEDY}") from error
    if parts.scheme not in ("http", "https"):
        raise InputError(f"{shown}: not an http or https URL; {REMEDY}")
    if not url.isprintable():
        raise InputError(f"{shown}: not a valid URL (it has unprintable characters); {REMEDY}")
    if "@" in parts.netloc:
        raise InputError(f"{shown}: user names in URLs are not supported; {REMEDY}")
    if not parts.hostname:
        raise InputError(f"{shown}: not a valid URL (no host given); {REMEDY}")
    return parts


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address belongs to the public internet; an IPv4 address inside an IPv6 address counts as itself."""
    if isinstance(address, IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            wrapped = IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(wrapped)
        if address not in GLOBAL_UNICAST:
            return False
    return address.is_global and not address.is_multicast


def _download_part(url: str, part: Path, tag: Path, max_bytes: float, deadline: float) -> None:
    """Complete `part`; `tag` holds its URL and its version on the server, by which it can be resumed."""
    try:
        part_url, version = tag.read_text(encoding="utf-8").splitlines()
        start = part.stat().st_size - 1 if part_url == url and version else 0  # a range must not be empty
    except (OSError, ValueError):
        start, version = 0, ""
    byte_range = {"Range": f"bytes={start}-", "If-Range": version} if start > 0 else {}
    with _open_url(url, byte_range, ProxyHandler(), deadline) as response:
        if response.status != 206:
            start = 0
            etag = response.headers.get("ETag", "")
            version = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
            tag.write_text(f"{url}\n{version}\n", encoding="utf-8")
        total = None if response.length is None else start + response.length
        if (response.length or 0) > (free := shutil.disk_usage(part.parent).free):
            needed = f"needs {(response.length or 0) / 1e9:,.1f} GB in {part.parent}, but {free / 1e9:.1f} GB are free"
            raise InputError(f"{hide_secrets(url)}: {needed}; free space or use another folder")
        with (
            part.open("r+b" if start else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
        ):
            file.seek(start)
            for chunk in _read_chunks(response, url, max_bytes, deadline, size=start):
                if total is None and shutil.disk_usage(part.parent).free < FREE_BYTES:
                    file.truncate(0)
                    raise InputError(f"{hide_secrets(url)}: of unknown size, and fills the disk; {REMEDY}")
                file.write(chunk)
                bar.update(len(chunk))


def _open_url(url: str, headers: dict[str, str], proxies: ProxyHandler, deadline: float) -> HTTPResponse:
    """Open an http(s) URL, following redirects; read the body with `_read_chunks`."""
    parse_url(url)
    redirects = HTTPRedirectHandler()
    redirects.max_redirections = MAX_REDIRECTS  # type: ignore[misc]
    connections = _Connections(min(deadline, time.monotonic() + ANSWER_S))
    opener = OpenerDirector()  # build_opener would also follow redirects to ftp://
    for handler in (proxies, redirects, HTTPErrorProcessor(), HTTPDefaultErrorHandler(), UnknownHandler(), connections):
        opener.add_handler(handler)
    with _transfer_errors(url):
        request = Request(quote(url, safe=string.punctuation), headers={"User-Agent": "OpenYOLOv5", **headers})
        try:
            response: HTTPResponse = opener.open(request, timeout=TIMEOUT_S)  # type: ignore[assignment]
        finally:
            if connections.is_late:
                raise InputError(f"{hide_secrets(url)}: not complete within the time limit; {REMEDY}")
    return response


def _read_chunks(response: HTTPResponse, url: str, max_bytes: float, deadline: float, size: int = 0) -> Iterator[bytes]:
    """Yield the body of a response, from byte `size` of the file; InputError if interrupted or over a limit."""
    last_time, last_size = time.monotonic(), size
    while True:
        if size + (response.length or 0) > max_bytes:
            raise InputError(f"{hide_secrets(url)}: larger than {max_bytes / 1e6:.0f} MB; {REMEDY}")
        now = time.monotonic()
        if now >= deadline:
            raise InputError(f"{hide_secrets(url)}: not complete within the time limit; {REMEDY}")
        if now >= last_time + SPEED_S:
            if size - last_size < MIN_SPEED * (now - last_time):
                raise InputError(f"{hide_secrets(url)}: slower than {MIN_SPEED / 1e3:g} kB/s; try again later")
            last_time, last_size = now, size
        with _transfer_errors(url):
            chunk = response.read1(CHUNK)
            if not chunk and response.length:
                raise HTTPException(f"{response.length} bytes missing")
        if not chunk:
            break
        size += len(chunk)
        yield chunk


@contextmanager
def _transfer_errors(url: str) -> Iterator[None]:
    """Raise the errors of a connection as InputError."""
    shown = hide_secrets(url)
    try:
        yield
    except InputError:
        raise
    except HTTPError as error:
        kind = InterruptedTransferError if error.code in TEMPORARY else InputError
        raise kind(f"{shown}: the server answered {error.code} {' '.join(error.reason.split())}; {REMEDY}") from error
    except (URLError, InvalidURL, ValueError, OverflowError) as error:  # OverflowError: the port of a redirect
        raise InputError(f"{shown}: cannot be reached ({getattr(error, 'reason', error)}); {REMEDY}") from error
    except (OSError, HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise InterruptedTransferError(f"{shown}: transfer interrupted ({reason}); {REMEDY}") from error


@contextmanager
def _write_errors(file: Path) -> Iterator[None]:
    """Raise the errors of a file system as InputError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{file}: cannot be written ({reason}); free space or use another folder") from error


class _Connections(HTTPHandler, HTTPSHandler):
    """Opens the connections of an opener, to public addresses only or to the proxy.

    A connection whose response headers are incomplete at `deadline` is shut down.
    """

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self.deadline = deadline
        self.is_late = False

    def do_open(self, http_class: Callable[..., HTTPConnection], req: Request, **arguments: Any) -> HTTPResponse:
        connections: list[HTTPConnection] = []
        is_proxied = req.has_proxy() or getattr(req, "_tunnel_host", None) is not None
        allow_private = os.getenv(ALLOW_PRIVATE, "").strip().lower() in ("1", "true", "yes")

        def build_connection(host: str, **options: Any) -> HTTPConnection:
            connection = http_class(host, **options)
            connect = partial(_connect, public_only=not (is_proxied or allow_private))
            connection._create_connection = connect  # type: ignore[attr-defined]
            connections.append(connection)
            return connection

        def shut_down() -> None:
            self.is_late = True
            for connection in connections:
                if connection.sock is not None:
                    with suppress(OSError):  # a TLS handshake, which has its own timeout, has taken the socket
                        connection.sock.shutdown(socket.SHUT_RDWR)

        seconds_left = max(self.deadline - time.monotonic(), 0)
        timer = threading.Timer(min(seconds_left, threading.TIMEOUT_MAX), shut_down)
        timer.daemon = True
        timer.start()
        try:
            return super().do_open(build_connection, req, **arguments)  # type: ignore[arg-type]
        finally:
            timer.cancel()


def _connect(address: tuple[str, int], timeout: float, *_: Any, public_only: bool) -> socket.socket:
    """As `socket.create_connection` to a few addresses; with `public_only`, InputError if one is not public."""
    host, port = address
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    numbers = list(dict.fromkeys(str(info[4][0]) for info in infos))[:MAX_ADDRESSES]
    for number in numbers:
        if public_only and not is_public(ip_address(number.partition("%")[0])):
            raise InputError(f"{host}: {number} is not a public address; set {ALLOW_PRIVATE}=1 to allow it")
    for number in numbers[:-1]:
        with suppress(OSError):
            return socket.create_connection((number, port), timeout=timeout)
    return socket.create_connection((numbers[-1], port), timeout=timeout)
