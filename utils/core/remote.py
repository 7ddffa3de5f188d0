"""Images from the web, into memory: http and https only, limited in size and time, from public addresses."""

from __future__ import annotations

import os
import re
import socket
import ssl
import string
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from utils.core.errors import InputError

ALLOW_PRIVATE = "YOLOv5_ALLOW_PRIVATE_URLS"
MAX_BYTES = 64 * 2**20
TIMEOUT_S = 20.0  # for a whole fetch; looking up the name takes what the system's resolver takes
MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
CHUNK = 1 << 16
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last four bytes
GLOBAL_UNICAST = IPv6Network("2000::/3")  # all of IPv6 that is assigned to the internet (RFC 4291)
Address = IPv4Address | IPv6Address


def fetch_image(
    url: str, *, max_bytes: int = MAX_BYTES, timeout_s: float = TIMEOUT_S, allow_private: bool | None = None
) -> bytes:
    """The body of an http or https address.

    Every connection, also that of a redirect, goes straight to an address that was looked at first: private, loopback,
    link-local and reserved ones are refused, so that whoever names an image cannot reach into the network of the
    machine that fetches it. Proxies are not used.

    Args:
        allow_private: take those too; None: where the variable YOLOv5_ALLOW_PRIVATE_URLS is 1.

    Raises:
        InputError: another kind of address, refused, unreachable, too large, too slow, or the server has no such file.
    """
    if allow_private is None:
        allow_private = os.getenv(ALLOW_PRIVATE, "").strip().lower() in ("1", "true", "yes")
    deadline = time.monotonic() + timeout_s
    address = url
    for _ in range(MAX_REDIRECTS + 1):
        connection = _Connection(_parse(address), deadline, allow_private)
        try:
            found = _ask(connection, max_bytes)
            connection.check_time()  # what the watchdog cut short may look complete
        except InputError:
            raise
        except (OSError, HTTPException, ValueError) as error:
            late = time.monotonic() >= deadline
            reason = f"not here within {timeout_s:g} s" if late else f"cannot be fetched ({_said(error)})"
            raise InputError(f"{address}: {reason}; download it another way and give the file") from error
        finally:
            connection.finish()
        if isinstance(found, bytes):
            return found
        address = urljoin(address, found)
    raise InputError(f"{url}: redirects more than {MAX_REDIRECTS} times; give the final address")


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet; of IPv6 forms that wrap an IPv4 address, that one counts."""
    if isinstance(address, IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            wrapped = IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(wrapped)
        if address not in GLOBAL_UNICAST:
            return False
    return address.is_global and not address.is_multicast


def _parse(url: str) -> SplitResult:
    """The parts of an address that can be asked for."""
    try:
        parts = urlsplit(url)
        port_fits = parts.port != 0
    except ValueError as error:
        raise InputError(f"{url}: no web address ({error})") from error
    if re.search(r"[\x00-\x20\x7f]", parts.netloc):
        raise InputError(f"{url}: no web address (a space or control character in the name of the server)")
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits:
        raise InputError(f"{url}: not an http or https address; download it another way and give the file")
    if "@" in parts.netloc:
        raise InputError(f"{parts.scheme}://{parts.hostname}: user names in addresses are not supported")
    return parts


class _Connection(HTTPConnection):
    """A connection that looks at the address before it connects, and ends at the deadline whatever the server does."""

    def __init__(self, parts: SplitResult, deadline: float, allow_private: bool) -> None:
        self.parts, self.deadline, self.allow_private = parts, deadline, allow_private
        self.secure = parts.scheme == "https"
        self.default_port = 443 if self.secure else 80  # left out of the header Host, which signed addresses cover
        super().__init__(str(parts.hostname), parts.port or self.default_port)
        self._watchdog = threading.Timer(max(deadline - time.monotonic(), 0), self._cut)
        self._watchdog.daemon = True
        self._watched: socket.socket | None = None

    def connect(self) -> None:
        """Connect to the first address of the host that answers."""
        self.sock = self._watched = self._first_that_answers()
        self._watchdog.start()
        if self.secure:
            context = ssl.create_default_context()
            secured = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock = self._watched = secured
            secured.do_handshake()

    def finish(self) -> None:
        """Close, and forget the deadline; `close` is also called while an answer without a length is being read."""
        self._watchdog.cancel()
        self.close()

    def check_time(self) -> None:
        """TimeoutError once the deadline has passed."""
        if time.monotonic() >= self.deadline:
            raise TimeoutError

    def _first_that_answers(self) -> socket.socket:
        problem: OSError = OSError("no address")
        for address in self._addresses():
            left = self.deadline - time.monotonic()
            if left <= 0:
                break
            try:
                return socket.create_connection((address, self.port), timeout=left)
            except OSError as error:
                problem = error
        raise problem

    def _addresses(self) -> list[str]:
        """The host's numeric addresses; InputError if any may not be connected to."""
        infos = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        hosts = list(dict.fromkeys(str(info[4][0]) for info in infos))
        for host in hosts:
            if not (self.allow_private or is_public(ip_address(host.partition("%")[0]))):
                raise InputError(
                    f"{self.parts.geturl()}: {self.host} is {host}, no public address; "
                    f"set {ALLOW_PRIVATE}=1 to allow it, or give the file"
                )
        return hosts

    def _cut(self) -> None:
        """End a transfer that is still going on."""
        if self._watched is not None:
            with suppress(OSError):  # socket's own shutdown: that of SSL sockets drops the state that a reader needs
                socket.socket.shutdown(self._watched, socket.SHUT_RDWR)


def _ask(connection: _Connection, max_bytes: int) -> bytes | str:
    """The body, or where a redirect leads to."""
    parts = connection.parts
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = f"?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?')}" if parts.query else ""
    connection.request("GET", path + query, headers={"User-Agent": "OpenYOLOv5", "Accept-Encoding": "identity"})
    response = connection.getresponse()
    if response.status in REDIRECTS and (target := response.headers.get("Location")):
        return quote(target, safe=string.punctuation, encoding="latin-1")  # http.client decodes its bytes so
    if response.status != 200:
        raise InputError(
            f"{parts.geturl()}: the server answered {response.status} {response.reason}; check the address"
        )
    return _body(response, parts.geturl(), max_bytes)


def _body(response: HTTPResponse, url: str, max_bytes: int) -> bytes:
    """All bytes of the answer, if they are not too many."""
    body, announced = bytearray(), response.length or 0
    while max(announced, len(body)) <= max_bytes:
        if part := response.read1(CHUNK):
            body += part
        elif response.length:
            raise HTTPException(f"broke off after {len(body)} of {announced} bytes")
        else:
            return bytes(body)
    raise InputError(f"{url}: larger than {max_bytes / 1e6:.0f} MB; download it another way and give the file")


def _said(error: Exception) -> str:
    """What an exception says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
