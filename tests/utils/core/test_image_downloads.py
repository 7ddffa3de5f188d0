"""Images from a server on loopback: limits, redirects, private addresses."""

from __future__ import annotations

import io
import socket
import ssl
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from types import SimpleNamespace
from typing import cast
from urllib.error import URLError

import pytest
from loopback import Responder, respond, serve_responses

from utils.core import downloads
from utils.core.downloads import ALLOW_PRIVATE, download_image, is_public
from utils.core.errors import InputError


@pytest.fixture(autouse=True)
def allow_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_PRIVATE, "1")


def redirect(target: str) -> Responder:
    return respond(b"", status=302, Location=target)


def test_download_image_returns_the_body() -> None:
    with serve_responses({"/a.jpg": respond(b"image"), "/b": respond(b"unmeasured", length=-1)}) as base:
        assert download_image(f"{base}/a.jpg?size=1") == b"image"
        assert download_image(f"{base}/b") == b"unmeasured"


def test_names_with_spaces_and_umlauts() -> None:
    with serve_responses({"/a%20%C3%BC.jpg": respond(b"image")}) as base:
        assert download_image(f"{base}/a ü.jpg") == b"image"
        assert download_image(f"{base}/a%20%C3%BC.jpg") == b"image"


def test_redirects_are_followed_and_limited() -> None:
    responders = {
        "/1": redirect("/2"),
        "/2": redirect("a.jpg"),
        "/a.jpg": respond(b"image"),
        "/round": redirect("/round"),
        "/ftp": redirect("ftp://127.0.0.1/a.jpg"),
        **{f"/chain{n}": redirect(f"/chain{n + 1}") for n in range(6)},
        "/chain6": respond(b"image"),
    }
    with serve_responses(responders) as base:
        assert download_image(f"{base}/1") == b"image"
        assert download_image(f"{base}/chain1") == b"image"
        for path in ("round", "chain0"):
            with pytest.raises(InputError, match=rf"/{path}: the server answered 302 .* infinite loop"):
                download_image(f"{base}/{path}")
        with pytest.raises(InputError, match=r"/ftp: cannot be reached \(unknown url type: ftp\)"):
            download_image(f"{base}/ftp")


def test_redirects_to_names_with_umlauts_and_spaces() -> None:
    """Servers send such a name as UTF-8 bytes or escaped."""
    raw, escaped = redirect("/ü x.jpg".encode().decode("latin-1")), redirect("/%C3%BC%20x.jpg")
    with serve_responses({"/raw": raw, "/escaped": escaped, "/%C3%BC%20x.jpg": respond(b"image")}) as base:
        assert download_image(f"{base}/raw") == b"image"
        assert download_image(f"{base}/escaped") == b"image"


def test_a_redirect_to_an_invalid_host() -> None:
    with (
        serve_responses({"/": redirect("http://my host/a.jpg")}) as base,
        pytest.raises(InputError, match=r"cannot be reached \(URL can't contain control characters"),
    ):
        download_image(base)


@pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("https", 443)])
def test_the_default_port_is_not_in_the_host_header(monkeypatch: pytest.MonkeyPatch, scheme: str, port: int) -> None:
    """Signed URLs cover the host without it."""
    requests: list[bytes] = []

    def connect(connection: HTTPConnection) -> None:
        assert connection.port == port
        server = SimpleNamespace(sendall=requests.append, makefile=lambda _: io.BytesIO(), close=lambda: None)
        connection.sock = cast("socket.socket", server)

    monkeypatch.setattr("http.client.HTTPConnection.connect", connect)
    monkeypatch.setattr("http.client.HTTPSConnection.connect", connect)
    with pytest.raises(InputError):
        download_image(f"{scheme}://images.example/a.jpg")
    assert b"\r\nHost: images.example\r\n" in requests[0]


def test_loopback_is_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        requests.append(handler.path)
        respond(b"image")(handler)

    with serve_responses({"/a.jpg": answer}) as base:
        monkeypatch.delenv(ALLOW_PRIVATE, raising=False)
        for host in (base, base.replace("127.0.0.1", "localhost")):
            with pytest.raises(InputError, match=f"not a public address; set {ALLOW_PRIVATE}=1"):
                download_image(f"{host}/a.jpg")
        assert not requests
        monkeypatch.setenv(ALLOW_PRIVATE, "1")
        assert download_image(f"{base}/a.jpg") == b"image"


