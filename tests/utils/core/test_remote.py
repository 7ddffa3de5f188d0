"""Fetching images from a server on this machine: limits, redirects, refused addresses."""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from types import SimpleNamespace
from typing import cast

import pytest

from utils.core.errors import InputError
from utils.core.remote import ALLOW_PRIVATE, fetch_image, is_public

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def serving(answers: dict[str, Answer]) -> Iterator[str]:
    """A web server on the loopback address; each path has a function that answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                answers[self.path.partition("?")[0]](self)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(body: bytes, *, status: int = 200, length: int | None = None, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if length != -1:
            handler.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def redirect(target: str) -> Answer:
    return send(b"", status=302, Location=target)


def test_the_body_comes_back() -> None:
    with serving({"/a.jpg": send(b"image"), "/b": send(b"unmeasured", length=-1)}) as base:
        assert fetch_image(f"{base}/a.jpg?size=1", allow_private=True) == b"image"
        assert fetch_image(f"{base}/b", allow_private=True) == b"unmeasured"


def test_names_with_spaces_and_umlauts() -> None:
    with serving({"/a%20%C3%BC.jpg": send(b"image")}) as base:
        assert fetch_image(f"{base}/a ü.jpg", allow_private=True) == b"image"
        assert fetch_image(f"{base}/a%20%C3%BC.jpg", allow_private=True) == b"image"


def test_redirects_are_followed_and_limited() -> None:
    answers = {"/1": redirect("/2"), "/2": redirect("a.jpg"), "/a.jpg": send(b"image"), "/round": redirect("/round")}
    with serving(answers) as base:
        assert fetch_image(f"{base}/1", allow_private=True) == b"image"
        with pytest.raises(InputError, match="redirects more than 5 times"):
            fetch_image(f"{base}/round", allow_private=True)


def test_redirects_to_names_with_umlauts_and_spaces() -> None:
    """Servers send the bytes of such a name as they are, in UTF-8 or escaped."""
    raw, escaped = redirect("/ü x.jpg".encode().decode("latin-1")), redirect("/%C3%BC%20x.jpg")
    with serving({"/raw": raw, "/escaped": escaped, "/%C3%BC%20x.jpg": send(b"image")}) as base:
        assert fetch_image(f"{base}/raw", allow_private=True) == b"image"
        assert fetch_image(f"{base}/escaped", allow_private=True) == b"image"


def test_a_redirect_to_what_is_no_server() -> None:
    with (
        serving({"/": redirect("http://my host/a.jpg")}) as base,
        pytest.raises(InputError, match="http://my%20host/a"),
    ):
        fetch_image(base, allow_private=True)


@pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("https", 443)])
def test_the_usual_port_is_not_sent_along(monkeypatch: pytest.MonkeyPatch, scheme: str, port: int) -> None:
    """Signatures of addresses are over the host without it."""
    asked: list[bytes] = []

    def connect(connection: HTTPConnection) -> None:
        assert connection.port == port
        server = SimpleNamespace(sendall=asked.append, makefile=lambda _: io.BytesIO(), close=lambda: None)
        connection.sock = cast("socket.socket", server)

    monkeypatch.setattr("utils.core.remote._Connection.connect", connect)
    with pytest.raises(InputError):
        fetch_image(f"{scheme}://images.example/a.jpg", allow_private=True)
    assert b"\r\nHost: images.example\r\n" in asked[0]


def test_loopback_is_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        send(b"image")(handler)

    with serving({"/a.jpg": answer}) as base:
        monkeypatch.delenv(ALLOW_PRIVATE, raising=False)
        for host in (base, base.replace("127.0.0.1", "localhost")):
            with pytest.raises(InputError, match=f"no public address; set {ALLOW_PRIVATE}=1"):
                fetch_image(f"{host}/a.jpg")
        assert not asked
        monkeypatch.setenv(ALLOW_PRIVATE, "1")
        assert fetch_image(f"{base}/a.jpg") == b"image"
        with pytest.raises(InputError, match="no public address"):
            fetch_image(f"{base}/a.jpg", allow_private=False)


def test_a_redirect_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host passes for a public one (a mock: this machine cannot reach any), the second does not."""
    monkeypatch.setattr("utils.core.remote.is_public", lambda address: str(address) == "127.0.0.1")
    with serving({"/": redirect("http://127.0.0.2:1/secret")}) as base, pytest.raises(InputError) as caught:
        fetch_image(base, allow_private=False)
    assert str(caught.value).startswith("http://127.0.0.2:1/secret: 127.0.0.2 is 127.0.0.2, no public address")


