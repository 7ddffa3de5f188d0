"""Downloads of files and official weights from a server on loopback."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

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
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
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
    server.cuts = [300_000]
    download_file(f"{server.url}/old", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.requests[-2:] == [("/old", "bytes=299999-"), ("/a.bin", "bytes=299999-")]
    with pytest.raises(InputError, match=r"/round: the server answered 302 .* infinite loop"):
        download_file(f"{server.url}/round", tmp_path / "b.bin")
    with pytest.raises(InputError, match=r"/file: the server answered 302 .*'file:///etc' is not allowed"):
        download_file(f"{server.url}/file", tmp_path / "b.bin")


def test_the_proxy_of_the_environment_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["http://host.invalid/a.bin"] = CONTENT  # a proxy is asked for the whole URL
    monkeypatch.setenv("http_proxy", server.url)
    download_file("http://host.invalid/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_empty_file(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = b""
    assert download_file(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == b""


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    for url in (f"file://{tmp_path}/secret", "ftp://127.0.0.1/a", "a.zip"):
        with pytest.raises(InputError, match=r"not an http or https URL"):
            download_file(url, tmp_path / "copy")
    assert names_in(tmp_path) == ["secret"]


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