def test_a_redirect_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock takes the first host for a public one; the second is private."""
    monkeypatch.delenv(ALLOW_PRIVATE)
    monkeypatch.setattr("utils.core.downloads.is_public", lambda address: str(address) == "127.0.0.1")
    with serve_responses({"/": redirect("http://127.0.0.2:1/secret")}) as base, pytest.raises(InputError) as caught:
        download_image(base)
    assert str(caught.value).startswith("127.0.0.2: 127.0.0.2 is not a public address")


def test_the_checked_address_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: a mock of a name whose address changes from look-up to look-up."""
    monkeypatch.delenv(ALLOW_PRIVATE)
    answers = iter(["192.0.2.1", "127.0.0.1"])
    connected: list[object] = []
    real = socket.getaddrinfo

    def look_up(host: object, port: object, *arguments: object, **options: object) -> object:
        return real(next(answers) if host == "changing.example" else host, port, *arguments, **options)  # type: ignore[arg-type]

    def connect(address: object, **_: object) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr("utils.core.downloads.socket.getaddrinfo", look_up)
    monkeypatch.setattr("utils.core.downloads.socket.create_connection", connect)
    monkeypatch.setattr("utils.core.downloads.is_public", lambda address: str(address) == "192.0.2.1")
    with pytest.raises(InputError, match=r"cannot be reached \(refused\)"):
        download_image("http://changing.example/a.jpg")
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


def test_a_body_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    responders = {
        "/told": respond(b"x" * 100),
        "/untold": respond(b"x" * 100, length=-1),
        "/lie": respond(b"", length=10**12),
    }
    with serve_responses(responders) as base:
        monkeypatch.setattr(downloads, "IMAGE_MAX_BYTES", 99)
        for path in responders:
            with pytest.raises(InputError, match="larger than"):
                download_image(base + path)
        monkeypatch.setattr(downloads, "IMAGE_MAX_BYTES", 100)
        assert len(download_image(f"{base}/told")) == 100


@pytest.mark.parametrize("start", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\n"], ids=["body", "headers"])
def test_a_slow_server_is_cut_off_at_the_deadline(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps every single read short, but not the transfer."""
    over = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        while not over.wait(0.02):
            handler.wfile.write(b"x")

    monkeypatch.setattr(downloads, "IMAGE_MAX_SECONDS", 0.3)
    with serve_responses({"/": drip}) as base:
        begin = time.monotonic()
        try:
            with pytest.raises(InputError, match="not complete within the time limit"):
                download_image(base)
            assert time.monotonic() - begin < 5
        finally:
            over.set()


def test_interrupted_and_missing_images() -> None:
    responders = {"/half": respond(b"half", length=8), "/none": respond(b"", status=404)}
    with serve_responses(responders) as base:
        with pytest.raises(InputError, match=r"transfer interrupted \(4 bytes missing\)"):
            download_image(f"{base}/half")
        with pytest.raises(InputError, match="the server answered 404 Not Found"):
            download_image(f"{base}/none")
    with pytest.raises(InputError, match=r"cannot be reached \(.*refused"):
        download_image(f"{base}/closed")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("file:///etc/passwd", "not an http or https URL"),
        ("ftp://a/b.jpg", "not an http or https URL"),
        ("http://", r"not a valid URL \(no host given\)"),
        ("http://127.0.0.1:99999/b", r"not a valid URL \(Port out of range"),
        ("http://[::1/x", r"not a valid URL \(Invalid IPv6 URL\)"),
        ("http://my host/b", r"cannot be reached \(URL can't contain control characters"),
    ],
)
def test_invalid_urls_are_refused(url: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        download_image(url)


def test_passwords_are_not_in_messages() -> None:
    with pytest.raises(InputError) as caught:
        download_image("https://me:secret@example.com/a.jpg")
    assert "secret" not in str(caught.value)


def test_https_needs_a_valid_certificate() -> None:
    """A server without TLS represents any that cannot prove its identity."""
    with (
        serve_responses({"/": respond(b"image")}) as base,
        pytest.raises(InputError, match="cannot be reached") as caught,
    ):
        download_image(base.replace("http:", "https:"))
    assert isinstance(caught.value.__cause__, URLError)
    assert isinstance(caught.value.__cause__.reason, ssl.SSLError)
