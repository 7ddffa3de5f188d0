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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import AbstractHTTPHandler, OpenerDirector, ProxyHandler, Request

from tqdm import tqdm

from utils.core.errors import InputError
from utils.core.logging import LOGGER, get_tqdm_disable

OFFICIAL_RELEASES = "https://github.com/ultralytics/yolov5/releases"
OFFICIAL_WEIGHTS = tuple(f"yolov5{size}{kind}.pt" for kind in ("", "6", "-cls", "-seg") for size in "nsmlx")
WEIGHTS_MIN_BYTES = 100_000  # anything smaller is an error page
ALLOW_PRIVATE = "YOLOv5_ALLOW_PRIVATE_URLS"
IMAGE_MAX_BYTES, IMAGE_MAX_SECONDS = 64 * 2**20, 20.0
TIMEOUT_S = 20.0  # for the connection and for each read
TRIES, PAUSE_S = 4, 1.0  # attempts at a file, and seconds before the second; the pause doubles
CHUNK = 1 << 18
MAX_REDIRECTS, REDIRECTS = 5, (301, 302, 303, 307, 308)
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)  # errors that another attempt may not meet
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last four bytes
GLOBAL_UNICAST = IPv6Network("2000::/3")  # all of IPv6 that is assigned to the internet (RFC 4291)


class InterruptedTransferError(InputError):
    """The transfer failed in a way that another attempt may fix."""


@dataclass(frozen=True)
class TransferOptions:
    """Limits of a transfer.

    Attributes:
        max_bytes: size of the whole file.
        deadline: end of the transfer on the clock of `time.monotonic`.
        public_only: connect to public addresses only. Every address is checked right before the connection to it, also
            after a redirect, so that a URL cannot reach into the local network.
        use_proxies: use the proxies that the environment names.
        remedy: what to do about a failure, for messages.
    """

    max_bytes: float = math.inf
    deadline: float = math.inf
    public_only: bool = False
    use_proxies: bool = True
    remedy: str = "download it with another tool and pass the file"


@contextmanager
def open_url(url: str, options: TransferOptions, byte_range: dict[str, str] | None = None) -> Iterator[HTTPResponse]:
    """Open an http(s) URL, following redirects; read the body with `read_chunks`.

    Args:
        byte_range: headers Range and If-Range. With them, the status may be 206 or 416 instead of 200.

    Raises:
        InputError: the URL is invalid, refused or unreachable, the server reports an error, or the time is over.
    """
    headers = {"User-Agent": "OpenYOLOv5", "Accept-Encoding": "identity", **(byte_range or {})}
    target = url
    with ExitStack() as stack:
        opener = OpenerDirector()
        opener.add_handler(_Transport(partial(_connect, options=options, stack=stack)))
        if options.use_proxies and not options.public_only:
            opener.add_handler(ProxyHandler())
        for _ in range(MAX_REDIRECTS + 1):
            with _transfer_errors(target, options):
                request = Request(_quote_url(target, options), headers=headers)
                response: HTTPResponse = stack.enter_context(opener.open(request, timeout=TIMEOUT_S))  # type: ignore[arg-type]
            location = response.headers.get("Location") if response.status in REDIRECTS else None
            if not location:
                break
            target = urljoin(target, quote(location, safe=string.punctuation, encoding="latin-1"))
        else:
            raise InputError(f"{hide_secrets(url)}: more than {MAX_REDIRECTS} redirects; use the final URL")
        if response.status not in ((200, 206, 416) if byte_range else (200,)):
            answer = f"{hide_secrets(target)}: the server answered {response.status} {response.reason}"
            if response.status in TEMPORARY:
                raise InterruptedTransferError(f"{answer}; try again later, or {options.remedy}")
            raise InputError(f"{answer}; check the URL")
        yield response


