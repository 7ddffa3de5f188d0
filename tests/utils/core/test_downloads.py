"""Downloads of files and official weights from a server on loopback."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from loopback import Responder, respond, serve_responses

from utils.core import downloads
from utils.core.downloads import download_file, download_weights
from utils.core.errors import InputError

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes


class Server(ThreadingHTTPServer):
    """Serves `files` with ETag and ranges; `cuts` and `statuses` are used up by the first requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.locations: dict[str, str] = {}
        self.cuts: list[int] = []  # bytes after which the connection closes
        self.statuses: list[int] = []
        self.ranges = True
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        if self.path in self.server.locations:
            self.send_response(302)
            self.send_header("Location", self.server.locations[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.server.statuses:
            self.send_error(self.server.statuses.pop(0))
            return
        if self.path not in self.server.files:
            self.send_error(404)
            return
        content, tag = self.server.files[self.path], self.server.tags.get(self.path, '"one"')
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start and self.headers.get("If-Range") != tag:
            start = 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        with suppress(OSError):  # the client may refuse it
            self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def do_CONNECT(self) -> None:
        self.server.requests.append((self.path, None))
        self.send_error(403)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, allow_private_urls: None) -> Iterator[Server]:
    monkeypatch.setattr(downloads, "PAUSE_S", 0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_above_a_limit_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    with pytest.raises(InputError, match=r"/a\.bin: larger than 1 MB; check the address"):
        download_file(f"{server.url}/a.bin", tmp_path / "a.bin", max_bytes=1_000_000)
    with pytest.raises(InputError, match=r"/a\.bin: not complete within the time limit"):
        download_file(f"{server.url}/a.bin", tmp_path / "a.bin", max_seconds=0)
    assert not (tmp_path / "a.bin").exists()
    assert download_file(f"{server.url}/a.bin", tmp_path / "a.bin", max_bytes=len(CONTENT)).is_file()


def test_file_arrives_whole_and_alone(server: Server, tmp_path: Path) -> None:
    server.files["/a.zip"] = CONTENT
    dest = download_file(f"{server.url}/a.zip", tmp_path / "new" / "a.zip")
    assert dest.read_bytes() == CONTENT
    assert names_in(dest.parent) == ["a.zip"]
    assert server.requests == [("/a.zip", None)]


def test_progress_is_shown_on_a_terminal_only(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a.bin"] = CONTENT
    download_file(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    download_file(f"{server.url}/a.bin", tmp_path / "b.bin")
    shown = capsys.readouterr().err
    assert "b.bin: 100%" in shown
    assert "1.02M/1.02M" in shown


def test_an_interrupted_transfer_is_resumed(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    server.cuts = [300_000, 200_000]
    download_file(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.requests == [("/a.bin", None), ("/a.bin", "bytes=299999-"), ("/a.bin", "bytes=499998-")]


@pytest.mark.parametrize("version", ['"one"', '"two"'])
def test_a_later_call_resumes_only_the_same_version(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    url, dest = f"{server.url}/a.bin", tmp_path / "a.bin"
    monkeypatch.setattr(downloads, "TRIES", 1)
    server.files["/a.bin"] = b"x" * len(CONTENT)
    server.cuts = [300_000]
    with pytest.raises(InputError, match=r"transfer interrupted \(724000 bytes missing\)"):
        download_file(url, dest)
    assert names_in(tmp_path) == ["a.bin.part", "a.bin.part.tag"]
    server.tags["/a.bin"] = version
    if version == '"two"':
        server.files["/a.bin"] = CONTENT
    download_file(url, dest)
    assert dest.read_bytes() == server.files["/a.bin"]
    assert server.requests[-1] == ("/a.bin", "bytes=299999-")


def test_part_of_another_url_is_not_resumed(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files |= {"/a.bin": b"x" * 500, "/b.bin": b"y" * 500}
    server.cuts = [100]
    with monkeypatch.context() as patch, pytest.raises(InputError, match="interrupted"):
        patch.setattr(downloads, "TRIES", 1)
        download_file(f"{server.url}/a.bin", tmp_path / "c.bin")
    download_file(f"{server.url}/b.bin", tmp_path / "c.bin")
    assert (tmp_path / "c.bin").read_bytes() == b"y" * 500


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"], server.ranges, server.cuts = CONTENT, False, [300_000]
    download_file(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_complete_part_without_its_final_name(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    (tmp_path / "a.bin.part.tag").write_text(f'{server.url}/a.bin\n"one"\n')
    download_file(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert names_in(tmp_path) == ["a.bin"]


def test_temporary_errors_are_retried_and_others_are_not(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"], server.statuses = CONTENT, [503, 429]
    download_file(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert len(server.requests) == 3
    with pytest.raises(InputError, match=r"/none\.bin: the server answered 404 Not Found; check the address"):
        download_file(f"{server.url}/none.bin", tmp_path / "none.bin")
    assert len(server.requests) == 4
    server.statuses = [503] * downloads.TRIES
    with pytest.raises(InputError, match=r"the server answered 503 .*; check the address"):
        download_file(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert not server.statuses


def test_a_rejected_file_is_removed(server: Server, tmp_path: Path) -> None:
    def check(part: Path) -> None:
        assert part.read_bytes() == b"other"
        raise InputError(f"{part.name}: wrong digest")

    server.files["/a.bin"] = b"other"
    with pytest.raises(InputError, match=r"a\.bin\.part: wrong digest"):
        download_file(f"{server.url}/a.bin", tmp_path / "a.bin", check=check)
    assert names_in(tmp_path) == []


def test_redirects_are_followed_and_limited(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"], server.locations = CONTENT, {"/old": "/a.bin", "/round": "/round", "/file": "file:///etc"}
    server.locations |= {
        "/ftp": "ftp://127.0.0.1/a.bin",
        "/port": f"http://127.0.0.1:{'9' * 30}/",
        "/ip": "http://[::1/",
    }
    server.cuts = [300_000]
    download_file(f"{server.url}/old", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.requests[-2:] == [("/old", "bytes=299999-"), ("/a.bin", "bytes=299999-")]
    with pytest.raises(InputError, match=r"/round: the server answered 302 .* infinite loop"):
        download_file(f"{server.url}/round", tmp_path / "b.bin")
    with pytest.raises(InputError, match=r"/file: the server answered 302 .*'file:///etc' is not allowed"):
        download_file(f"{server.url}/file", tmp_path / "b.bin")
    for name, problem in (("ftp", "unknown url type: ftp"), ("port", "int too large"), ("ip", "Invalid IPv6 URL")):
        with pytest.raises(InputError, match=rf"/{name}: cannot be reached \(.*{problem}"):
            download_file(f"{server.url}/{name}", tmp_path / "b.bin")
    assert names_in(tmp_path) == ["a.bin"]


def test_the_proxy_of_the_environment_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["http://host.invalid/a.bin"] = CONTENT  # a proxy is asked for the whole URL
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv(downloads.ALLOW_PRIVATE)  # a proxy may be private
    download_file("http://host.invalid/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    monkeypatch.setenv("https_proxy", server.url)
    with pytest.raises(InputError, match="Tunnel connection failed: 403"):
        download_file("https://host.invalid/a.bin", tmp_path / "b.bin")
    assert server.requests[-1] == ("host.invalid:443", None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(InputError, match=r"127\.0\.0\.1 is not a public address"):
        download_file(f"{server.url}/a.bin", tmp_path / "b.bin")


def test_empty_file(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = b""
    assert download_file(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == b""


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    for url in (f"file://{tmp_path}/secret", "ftp://127.0.0.1/a", "a.zip"):
        with pytest.raises(InputError, match=r"not an http or https URL"):
            download_file(url, tmp_path / "copy")
    assert names_in(tmp_path) == ["secret"]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://", r"not a valid URL \(no host given\)"),
        ("http:///a", r"not a valid URL \(no host given\)"),
        ("http://:80/a", r"not a valid URL \(no host given\)"),
        ("http://[::1/a", r"not a valid URL \(Invalid IPv6 URL\)"),
        ("http://[x]/a", "not a valid URL"),
        (f"http://127.0.0.1:{'9' * 30}/a", r"not a valid URL \(Port out of range"),
        ("http://127.0.0.1:x/a", r"not a valid URL \(Port could not be cast"),
        ("http://host/a\0b", r"not a valid URL \(it has unprintable characters\)"),
        ("http://ho\0st/a", r"not a valid URL \(it has unprintable characters\)"),
        ("http://host/a\r\nX: y", r"not a valid URL \(it has unprintable characters\)"),
        ("http://host/\udcff", r"not a valid URL \(it has unprintable characters\)"),
        ("http://\u2100.invalid/a", "not a valid URL"),
        ("http://a..b/a", "cannot be reached"),
        (f"http://{'a' * 70}.invalid/a", "cannot be reached"),
        ("http://ho st/a", r"cannot be reached \(URL can't contain control characters"),
        (f"http://[::1/{'a' * 10**6}", "not a valid URL|Invalid IPv6 URL"),
    ],
)
def test_invalid_urls_are_refused(tmp_path: Path, url: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        download_file(url, tmp_path / "a")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900
    assert names_in(tmp_path) == []


# -- private addresses ------------------------------------------------------------------------------------------------


def test_private_addresses_are_refused_unless_allowed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/download/v7.0/yolov5n.pt"] = b"weights"
    port = server.server_address[1]
    hosts = ("127.0.0.1", "localhost", "127.1", "2130706433", "%31%32%37.0.0.1", "[::ffff:127.0.0.1]")
    monkeypatch.delenv(downloads.ALLOW_PRIVATE)
    for host in hosts:
        with pytest.raises(
            InputError, match=r"127\.0\.0\.1 is not a public .*; set YOLOv5_ALLOW_PRIVATE_URLS=1 to all"
        ):
            download_file(f"http://{host}:{port}/download/v7.0/yolov5n.pt", tmp_path / "a.bin")
    with pytest.raises(InputError, match=r"yolov5n\.pt: not found, download failed \(127.* is not a public address\)"):
        download_weights(tmp_path / "yolov5n.pt", releases=server.url)
    assert not server.requests
    monkeypatch.setenv(downloads.ALLOW_PRIVATE, "1")
    download_weights(tmp_path / "yolov5n.pt", releases=server.url)


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("http://127.0.0.2:1/a", "127.0.0.2"),
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254"),
        ("http://10.0.0.1/", "10.0.0.1"),
        ("http://192.168.0.1/", "192.168.0.1"),
        ("http://[fe80::1]/", "fe80::1"),
        ("http://[::1]/", "::1"),
    ],
)
def test_redirects_to_private_addresses_are_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, shown: str
) -> None:
    """A mock takes the first host for a public one."""
    server.locations["/a.bin"] = target
    monkeypatch.delenv(downloads.ALLOW_PRIVATE)
    monkeypatch.setattr(downloads, "is_public", lambda address: str(address) == "127.0.0.1")
    with pytest.raises(InputError, match=rf"{shown}: {shown} is not a public address"):
        download_file(f"{server.url}/a.bin", tmp_path / "a.bin")


def test_few_addresses_of_a_host_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock of a name with addresses that do not answer."""
    tried: list[object] = []
    infos = [(0, 0, 0, "", (f"8.8.8.{number}", 80)) for number in range(250)]

    def connect(address: object, **_: object) -> socket.socket:
        tried.append(address)
        raise TimeoutError("timed out")

    monkeypatch.setattr("utils.core.downloads.socket.getaddrinfo", lambda *_, **__: infos)
    monkeypatch.setattr("utils.core.downloads.socket.create_connection", connect)
    with pytest.raises(InputError, match=r"cannot be reached \(timed out\)"):
        download_file("http://host.invalid/a.bin", tmp_path / "a.bin")
    assert tried == [(f"8.8.8.{number}", 80) for number in range(downloads.MAX_ADDRESSES)]


# -- bounds -----------------------------------------------------------------------------------------------------------


def repeat(start: bytes, content: bytes, over: threading.Event, pause: float) -> Responder:
    """A response of 500 parts, which represents one without end, unless `over` is set."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        for _ in range(500):
            if not over.wait(pause):
                handler.wfile.write(content)

    return send


@pytest.mark.parametrize(
    ("start", "content", "problem", "left"),
    [
        (b"HTTP/1.0 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x", "slower than 1 kB/s; try again later", True),
        (b"HTTP/1.0 200 OK\r\n", b"x", "not complete within the time limit", False),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "not complete within the time limit", False),
    ],
    ids=["body", "headers", "continue"],
)
def test_a_dripping_server_is_cut_off(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    allow_private_urls: None,
    start: bytes,
    content: bytes,
    problem: str,
    left: bool,
) -> None:
    monkeypatch.setattr(downloads, "SPEED_S", 0.3)
    monkeypatch.setattr(downloads, "ANSWER_S", 0.3)
    over, begin = threading.Event(), time.monotonic()
    with serve_responses({"/a": repeat(start, content, over, 0.02)}) as base:
        try:
            with pytest.raises(InputError, match=problem):
                download_file(f"{base}/a", tmp_path / "a")
            assert time.monotonic() - begin < 5
        finally:
            over.set()
    assert names_in(tmp_path) == (["a.part", "a.part.tag"] if left else [])


def test_a_file_larger_than_the_free_space_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a.bin"] = CONTENT
    monkeypatch.setattr("utils.core.downloads.shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(InputError, match=r"/a\.bin: needs 0\.0 GB in .*, but 0\.0 GB are free; free space or use"):
        download_file(f"{server.url}/a.bin", tmp_path / "a.bin")
    with (
        serve_responses({"/a": respond(b"", length=10**18)}) as base,
        pytest.raises(InputError, match=r"/a: needs 1,000,000,000\.0 GB in "),
    ):
        download_file(f"{base}/a", tmp_path / "a")


def test_a_file_without_end_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow_private_urls: None
) -> None:
    part, over = tmp_path / "a.part", threading.Event()

    def disk_usage(_: object) -> SimpleNamespace:
        return SimpleNamespace(free=downloads.FREE_BYTES + 3_000_000 - part.stat().st_size if part.exists() else 1e9)

    monkeypatch.setattr("utils.core.downloads.shutil.disk_usage", disk_usage)
    endless = repeat(b"HTTP/1.0 200 OK\r\n\r\n", bytes(100_000), over, 0)
    with serve_responses({"/a": endless}) as base:
        try:
            with pytest.raises(InputError, match="/a: of unknown size, and fills the disk"):
                download_file(f"{base}/a", tmp_path / "a")
        finally:
            over.set()
    assert part.stat().st_size == 0


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    (tmp_path / "file").touch()
    for dest in (tmp_path / "file" / "a.bin", tmp_path / ("n" * 250), tmp_path / "file" / "deep" / "a"):
        with pytest.raises(InputError, match=r"cannot be written \(.*\); free space or use another folder"):
            download_file(f"{server.url}/a.bin", dest)


def test_a_partial_answer_without_a_request_for_one(tmp_path: Path, allow_private_urls: None) -> None:
    with serve_responses({"/a": respond(b"content", status=206)}) as base:
        assert download_file(f"{base}/a", tmp_path / "a").read_bytes() == b"content"
    assert names_in(tmp_path) == ["a"]


# -- official weights -------------------------------------------------------------------------------------------------


def test_weights_come_from_7_0_or_else_from_the_latest_release(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = b"weights"
    server.files["/download/v7.0/yolov5n.pt"] = weights
    server.files["/latest/download/yolov5s6.pt"] = weights
    seen: list[str] = []
    with caplog.at_level(logging.INFO, logger="openyolov5"):
        for name in ("yolov5n.pt", "yolov5s6.pt"):
            target = tmp_path / name
            found = download_weights(target, check=lambda p: seen.append(p.name), releases=server.url)
            assert found == target
            assert target.read_bytes() == weights
    assert seen == ["yolov5n.pt.part", "yolov5s6.pt.part"]  # checked before the file has its name
    assert names_in(tmp_path) == ["yolov5n.pt", "yolov5s6.pt"]
    assert [path for path, _ in server.requests] == [
        "/download/v7.0/yolov5n.pt",
        "/download/v7.0/yolov5s6.pt",
        "/latest/download/yolov5s6.pt",
    ]
    assert "AGPL-3.0" in caplog.text


def test_weights_have_a_limit(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/download/v7.0/yolov5n.pt"] = CONTENT
    monkeypatch.setattr(downloads, "WEIGHTS_MAX_BYTES", 1e6)
    with pytest.raises(InputError, match=r"download failed \(.*/yolov5n\.pt: larger than 1 MB\)"):
        download_weights(tmp_path / "yolov5n.pt", releases=server.url)


def test_rejected_weights_leave_nothing(server: Server, tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        raise InputError(f"{path.name}: refused; get another")

    for place in ("download/v7.0", "latest/download"):
        server.files[f"/{place}/yolov5s.pt"] = b"weights"
    with pytest.raises(InputError, match=r"download failed \(yolov5s\.pt\.part: refused\); put the file at /"):
        download_weights(tmp_path / "yolov5s.pt", check=refuse, releases=server.url)
    assert names_in(tmp_path) == []


def test_without_network_the_message_names_the_place_of_the_file(server: Server, tmp_path: Path) -> None:
    nobody = server.url
    server.server_close()
    target = tmp_path / "yolov5n.pt"
    with pytest.raises(InputError) as caught:
        download_weights(target, check=lambda _: None, releases=nobody)
    assert str(caught.value).count("cannot be reached") == 1
    assert str(caught.value).endswith(f"put the file at {target}")
    assert "\n" not in str(caught.value)
    assert names_in(tmp_path) == []
