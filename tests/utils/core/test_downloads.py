"""Downloads from a server on loopback, and archives that would write outside their folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import stat
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from utils.core.downloads import WEIGHTS_MIN_BYTES, fetch, fetch_weights, unpack
from utils.core.errors import InputError

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes


class Server(ThreadingHTTPServer):
    """Serves `files` with ETag and ranges; `cuts` and `statuses` are used up by the first requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
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
        if start >= len(content) > 0:
            self.send_error(416)
            return
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


def test_a_file_above_the_limit_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    with pytest.raises(InputError, match=r"/a\.bin: larger than 1 MB; download it another way"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", max_bytes=1_000_000, progress=False)
    with pytest.raises(InputError, match=r"/a\.bin: not here within the time allowed"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", max_seconds=0, progress=False)
    assert not list(tmp_path.iterdir())
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", max_bytes=len(CONTENT), progress=False).is_file()


def test_file_arrives_whole_and_alone(server: Server, tmp_path: Path) -> None:
    server.files["/a.zip"] = CONTENT
    digest = hashlib.sha256(CONTENT).hexdigest()
    dest = fetch(f"{server.url}/a.zip", tmp_path / "new" / "a.zip", sha256=digest.upper(), progress=False)
    assert dest.read_bytes() == CONTENT
    assert names_in(dest.parent) == ["a.zip"]
    assert server.requests == [("/a.zip", None)]


def test_progress_is_shown_on_a_terminal_only(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a.bin"] = CONTENT
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch(f"{server.url}/a.bin", tmp_path / "b.bin")
    shown = capsys.readouterr().err
    assert "b.bin: 100%" in shown
    assert "1.02M/1.02M" in shown


def test_broken_transfer_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    server.cuts = [300_000, 200_000]
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", progress=False, pause_s=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.requests == [("/a.bin", None), ("/a.bin", "bytes=300000-"), ("/a.bin", "bytes=500000-")]


def test_later_call_continues_only_the_same_version(server: Server, tmp_path: Path) -> None:
    url, dest = f"{server.url}/a.bin", tmp_path / "a.bin"
    for tag, resume, asked in (
        ('"one"', True, "bytes=300000-"),
        ('"two"', True, "bytes=300000-"),
        ('"one"', False, None),
    ):
        server.files["/a.bin"], server.tags["/a.bin"] = b"x" * len(CONTENT), '"one"'
        server.cuts = [300_000]
        with pytest.raises(InputError, match=r"broke off after 300000 of 1024000 bytes, 1 times; try later"):
            fetch(url, dest, progress=False, tries=1)
        assert names_in(tmp_path) == ["a.bin.part", "a.bin.part.tag"]
        server.tags["/a.bin"] = tag
        if tag != '"one"':
            server.files["/a.bin"] = CONTENT
        fetch(url, dest, progress=False, resume=resume)
        assert dest.read_bytes() == server.files["/a.bin"]
        assert server.requests[-1] == ("/a.bin", asked)
        dest.unlink()


def test_part_of_another_address_is_not_continued(server: Server, tmp_path: Path) -> None:
    server.files |= {"/a.bin": b"x" * 500, "/b.bin": b"y" * 500}
    server.cuts = [100]
    with pytest.raises(InputError):
        fetch(f"{server.url}/a.bin", tmp_path / "c.bin", progress=False, tries=1)
    fetch(f"{server.url}/b.bin", tmp_path / "c.bin", progress=False)
    assert (tmp_path / "c.bin").read_bytes() == b"y" * 500


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"], server.ranges, server.cuts = CONTENT, False, [300_000]
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", progress=False, pause_s=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_complete_part_that_never_got_its_name(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    (tmp_path / "a.bin.part.tag").write_text(f'{server.url}/a.bin\n"one"\n')
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", progress=False, pause_s=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert names_in(tmp_path) == ["a.bin"]


def test_busy_server_is_asked_again_and_a_refusal_is_final(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"], server.statuses = CONTENT, [503, 429]
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", progress=False, pause_s=0)
    assert len(server.requests) == 3
    with pytest.raises(InputError, match=r"/none\.bin: the server answered 404 Not Found; check the address"):
        fetch(f"{server.url}/none.bin", tmp_path / "none.bin", progress=False)
    assert len(server.requests) == 4
    server.statuses = [503] * 3
    with pytest.raises(InputError, match=r"the server answered 503 .*, 3 times; try later or put the file at"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", progress=False, pause_s=0, tries=3)


def test_wrong_digest_keeps_nothing(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = b"other"
    with pytest.raises(InputError, match=r"SHA-256 is d9298a10d1b0.*, expected 00; the download was removed"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", sha256="00", progress=False)
    assert names_in(tmp_path) == []


def test_empty_file(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = b""
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == b""


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    for url in (f"file://{tmp_path}/secret", "ftp://127.0.0.1/a", "a.zip"):
        with pytest.raises(InputError, match=r"only http and https addresses"):
            fetch(url, tmp_path / "copy")
    assert names_in(tmp_path) == ["secret"]


# -- official weights -------------------------------------------------------------------------------------------------


def test_weights_come_from_7_0_else_from_the_newest_release(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = b"w" * WEIGHTS_MIN_BYTES
    server.files["/download/v7.0/yolov5n.pt"] = weights
    server.files["/latest/download/yolov5s6.pt"] = weights
    seen: list[str] = []
    with caplog.at_level(logging.INFO, logger="openyolov5"):
        for name in ("yolov5n.pt", "yolov5s6.pt"):
            target = tmp_path / name
            found = fetch_weights(target, check=lambda p: seen.append(p.name), releases=server.url, progress=False)
            assert found == target
            assert target.read_bytes() == weights
    assert seen == [".yolov5n.pt.incoming", ".yolov5s6.pt.incoming"]  # checked before the file has its name
    assert names_in(tmp_path) == ["yolov5n.pt", "yolov5s6.pt"]
    assert [path for path, _ in server.requests] == [
        "/download/v7.0/yolov5n.pt",
        "/download/v7.0/yolov5s6.pt",
        "/latest/download/yolov5s6.pt",
    ]
    assert "AGPL-3.0" in caplog.text


def test_small_or_refused_weights_leave_nothing(server: Server, tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        raise InputError(f"{path.name}: refused; get another")

    for place in ("download/v7.0", "latest/download"):
        server.files[f"/{place}/yolov5n.pt"] = b"<html>" * 100
        server.files[f"/{place}/yolov5s.pt"] = b"w" * WEIGHTS_MIN_BYTES
    with pytest.raises(InputError, match=r"not to be had \(the server sent 600 bytes, which is no checkpoint\); put"):
        fetch_weights(tmp_path / "yolov5n.pt", releases=server.url, progress=False)
    with pytest.raises(InputError, match=r"not to be had \(\.yolov5s\.pt\.incoming: refused\); put the file at /"):
        fetch_weights(tmp_path / "yolov5s.pt", check=refuse, releases=server.url, progress=False)
    assert names_in(tmp_path) == []


def test_without_network_the_message_says_where_to_put_the_file(server: Server, tmp_path: Path) -> None:
    nobody = server.url
    server.server_close()
    target = tmp_path / "yolov5n.pt"
    with pytest.raises(InputError) as caught:
        fetch_weights(target, releases=nobody, progress=False)
    assert str(caught.value).count("cannot be reached") == 1
    assert str(caught.value).endswith(f"put the file at {target}")
    assert "\n" not in str(caught.value)
    assert names_in(tmp_path) == []


def test_only_official_names_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"best\.pt: not an official checkpoint; there are yolov5n\.pt, "):
        fetch_weights(tmp_path / "best.pt")


# -- archives ---------------------------------------------------------------------------------------------------------


def make_zip(path: Path, members: dict[str, bytes], *, link: str | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if link is not None:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc")
    return path


def make_tar(
    path: Path, members: dict[str, bytes], *, mode: str = "w:gz", special: tarfile.TarInfo | None = None
) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if special is not None:
            archive.addfile(special)
    return path


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_archives_are_unpacked_below_the_folder(tmp_path: Path, kind: str) -> None:
    members = {"set/images/ä.jpg": b"image", "set/labels/a.txt": b"", "./README": b"read"}
    file = tmp_path / "set.archive"
    archive = make_zip(file, members) if kind == "zip" else make_tar(file, members, mode=kind)
    into = tmp_path / "data"
    (into / "set" / "labels").mkdir(parents=True)
    (into / "set" / "labels" / "a.txt").write_text("old")
    assert unpack(archive, into, progress=False) == [into / "README", into / "set"]
    assert (into / "set" / "images" / "ä.jpg").read_bytes() == b"image"
    assert (into / "set" / "labels" / "a.txt").read_bytes() == b""


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt", "a\\..\\..\\out.txt", "C:\\out.txt"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_paths_out_of_the_folder_refuse_the_archive(tmp_path: Path, name: str, make: type) -> None:
    archive = make(tmp_path / "a.archive", {"good.txt": b"x", name: b"x"})
    with pytest.raises(InputError, match=r"refused, nothing was unpacked: .* points outside its folder"):
        unpack(archive, tmp_path / "data", progress=False)
    assert names_in(tmp_path) == ["a.archive"]


def special_member(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("special")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def test_links_and_devices_refuse_the_archive(tmp_path: Path) -> None:
    cases = [make_zip(tmp_path / "a.zip", {"a": b"x"}, link="special")]
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)):
        cases.append(make_tar(tmp_path / f"{number}.tar", {"a": b"x"}, mode="w", special=special_member(kind)))
    for archive in cases:
        with pytest.raises(InputError, match=r"nothing was unpacked: 'special' is a link or a device"):
            unpack(archive, tmp_path / "data", progress=False)
    assert not (tmp_path / "data").exists()


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    whole = make_zip(tmp_path / "a.zip", {"a.bin": CONTENT}).read_bytes()
    packed = make_tar(tmp_path / "a.tgz", {"a.bin": CONTENT * 3}).read_bytes()
    cases = {
        "flipped.zip": (whole[:5000] + b"#" + whole[5001:], "cannot be unpacked"),
        "cut.tgz": (packed[: len(packed) // 2], "cannot be unpacked"),
        "page.zip": (b"<html>", "not a zip or tar archive"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: {message}.*; download it again|{name}: {message}; download"):
            unpack(tmp_path / name, tmp_path / "data", progress=False)


@pytest.mark.parametrize(("method", "start"), [(zipfile.ZIP_DEFLATED, 35), (zipfile.ZIP_LZMA, 99)])
def test_damage_of_packed_bytes_is_named(tmp_path: Path, method: int, start: int) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a.bin", hashlib.sha256(b"").hexdigest() * 99 + "".join(map(str, range(9999))))
    content = file.read_bytes()
    file.write_bytes(content[:start] + b"\xff" * 200 + content[start + 200 :])
    with pytest.raises(InputError, match=r"a\.zip: cannot be unpacked"):
        unpack(file, tmp_path / "data", progress=False)


def test_damage_that_only_the_checksum_of_gzip_tells(tmp_path: Path) -> None:
    plain = make_tar(tmp_path / "a.tar", {"a.bin": CONTENT}, mode="w").read_bytes()
    packed = bytearray(gzip.compress(plain, compresslevel=0))
    packed[2000] ^= 1
    (tmp_path / "a.tgz").write_bytes(packed)
    with pytest.raises(InputError, match=r"a\.tgz: cannot be unpacked \(CRC"):
        unpack(tmp_path / "a.tgz", tmp_path / "data", progress=False)
    assert not (tmp_path / "data").exists()


def test_archive_larger_than_the_free_space_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("utils.core.downloads.shutil.disk_usage", lambda _: Usage)
    archive = make_zip(tmp_path / "a.zip", {"a.bin": CONTENT})
    with pytest.raises(InputError, match=r"needs 0\.0 GB in .*, where 0\.0 GB are free"):
        unpack(archive, tmp_path / "data", progress=False)