def read_chunks(response: HTTPResponse, url: str, options: TransferOptions, *, start: int = 0) -> Iterator[bytes]:
    """Yield the body of a response, from byte `start` of the file; InputError if interrupted or over a limit."""
    size, total = start, start + (response.length or 0)
    while True:
        if max(size, total) > options.max_bytes:
            limit = f"larger than {options.max_bytes / 1e6:.0f} MB"
            raise InputError(f"{hide_secrets(url)}: {limit}; {options.remedy}")
        with _transfer_errors(url, options):
            chunk = response.read1(CHUNK)
            if not chunk and time.monotonic() >= options.deadline:  # shut down, which looks like the end of the body
                raise TimeoutError
            if not chunk and response.length:
                raise HTTPException(f"{size} of {total} bytes received")
        if not chunk:
            break
        size += len(chunk)
        yield chunk


def download_image(
    url: str,
    *,
    max_bytes: int = IMAGE_MAX_BYTES,
    max_seconds: float = IMAGE_MAX_SECONDS,
    allow_private: bool | None = None,
) -> bytes:
    """Download an image into memory, without proxies.

    Args:
        allow_private: connect to private, loopback, link-local and reserved addresses too; None: if the environment
            variable YOLOv5_ALLOW_PRIVATE_URLS is 1.

    Raises:
        InputError: the image cannot be downloaded within the limits.
    """
    if allow_private is None:
        allow_private = os.getenv(ALLOW_PRIVATE, "").strip().lower() in ("1", "true", "yes")
    deadline = time.monotonic() + max_seconds
    options = TransferOptions(max_bytes, deadline, public_only=not allow_private, use_proxies=False)
    with open_url(url, options) as response:
        return b"".join(read_chunks(response, url, options))


def download_file(
    url: str,
    dest: str | Path,
    *,
    check: Callable[[Path], Any] | None = None,
    max_bytes: float = math.inf,
    max_seconds: float = math.inf,
    remedy: str = "",
    progress: bool = True,
) -> Path:
    """Download a file to `dest`, which exists only when it is complete.

    The data is written to `dest.part`. An interrupted transfer is retried after a doubling pause and resumed, also by
    a later call, if the file on the server is still the same version.

    Args:
        check: called with the complete part; raises InputError to reject it, and it is removed.
        max_bytes, max_seconds: limits of the file and of all attempts together.
        remedy: what to do about a failure, for messages; by default to put the file at `dest`.

    Raises:
        InputError: the file cannot be downloaded within the limits or written, or the check failed.
    """
    dest = Path(dest)
    part, tag = dest.with_name(f"{dest.name}.part"), dest.with_name(f"{dest.name}.part.tag")
    remedy = remedy or f"put the file at {dest}"
    options = TransferOptions(max_bytes, time.monotonic() + max_seconds, remedy=remedy)
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, TRIES + 1):
            try:
                _download_part(url, part, tag, options, progress=progress)
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
        part.replace(dest)
        tag.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{dest}: cannot be written ({error.strerror}); free space or choose another folder"
        ) from error
    return dest


def download_weights(
    target: str | Path,
    *,
    check: Callable[[Path], Any] | None = None,
    releases: str = OFFICIAL_RELEASES,
    progress: bool = True,
) -> Path:
    """Download an official checkpoint (AGPL-3.0) from release 7.0, or else from the latest release.

    Args:
        target: file to write; its name is one of OFFICIAL_WEIGHTS.
        check: as for `download_file`.
        releases: URL of the releases page.

    Raises:
        InputError: not an official name, not available, or the check failed.
    """
    target = Path(target)
    if target.name not in OFFICIAL_WEIGHTS:
        raise InputError(f"{target.name}: not an official checkpoint; choose from {', '.join(OFFICIAL_WEIGHTS)}")

    def check_weights(file: Path) -> None:
        if (size := file.stat().st_size) < WEIGHTS_MIN_BYTES:
            raise InputError(f"the server sent {size} bytes, which is not a checkpoint")
        if check is not None:
            check(file)

    LOGGER.info(f"{target} not found, downloading it from {releases} (license: AGPL-3.0)")
    reasons = []
    for release in ("download/v7.0", "latest/download"):
        try:
            return download_file(f"{releases}/{release}/{target.name}", target, check=check_weights, progress=progress)
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


