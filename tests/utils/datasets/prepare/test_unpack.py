"""Unpacking of archives, and archives that would write outside their folder."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import tar_entry

from utils.core.errors import InputError
from utils.datasets.prepare import unpack
from utils.datasets.prepare.tar_reader import Member
from utils.datasets.prepare.unpack import FolderWriter, find_name_problem, unpack_archive

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
END = bytes(1024)  # of a tar archive


@pytest.fixture(params=[True, False], ids=["dir_fd", "paths"])
def each_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with descriptors of folders, and with paths as on Windows."""
    if request.param and not unpack.HAS_DIR_FD:
        pytest.skip("this system has no dir_fd")
    monkeypatch.setattr(unpack, "HAS_DIR_FD", request.param)


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
@pytest.mark.usefixtures("each_system")
def test_archives_are_unpacked_below_the_folder(tmp_path: Path, kind: str) -> None:
    members = {"set/images/ä.jpg": b"image", "set/labels/a.txt": b"", "./README": b"read"}
    file = tmp_path / "set.archive"
    archive = make_zip(file, members) if kind == "zip" else make_tar(file, members, mode=kind)
    into = tmp_path / "data"
    (into / "set" / "labels").mkdir(parents=True)
    (into / "set" / "labels" / "a.txt").write_text("old")
    unpack_archive(archive, into)
    unpack_archive(archive, into)  # again: the same
    assert names_in(into) == ["README", "set"]
    assert (into / "set" / "images" / "ä.jpg").read_bytes() == b"image"
    assert (into / "set" / "labels" / "a.txt").read_bytes() == b""


@pytest.mark.parametrize(
    "name",
    ["../out.txt", "/tmp/out.txt", "a/../../out.txt", "a\\..\\..\\out.txt", "C:\\out.txt", "\\\\host\\out.txt", ".."],
)
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
        with pytest.raises(InputError, match=r"nothing was unpacked: 'special' is a link, a device or a sparse file"):
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


