"""Unpacking of archives, and archives that would write outside their folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from utils.core.errors import InputError
from utils.datasets.prepare.archives import unpack_archive

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


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
    unpack_archive(archive, into)
    assert names_in(into) == ["README", "set"]
    assert (into / "set" / "images" / "ä.jpg").read_bytes() == b"image"
    assert (into / "set" / "labels" / "a.txt").read_bytes() == b""


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt", "a\\..\\..\\out.txt", "C:\\out.txt"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_paths_out_of_the_folder_refuse_the_archive(tmp_path: Path, name: str, make: type) -> None:
    archive = make(tmp_path / "a.archive", {"good.txt": b"x", name: b"x"})
    with pytest.raises(InputError, match=r"rejected, nothing was unpacked: .* is outside the folder"):
        unpack_archive(archive, tmp_path / "data")
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
            unpack_archive(archive, tmp_path / "data")
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
            unpack_archive(tmp_path / name, tmp_path / "data")


@pytest.mark.parametrize(("method", "start"), [(zipfile.ZIP_DEFLATED, 35), (zipfile.ZIP_LZMA, 99)])
def test_damage_of_packed_bytes_is_named(tmp_path: Path, method: int, start: int) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a.bin", hashlib.sha256(b"").hexdigest() * 99 + "".join(map(str, range(9999))))
    content = file.read_bytes()
    file.write_bytes(content[:start] + b"\xff" * 200 + content[start + 200 :])
    with pytest.raises(InputError, match=r"a\.zip: cannot be unpacked"):
        unpack_archive(file, tmp_path / "data")


def test_damage_that_only_the_checksum_of_gzip_tells(tmp_path: Path) -> None:
    plain = make_tar(tmp_path / "a.tar", {"a.bin": CONTENT}, mode="w").read_bytes()
    packed = bytearray(gzip.compress(plain, compresslevel=0))
    packed[2000] ^= 1
    (tmp_path / "a.tgz").write_bytes(packed)
    with pytest.raises(InputError, match=r"a\.tgz: cannot be unpacked \(CRC"):
        unpack_archive(tmp_path / "a.tgz", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_archive_larger_than_the_free_space_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("utils.datasets.prepare.archives.shutil.disk_usage", lambda _: Usage)
    archive = make_zip(tmp_path / "a.zip", {"a.bin": CONTENT})
    with pytest.raises(InputError, match=r"needs 0\.0 GB in .*, but 0\.0 GB are free"):
        unpack_archive(archive, tmp_path / "data")