def _download_part(url: str, part: Path, tag: Path, options: TransferOptions, *, progress: bool) -> None:
    """Complete `part`; `tag` holds its URL and its version on the server, by which it can be resumed."""
    try:
        part_url, version = tag.read_text(encoding="utf-8").splitlines()
        start = part.stat().st_size if part_url == url and version else 0
    except (OSError, ValueError):
        start, version = 0, ""
    byte_range = {"Range": f"bytes={start}-", "If-Range": version} if start else None
    with open_url(url, options, byte_range) as response:
        if response.status == 200:
            start = 0
            etag = response.headers.get("ETag", "")
            version = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
            tag.write_text(f"{url}\n{version}\n", encoding="utf-8")
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            tag.unlink()
            raise InterruptedTransferError(f"{hide_secrets(url)}: cannot be resumed; {options.remedy}")
        total = None if response.length is None else start + response.length
        disable = get_tqdm_disable(progress)
        with (
            part.open("r+b" if start else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=disable) as bar,
        ):
            file.seek(start)
            for chunk in read_chunks(response, url, options, start=start):
                file.write(chunk)
                bar.update(len(chunk))


def _quote_url(url: str, options: TransferOptions) -> str:
    """The URL in ASCII; InputError unless it is http(s) without a user name."""
    try:
        parts = urlsplit(url)
        netloc = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or re.search(r"[\x00-\x20\x7f%]", netloc):
        raise InputError(f"{hide_secrets(url)}: not a valid http or https URL; {options.remedy}")
    if "@" in netloc:
        raise InputError(f"{hide_secrets(url)}: user names in URLs are not supported; {options.remedy}")
    return quote(parts._replace(netloc=netloc).geturl(), safe="/%:@!$&'()*+,;=~-._?#[]")


@contextmanager
def _transfer_errors(url: str, options: TransferOptions) -> Iterator[None]:
    """Raise the errors of a connection as InputError."""
    try:
        yield
    except InputError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        shown, reason = (
            hide_secrets(url),
            " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__,
        )
        if time.monotonic() >= options.deadline:
            raise InputError(f"{shown}: not complete within the time limit; {options.remedy}") from error
        if isinstance(error, URLError):
            raise InputError(f"{shown}: cannot be reached ({reason}); {options.remedy}") from error
        raise InterruptedTransferError(f"{shown}: transfer interrupted ({reason}); {options.remedy}") from error


class _Transport(AbstractHTTPHandler):
    """Opens connections with a function like `socket.create_connection`."""

    http_request = https_request = AbstractHTTPHandler.do_request_

    def __init__(self, connect: Callable[..., socket.socket]) -> None:
        super().__init__()
        self.connect = connect

    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(self._build_connection, request, secure=request.type == "https")  # type: ignore[arg-type]

    https_open = http_open

    def _build_connection(self, host: str, *, timeout: float, secure: bool) -> HTTPConnection:
        connection = (HTTPSConnection if secure else HTTPConnection)(host, timeout=timeout)
        connection._create_connection = self.connect  # type: ignore[attr-defined]
        return connection


def _connect(
    address: tuple[str, int], timeout: float, *_: Any, options: TransferOptions, stack: ExitStack
) -> socket.socket:
    """A connected socket that is shut down at the deadline, also in the middle of a read."""
    seconds = options.deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    hosts = _resolve_public(*address) if options.public_only else [address[0]]
    for host in hosts:
        try:
            sock = socket.create_connection((host, address[1]), timeout=min(timeout, seconds))
            break
        except OSError:
            if host == hosts[-1]:
                raise
    if seconds < threading.TIMEOUT_MAX:
        duplicate = stack.enter_context(sock.dup())  # TLS takes the descriptor away from `sock`
        watchdog = threading.Timer(seconds, _shut_down, (duplicate,))
        watchdog.daemon = True
        watchdog.start()
        stack.callback(watchdog.cancel)
    return sock


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _resolve_public(host: str, port: int) -> list[str]:
    """Numeric addresses of a host; InputError if one is not public."""
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))
    for address in addresses:
        if not is_public(ip_address(address.partition("%")[0])):
            raise InputError(f"{host}: {address} is not a public address; set {ALLOW_PRIVATE}=1 to allow it")
    return addresses