def test_the_address_that_was_checked_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name whose address changes from look-up to look-up (a mock of such a name server) gains nothing."""
    answers = iter(["192.0.2.1", "127.0.0.1"])
    connected: list[object] = []
    real = socket.getaddrinfo

    def look_up(host: object, port: object, *arguments: object, **options: object) -> object:
        return real(next(answers) if host == "changing.example" else host, port, *arguments, **options)  # type: ignore[arg-type]

    def connect(address: object, **_: object) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr("utils.core.remote.socket.getaddrinfo", look_up)
    monkeypatch.setattr("utils.core.remote.socket.create_connection", connect)
    monkeypatch.setattr("utils.core.remote.is_public", lambda address: str(address) == "192.0.2.1")
    with pytest.raises(InputError, match=r"cannot be fetched \(refused\)"):
        fetch_image("http://changing.example/a.jpg", allow_private=False)
    assert connected == [("192.0.2.1", 80)]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False),
        ("fec0::1", False),  # site-local
        ("64:ff9b:1::7f00:1", False),  # NAT64 within a site
        ("::127.0.0.1", False),
        ("4000::1", False),  # reserved
    ],
)
def test_is_public(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public


def test_a_body_that_is_too_large_is_refused() -> None:
    answers = {"/told": send(b"x" * 100), "/untold": send(b"x" * 100, length=-1), "/lie": send(b"", length=10**12)}
    with serving(answers) as base:
        for path in answers:
            with pytest.raises(InputError, match="larger than"):
                fetch_image(base + path, max_bytes=99, allow_private=True)
        assert len(fetch_image(f"{base}/told", max_bytes=100, allow_private=True)) == 100


@pytest.mark.parametrize("headers_first", [True, False])
def test_a_server_that_drips_is_cut_off_in_time(headers_first: bool) -> None:
    """A byte now and then keeps every single read short; the whole fetch ends all the same."""
    over = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"\r\n" if headers_first else b"X-Drip: "))
        while not over.wait(0.02):
            handler.wfile.write(b"x")

    with serving({"/": drip}) as base:
        start = time.monotonic()
        try:
            with pytest.raises(InputError, match=r"not here within 0.3 s"):
                fetch_image(base, timeout_s=0.3, allow_private=True)
            assert time.monotonic() - start < 5
        finally:
            over.set()


def test_what_breaks_off_or_is_not_there() -> None:
    answers = {"/half": send(b"half", length=8), "/none": send(b"", status=404)}
    with serving(answers) as base:
        with pytest.raises(InputError, match=r"cannot be fetched \(broke off after 4 of 8 bytes\)"):
            fetch_image(f"{base}/half", allow_private=True)
        with pytest.raises(InputError, match="the server answered 404 Not Found"):
            fetch_image(f"{base}/none", allow_private=True)
    with pytest.raises(InputError, match=r"cannot be fetched \(.*refused"):
        fetch_image(f"{base}/closed", allow_private=True)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a/b.jpg", "http://", "http://a:99999/b", "http://[::1/x", "http://my host/b"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"web address|http or https"):
        fetch_image(url)


def test_passwords_are_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        fetch_image("https://me:secret@example.com/a.jpg")
    assert "secret" not in str(caught.value)


def test_https_needs_a_certificate_that_holds() -> None:
    """A server that speaks no TLS, standing for any that cannot prove who it is."""
    with serving({"/": send(b"image")}) as base, pytest.raises(InputError, match="cannot be fetched") as caught:
        fetch_image(base.replace("http:", "https:"), allow_private=True)
    assert isinstance(caught.value.__cause__, ssl.SSLError)
