"""HTTP downloads: files, images and official weights."""

from __future__ import annotations

import hashlib
import math
import os
import re
import socket
import string
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, InvalidURL
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
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
TIMEOUT_S = 20.0  # for the connection and for each read
TRIES, PAUSE_S = 4, 1.0  # attempts at a file, and seconds before the second; the pause doubles
CHUNK = 1 << 18
MAX_REDIRECTS = 5
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
    allow_private = os.getenv(ALLOW_PRIVATE, "").strip().lower() in ("1", "true", "yes")
    deadline = time.monotonic() + IMAGE_MAX_SECONDS
    with _open_url(url, {}, ProxyHandler({}), deadline, public_only=not allow_private) as response:
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

    Args:
        check: called with the complete part; raises InputError to reject it, and it is removed.
        max_bytes, max_seconds: limits of the file and of all attempts together.

    Raises:
        InputError: the file cannot be downloaded within the limits, or the check failed.
    """
    dest = Path(dest)
    part, tag = dest.with_name(f"{dest.name}.part"), dest.with_name(f"{dest.name}.part.tag")
    deadline = time.monotonic() + max_seconds
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
        tag.unlink()
        raise
    part.replace(dest)
    tag.unlink()
    return dest


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
            return download_file(f"{releases}/{release}/{target.name}", target, check=check)
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
        with (
            part.open("r+b" if start else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
        ):
            file.seek(start)
            for chunk in _read_chunks(response, url, max_bytes, deadline, size=start):
                file.write(chunk)
                bar.update(len(chunk))


def _open_url(
    url: str, headers: dict[str, str], proxies: ProxyHandler, deadline: float, *, public_only: bool = False
) -> HTTPResponse:
    """Open an http(s) URL, following redirects; read the body with `_read_chunks`."""
    redirects = HTTPRedirectHandler()
    redirects.max_redirections = MAX_REDIRECTS  # type: ignore[misc]
    opener = OpenerDirector()  # build_opener would also follow redirects to ftp://
    for handler in (proxies, redirects, HTTPErrorProcessor(), HTTPDefaultErrorHandler(), UnknownHandler()):
        opener.add_handler(handler)
    opener.add_handler(_Connections(deadline, public_only=public_only))
    with _transfer_errors(url):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise InputError(f"{hide_secrets(url)}: not an http or https URL; {REMEDY}")
        if "@" in parts.netloc:
            raise InputError(f"{hide_secrets(url)}: user names in URLs are not supported; {REMEDY}")
        request = Request(quote(url, safe=string.punctuation), headers={"User-Agent": "OpenYOLOv5", **headers})
        response: HTTPResponse = opener.open(request, timeout=TIMEOUT_S)  # type: ignore[assignment]
    return response


def _read_chunks(response: HTTPResponse, url: str, max_bytes: float, deadline: float, size: int = 0) -> Iterator[bytes]:
    """Yield the body of a response, from byte `size` of the file; InputError if interrupted or over a limit."""
    while True:
        if size + (response.length or 0) > max_bytes:
            raise InputError(f"{hide_secrets(url)}: larger than {max_bytes / 1e6:.0f} MB; {REMEDY}")
        if time.monotonic() >= deadline:
            raise InputError(f"{hide_secrets(url)}: not complete within the time limit; {REMEDY}")
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
    except (URLError, InvalidURL, ValueError) as error:
        raise InputError(f"{shown}: cannot be reached ({getattr(error, 'reason', error)}); {REMEDY}") from error
    except (OSError, HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise InterruptedTransferError(f"{shown}: transfer interrupted ({reason}); {REMEDY}") from error


class _Connections(HTTPHandler, HTTPSHandler):
    """Opens the connections of an opener, with `public_only` to public addresses only.

    A connection whose response headers are incomplete at `deadline` is shut down.
    """

    def __init__(self, deadline: float, *, public_only: bool) -> None:
        super().__init__()
        self.deadline = deadline
        self.public_only = public_only

    def do_open(self, http_class: Callable[..., HTTPConnection], req: Request, **arguments: Any) -> HTTPResponse:
        connections: list[HTTPConnection] = []

        def build_connection(host: str, **options: Any) -> HTTPConnection:
            connection = http_class(host, **options)
            if self.public_only:
                connection._create_connection = _connect_to_public  # type: ignore[attr-defined]
            connections.append(connection)
            return connection

        def shut_down() -> None:
            for connection in connections:
                if connection.sock is not None:
                    connection.sock.shutdown(socket.SHUT_RDWR)

        seconds_left = max(self.deadline - time.monotonic(), 0)
        timer = threading.Timer(min(seconds_left, threading.TIMEOUT_MAX), shut_down)
        timer.daemon = True
        timer.start()
        try:
            return super().do_open(build_connection, req, **arguments)  # type: ignore[arg-type]
        finally:
            timer.cancel()


def _connect_to_public(address: tuple[str, int], timeout: float, *_: Any) -> socket.socket:
    """As `socket.create_connection`; InputError if an address of the host is not public."""
    host, port = address
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    numbers = list(dict.fromkeys(str(info[4][0]) for info in infos))
    for number in numbers:
        if not is_public(ip_address(number.partition("%")[0])):
            raise InputError(f"{host}: {number} is not a public address; set {ALLOW_PRIVATE}=1 to allow it")
    for number in numbers[:-1]:
        with suppress(OSError):
            return socket.create_connection((number, port), timeout=timeout)
    return socket.create_connection((numbers[-1], port), timeout=timeout)
