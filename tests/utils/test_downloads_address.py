"""`utils.downloads` and `utils.google_utils`: against a server on loopback."""

from __future__ import annotations

import zipfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from loopback import serve_folder, serve_responses

from utils import downloads, google_utils
from utils.core.errors import InputError
from utils.tasks import networks


def test_addresses_of_5_0() -> None:
    for name in ("attempt_download", "gdrive_download", "get_token", "gsutil_getsize"):
        assert getattr(google_utils, name) is getattr(downloads, name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/file.jpg", True),
        ("rtsp://host/1", True),
        ("file.jpg", False),
        ("/data/file.jpg", False),
        ("https://", False),
        ("http://[bad", False),
        ("", False),
    ],
)
def test_is_url_by_its_syntax(text: str, expected: bool) -> None:
    assert downloads.is_url(text, check=False) is expected


@pytest.mark.usefixtures("allow_private_urls")
def test_sizes_of_served_files(tmp_path: Path) -> None:
    with serve_folder(tmp_path / "served") as (folder, url):
        (folder / "a.jpg").write_bytes(bytes(1234))
        assert downloads.is_url(f"{url}/a.jpg")
        assert not downloads.is_url(f"{url}/b.jpg")
        assert not downloads.is_url("ftp://127.0.0.1/a.jpg")
        assert downloads.url_getsize(f"{url}/a.jpg") == 1234
        with pytest.raises(InputError, match="404"):
            downloads.url_getsize(f"{url}/b.jpg")


@pytest.mark.usefixtures("allow_private_urls")
def test_size_that_the_server_does_not_say() -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()

    with serve_responses({"/a": respond}) as url:
        assert downloads.url_getsize(f"{url}/a") == -1


def test_private_addresses_are_refused() -> None:
    assert not downloads.is_url("http://127.0.0.1:9/a.jpg")
    with pytest.raises(InputError, match="not a public address"):
        downloads.url_getsize("http://127.0.0.1:9/a.jpg")


@pytest.mark.usefixtures("allow_private_urls")
def test_gsutil_getsize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_folder(tmp_path / "served") as (folder, url):
        (folder / "bucket").mkdir()
        (folder / "bucket" / "a b.txt").write_bytes(bytes(77))
        monkeypatch.setattr(downloads, "STORAGE", f"{url}/")
        assert downloads.gsutil_getsize("gs://bucket/a b.txt") == 77
        assert downloads.gsutil_getsize("gs://bucket/missing.txt") == 0


@pytest.mark.usefixtures("allow_private_urls")
def test_safe_download(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "out" / "a.bin"
    with serve_folder(tmp_path / "served") as (folder, url):
        (folder / "small.bin").write_bytes(bytes(10))
        (folder / "large.bin").write_bytes(bytes(1000))
        downloads.safe_download(file, f"{url}/missing.bin", f"{url}/large.bin", min_bytes=100)
        assert file.stat().st_size == 1000
        assert "404" in caplog.text
        caplog.clear()
        downloads.safe_download(file, f"{url}/small.bin", min_bytes=100, error_msg="copy it yourself")
        assert not file.exists()
        assert caplog.messages == [
            f"ERROR {file}: 10 bytes, expected more than 100",
            f"ERROR {file}: copy it yourself",
        ]
        downloads.safe_download(file, f"{url}/small.bin")
        assert file.stat().st_size == 10


@pytest.mark.parametrize("name", ["", "runs/exp/best.pt", "yolov5s.onnx", "own.pt", "weights/own.pt"])
def test_attempt_download_leaves_other_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the network."""
    for function in ("download_file", "find_weights"):
        monkeypatch.setattr(downloads, function, None)
    assert downloads.attempt_download(name) == name


def test_attempt_download_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("yolov5s.pt").touch()
    assert downloads.attempt_download(Path("yolov5s.pt")) == "yolov5s.pt"
    assert downloads.attempt_download(" 'yolov5s.pt'\n") == "yolov5s.pt"
    assert google_utils.attempt_download(str(tmp_path / "yolov5s.pt")) == str(tmp_path / "yolov5s.pt")


def test_attempt_download_of_official_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def download_weights(path: Path, **options: Any) -> Path:
        calls.append((path, options))
        return path

    monkeypatch.setattr(networks, "download_weights", download_weights)
    assert downloads.attempt_download("sub/yolov5n6.pt") == str(Path("sub/yolov5n6.pt"))
    assert calls[0][0] == Path("sub/yolov5n6.pt")
    assert calls[0][1]["check"] is networks.load_checkpoint  # an error page is not kept


@pytest.mark.usefixtures("allow_private_urls")
def test_attempt_download_of_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with serve_folder(tmp_path / "served") as (folder, url):
        (folder / "my net.pt").write_bytes(bytes(10))
        assert downloads.attempt_download(f"{url}/my%20net.pt?key=1") == "my net.pt"
        (folder / "my net.pt").unlink()
        assert downloads.attempt_download(Path(f"{url}/my%20net.pt")) == "my net.pt"  # a Path has one slash only
        with pytest.raises(InputError, match="404"):
            downloads.attempt_download(f"{url}/other.pt")


def test_attempt_download_of_another_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []

    def download_file(url: str, target: Path, **_: Any) -> Path:
        calls.append((url, target))
        return target

    monkeypatch.setattr(downloads, "download_file", download_file)
    monkeypatch.chdir(tmp_path)
    assert downloads.attempt_download("w/net.pt", repo="owner/name", release="v1") == "w/net.pt"
    assert calls == [("https://github.com/owner/name/releases/download/v1/net.pt", Path("w/net.pt"))]


@pytest.mark.usefixtures("allow_private_urls")
def test_gdrive_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as archive:
        archive.writestr("set/a.txt", "1")
    content = (tmp_path / "source.zip").read_bytes()

    def respond(handler: BaseHTTPRequestHandler) -> None:
        assert handler.path == "/download?id=abc%2F1"
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    with serve_responses({"/download": respond}) as url:
        monkeypatch.setattr(downloads, "GDRIVE", f"{url}/download?id=")
        assert downloads.gdrive_download("abc/1", tmp_path / "a" / "x.bin") == 0
        assert (tmp_path / "a" / "x.bin").read_bytes() == content
        downloads.gdrive_download(id="abc/1", file=tmp_path / "b" / "tmp.zip")
    assert [p.name for p in (tmp_path / "b").rglob("*") if p.is_file()] == ["a.txt"]


def test_get_token(tmp_path: Path) -> None:
    cookies = tmp_path / "cookie"
    lines = ["# Netscape HTTP Cookie File", ".drive.google.com\tTRUE\t/\tFALSE\t0\tother\tno"]
    cookies.write_text("\n".join([*lines, ".drive.google.com\tTRUE\t/\tFALSE\t0\tdownload_warning_1\tAbCd\n"]))
    assert downloads.get_token(cookies) == google_utils.get_token(str(cookies)) == "AbCd"
    cookies.write_text("\n".join([*lines, ""]))
    assert downloads.get_token(cookies) == ""
    assert downloads.get_token(tmp_path / "missing") == ""
    cookies.write_text("no cookies\n")
    assert downloads.get_token(cookies) == ""