def test_damage_of_packed_bytes_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.bin", hashlib.sha256(b"").hexdigest() * 99 + "".join(map(str, range(9999))))
    content = file.read_bytes()
    file.write_bytes(content[:35] + b"\xff" * 200 + content[235:])
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

    monkeypatch.setattr("utils.datasets.prepare.unpack.shutil.disk_usage", lambda _: Usage)
    archive = make_zip(tmp_path / "a.zip", {"a.bin": CONTENT})
    with pytest.raises(InputError, match=r"needs 0\.0 GB in .*, but 0\.0 GB are free"):
        unpack_archive(archive, tmp_path / "data")


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="needs links")
@pytest.mark.parametrize("name", ["...", "./...", ".", "link"])
@pytest.mark.parametrize("kind", [b"1", b"2"], ids=["hard link", "link"])
def test_members_below_or_through_a_link(tmp_path: Path, name: str, kind: bytes) -> None:
    """Names of dots were not checked."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    link = outside if kind == b"2" else outside / "kept"
    below = name if kind == b"1" else f"{name}/new"
    entries = tar_entry(name.encode(), kind=kind, link=bytes(link)) + tar_entry(below.encode(), b"changed")
    (tmp_path / "a.tar").write_bytes(tar_entry(b"good", b"x") + entries + END)
    with pytest.raises(InputError, match="is a link, a device or a sparse file"):
        unpack_archive(tmp_path / "a.tar", tmp_path / "data")
    assert names_in(tmp_path) == ["a.tar", "outside"]
    assert names_in(outside) == ["kept"]
    assert (outside / "kept").read_text() == "kept"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (b"...", "consists of dots"),
        (b"a/ . /b", "consists of dots"),
        (b".", "is the folder itself"),
        (b"", "is the folder itself"),
        (b"a\nb", "has control characters"),
        (b"a/\x1b[2J", "has control characters"),
        (b"././@LongLink", "is longer than 255 bytes"),
        (b"long path", "is longer than 1024 bytes"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, name: bytes, problem: str) -> None:
    long_names = {b"././@LongLink": b"n" * 256, b"long path": b"n/" * 512 + b"n"}
    long_name = tar_entry(b"././@LongLink", long_names[name], kind=b"L") if name in long_names else b""
    (tmp_path / "a.tar").write_bytes(tar_entry(b"good") + long_name + tar_entry(name, b"x") + END)
    with pytest.raises(InputError, match=problem) as caught:
        unpack_archive(tmp_path / "a.tar", tmp_path / "data")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900
    assert names_in(tmp_path) == ["a.tar"]


def test_names_that_are_accepted(tmp_path: Path) -> None:
    names = ["./a/./b//c", "12:30:00/..x..", "back\\slash", ".hidden", "n" * 255, "a b/ c"]
    make_tar(tmp_path / "a.tar", dict.fromkeys(names, b"x"))
    unpack_archive(tmp_path / "a.tar", tmp_path / "data")
    files = sorted(p.relative_to(tmp_path / "data").as_posix() for p in (tmp_path / "data").rglob("*") if p.is_file())
    assert files == sorted(["a/b/c", "12:30:00/..x..", "back/slash", ".hidden", "n" * 255, "a b/ c"])


def test_nul_in_a_name_of_a_zip_archive(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a#b": b"x"})
    archive.write_bytes(archive.read_bytes().replace(b"a#b", b"a\0b"))
    with pytest.raises(InputError, match="has control characters"):
        unpack_archive(archive, tmp_path / "data")


def test_names_that_windows_reserves() -> None:
    for name in ("con", "Aux.txt", "COM1.jpg", "a:b", "a.", "a ", "a?"):
        assert find_name_problem(name, on_windows=True) == "is no valid name on Windows"
        assert find_name_problem(name, on_windows=False) is None
    for name in ("console.txt", "a.con", ".git", "ä b"):
        assert find_name_problem(name, on_windows=True) is None


@pytest.mark.parametrize("names", [["a", "a/b"], ["a/b", "a"], ["a/b/c", "a/b"]])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_name_of_a_file_and_a_folder(tmp_path: Path, names: list[str], make: type) -> None:
    archive = make(tmp_path / "a.archive", {"first": b"x"} | dict.fromkeys(names, b"x"))
    with pytest.raises(InputError, match=r"nothing was unpacked: 'a(/b)?' is a file and a folder"):
        unpack_archive(archive, tmp_path / "data")
    assert names_in(tmp_path) == ["a.archive"]


# -- the folder -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="needs links")
@pytest.mark.usefixtures("each_system")
def test_links_in_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside, into = tmp_path / "outside", tmp_path / "data"
    outside.mkdir()
    (outside / "file").write_text("kept")
    archive = make_zip(tmp_path / "a.zip", {"first.txt": b"x", "images/train/a.jpg": b"new"})
    (into / "images").mkdir(parents=True)
    (into / "images" / "train").symlink_to(outside)
    with pytest.raises(InputError, match=r"data/images/train: a link or a file, but a folder in .*a\.zip; remove it"):
        unpack_archive(archive, into)
    assert names_in(into) == ["images"] and names_in(outside) == ["file"]
    (into / "images" / "train").unlink()
    (into / "images" / "train").mkdir()
    (into / "images" / "train" / "a.jpg").symlink_to(outside / "file")
    os.link(outside / "file", into / "first.txt")
    unpack_archive(archive, into)  # replaces links to files
    assert (into / "images" / "train" / "a.jpg").read_bytes() == b"new"
    assert (into / "first.txt").read_bytes() == b"x"
    assert (outside / "file").read_text() == "kept"
    (tmp_path / "link").symlink_to(into)
    unpack_archive(archive, tmp_path / "link")  # the folder itself may be one


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a.txt": b"x"})
    (tmp_path / "data" / "a.txt").mkdir(parents=True)
    with pytest.raises(InputError, match=r"data/a\.txt: a folder, but a file in .*a\.zip; remove it"):
        unpack_archive(archive, tmp_path / "data")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"a\.zip: cannot be unpacked into .*file \(File exists\); free space or use"):
        unpack_archive(archive, tmp_path / "file")


def one_chunk(content: bytes, size: int | None = None) -> Member:
    return Member("a", len(content) if size is None else size, "file", lambda: iter([content]))


@pytest.mark.skipif(os.name != "posix", reason="needs links")
@pytest.mark.usefixtures("each_system")
def test_a_folder_that_becomes_a_link_while_it_is_written(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(NotADirectoryError), FolderWriter(tmp_path / "data") as writer:
        writer.write_file(("set", "a"), one_chunk(b"1"))
        writer.make_folder(())
        (tmp_path / "data" / "set").rename(tmp_path / "moved")
        (tmp_path / "data" / "set").symlink_to(outside)
        writer.write_file(("set", "b"), one_chunk(b"2"))
    assert not names_in(outside)
    assert names_in(tmp_path / "moved") == ["a"]


@pytest.mark.usefixtures("each_system")
@pytest.mark.parametrize("is_new", [True, False])
def test_damage_of_the_last_member_leaves_nothing(tmp_path: Path, is_new: bool) -> None:
    archive = make_zip(tmp_path / "a.zip", {"set/images/a.jpg": b"x", "set/old": b"x", "set/b.jpg": CONTENT})
    archive.write_bytes(archive.read_bytes().replace(CONTENT[:300], CONTENT[:299] + b"?", 1))
    if not is_new:
        (tmp_path / "data" / "set" / "empty").mkdir(parents=True)
        (tmp_path / "data" / "kept").touch()
    with pytest.raises(InputError, match=r"a\.zip: cannot be unpacked \(Bad CRC"):
        unpack_archive(archive, tmp_path / "data")
    if is_new:
        assert names_in(tmp_path) == ["a.zip"]
    else:
        assert sorted(p.name for p in (tmp_path / "data").rglob("*")) == ["empty", "kept", "set"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_entry(b"a", b"x") + tar_entry(b"d", kind=b"5") + END)  # mode 04777
    unpack_archive(tmp_path / "a.tar", tmp_path / "data")
    assert (tmp_path / "data" / "a").stat().st_mode & 0o7111 == 0
    assert (tmp_path / "data" / "d").stat().st_mode & 0o7000 == 0


# -- bounds -----------------------------------------------------------------------------------------------------------


def packed_zeros(path: Path, start: bytes, size: int, mode: str) -> Path:
    with {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[mode](path, "wb") as file:
        file.write(start)
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return path


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
@pytest.mark.parametrize(
    ("start", "message"),
    [
        (tar_entry(b"a", b"x") + END, r"bytes unpacked, the limit is 1,0"),
        (tar_entry(b"a", size=16 << 20), r"16,777,728 bytes unpacked, the limit is 1,0"),
        (tar_entry(b"pax", size=4 << 30, kind=b"x"), r"4,294,967,296 bytes in the header of a member"),
        (tar_entry(b"././@LongLink", size=4 << 30, kind=b"L"), r"4,294,967,296 bytes in the header of a member"),
    ],
    ids=["end", "member", "pax", "name"],
)
def test_a_packed_tar_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, start: bytes, message: str
) -> None:
    monkeypatch.setattr(unpack, "FREE_BYTES", 1_000_000)
    monkeypatch.setattr(unpack, "MAX_RATIO", 1)
    archive = packed_zeros(tmp_path / "a.tar.gz", start, 16 << 20, mode)
    with pytest.raises(InputError, match=message):
        unpack_archive(archive, tmp_path / "data")
    assert names_in(tmp_path) == ["a.tar.gz"]


def test_limits_can_be_lifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "FREE_BYTES", 1000)
    monkeypatch.setattr(unpack, "MAX_RATIO", 1)
    archives = [make_tar(tmp_path / "a.tgz", {"a": bytes(99_000)}), tmp_path / "a.zip"]
    with zipfile.ZipFile(archives[1], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(99_000))
    for file in archives:
        with pytest.raises(InputError, match=r"bytes unpacked, the limit is 1,[0-9]{3}; use --no-limits if you trust"):
            unpack_archive(file, tmp_path / "data")
    monkeypatch.setenv("YOLOv5_NO_LIMITS", "1")
    for file in archives:
        unpack_archive(file, tmp_path / "data")
        assert (tmp_path / "data" / "a").stat().st_size == 99_000


def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:05}" for number in range(30_000)]
    archives = [make_zip(tmp_path / "a.zip", dict.fromkeys(names, b""))]
    archives.append(make_tar(tmp_path / "a.tar", dict.fromkeys(names, b"")))
    monkeypatch.setattr(unpack, "MAX_MEMBERS", 29_999)
    for archive in archives:
        with pytest.raises(InputError, match="30,000 files, the limit is 29,999"):
            unpack_archive(archive, tmp_path / "data")
    monkeypatch.setattr(unpack, "MAX_DIRECTORY", 1 << 20)
    with pytest.raises(InputError, match=r"bytes in the directory of a zip archive, the limit is 1,048,576"):
        unpack_archive(archives[0], tmp_path / "data")


def test_overlapping_members_of_a_zip_archive(tmp_path: Path) -> None:
    """Many members with the same packed bytes (a zip bomb)."""
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", hashlib.sha256(b"").digest() * 1000)
        archive.filelist *= 20
    with pytest.raises(InputError, match="cannot be unpacked \\(its members overlap\\)"):
        unpack_archive(file, tmp_path / "data")


@pytest.mark.parametrize("size", [10, 20_000])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_member_of_another_size_than_declared(tmp_path: Path, size: int, method: int) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("first", b"x")
        archive.writestr("a", hashlib.sha256(b"").digest() * 99)
        archive.filelist[1].file_size = size
    with pytest.raises(InputError, match=r"cannot be unpacked \(('a' does not have|Bad CRC)"):
        unpack_archive(file, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_no_member_writes_more_than_it_declares(tmp_path: Path) -> None:
    yielded: list[int] = []

    def repeat() -> Iterator[bytes]:
        for number in range(1000):
            yielded.append(number)
            yield bytes(100)

    with pytest.raises(ValueError, match="'a' does not have the 250 bytes"), FolderWriter(tmp_path / "data") as writer:
        writer.write_file(("a",), Member("a", 250, "file", repeat))
    assert yielded == [0, 1, 2]
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_zipfile_unpacks_without_bounds(tmp_path: Path, method: int) -> None:
    """A kilobyte of bzip2 holds a gigabyte of zeros, all of which zipfile unpacks at once."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a", b"x")
    with pytest.raises(InputError, match=rf"a\.zip: 'a' has compression method {method}; unpack it yourself"):
        unpack_archive(tmp_path / "a.zip", tmp_path / "data")


def test_encrypted_members(tmp_path: Path) -> None:
    content = bytearray(make_zip(tmp_path / "a.zip", {"a": b"x"}).read_bytes())
    content[content.rfind(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.zip: 'a' is encrypted; unpack it yourself"):
        unpack_archive(tmp_path / "a.zip", tmp_path / "data")


def test_a_tar_archive_that_ends_with_a_zip_archive(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"a": b"x"}).read_bytes()
    unpack_archive(make_tar(tmp_path / "a.tar", {"inner.zip": inner}, mode="w"), tmp_path / "data")
    assert (tmp_path / "data" / "inner.zip").read_bytes() == inner
