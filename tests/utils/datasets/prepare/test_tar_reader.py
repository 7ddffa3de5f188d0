"""Tar archives, also with damaged and hostile headers."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from loopback import tar_entry

from utils.core.errors import InputError
from utils.datasets.prepare.tar_reader import TarReader, parse_records

END = bytes(1024)
LONG = "n" * 150 + "/ä.jpg"


def read_all(data: bytes, *, known_length: bool = True, max_bytes: float = 1e9) -> list[tuple[str, str, bytes]]:
    reader = TarReader(Path("a.tar"), io.BytesIO(data), length=len(data) if known_length else None, max_bytes=max_bytes)
    return [(member.name, member.kind, b"".join(member.read_chunks())) for member in reader]


def record(key: bytes, value: bytes) -> bytes:
    """A record of an extended header of up to 99 bytes."""
    return b"%d %s=%s\n" % (len(key) + len(value) + 5, key, value)


@pytest.mark.parametrize("known_length", [True, False])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_all_forms(form: int, known_length: bool) -> None:
    memory = io.BytesIO()
    names = ["a.txt", "ä.txt" if form == tarfile.USTAR_FORMAT else LONG, "b" * 90 + "/" + "c" * 90, "empty"]
    with tarfile.open(fileobj=memory, mode="w", format=form) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = 700 * (3 - number)
            archive.addfile(member, io.BytesIO(b"%d" % number * member.size))
    expected = [("folder/", "folder", b"")]
    expected += [(name, "file", b"%d" % number * (700 * (3 - number))) for number, name in enumerate(names)]
    assert read_all(memory.getvalue(), known_length=known_length) == expected


def test_members_that_are_not_read_are_skipped() -> None:
    data = tar_entry(b"a", b"x" * 3000) + tar_entry(b"b", b"y") + END
    for length in (len(data), None):
        reader = TarReader(Path("a.tar"), io.BytesIO(data), length=length, max_bytes=1e9)
        assert [member.name for member in reader] == ["a", "b"]


@pytest.mark.parametrize("known_length", [True, False])
def test_a_short_archive_whose_members_are_skipped(known_length: bool) -> None:
    data = tar_entry(b"a", b"x" * 3000)[:2000]
    reader = TarReader(Path("a.tar"), io.BytesIO(data), length=2000 if known_length else None, max_bytes=1e9)
    with pytest.raises(EOFError):
        list(reader)


def test_sizes_beyond_eight_gigabytes_are_binary() -> None:
    members = iter(
        TarReader(Path("a.tar"), io.BytesIO(tar_entry(b"a", size=9 << 30)), length=None, max_bytes=float("inf"))
    )
    assert next(members).size == 9 << 30


def test_kinds_of_members() -> None:
    entries = [tar_entry(b"l", kind=b"2"), tar_entry(b"h", kind=b"1"), tar_entry(b"p", kind=b"6")]
    sparse = tar_entry(b"x", record(b"GNU.sparse.major", b"1"), kind=b"x") + tar_entry(b"s")
    old = tar_entry(b"old/", kind=b"\0")  # a folder in archives from before 1988
    kinds = [kind for _, kind, _ in read_all(b"".join([*entries, tar_entry(b"S", kind=b"S"), sparse, old]) + END)]
    assert kinds == ["other"] * 5 + ["folder"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (tar_entry(b"a") + b"\1" * 512, "damaged header at byte 512"),
        (tar_entry(b"a") + tar_entry(b"b")[:300], "declare more|ends within a header"),
        (tar_entry(b"a", b"x" * 9)[:515], "declare more|ends within a member"),
        (tar_entry(b"a", size=1 << 60), "declare more|ends within a member"),
        (tar_entry(b"a") + tar_entry(b"b", size=-1), "damaged header at byte 512"),
        (tar_entry(b"x", b"20 a=1\n", kind=b"x") + tar_entry(b"a"), "damaged extended header"),
        (tar_entry(b"x", b"0 a=1\n" * 9, kind=b"x") + tar_entry(b"a"), "damaged extended header"),
        (tar_entry(b"x", b"1" * 300_000, kind=b"x") + tar_entry(b"a"), "damaged extended header"),
        (tar_entry(b"x", record(b"size", b"-1536"), kind=b"x") + tar_entry(b"a"), "size '-1536' in an extended header"),
        (tar_entry(b"x", record(b"size", b"9" * 50), kind=b"x") + tar_entry(b"a"), "size '9+' in an extended header"),
    ],
)
@pytest.mark.parametrize("known_length", [True, False])
def test_damaged_archives(data: bytes, problem: str, known_length: bool) -> None:
    with pytest.raises((ValueError, EOFError), match=problem):
        read_all(data, known_length=known_length, max_bytes=float("inf"))


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
def test_a_long_header_is_refused_before_it_is_read(kind: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tar_entry(b"name", b"\0" * (2 << 20), kind=kind) + tar_entry(b"a") + END
    with pytest.raises(InputError, match=r"a\.tar: 2,097,152 bytes in the header of a member, the limit is 1,048,576"):
        read_all(data)
    monkeypatch.setenv("YOLOv5_NO_LIMITS", "1")
    if kind in b"LKg":
        assert [name for name, _, _ in read_all(data)] == ["a"]


def test_a_chain_of_headers_is_read_without_recursion() -> None:
    assert read_all(tar_entry(b"x", kind=b"x") * 5000 + tar_entry(b"a", b"1") + END) == [("a", "file", b"1")]


def test_bytes_after_the_end_count() -> None:
    data = tar_entry(b"a") + bytes(100_000)
    assert len(read_all(data, known_length=False, max_bytes=len(data))) == 1
    with pytest.raises(InputError, match="100,000 bytes unpacked, the limit is 99,999"):
        read_all(data, known_length=False, max_bytes=99_999)


def test_records() -> None:
    assert parse_records(b"12 path=a=b\n13 mtime=1.5\n") == {"path": "a=b", "mtime": "1.5"}
    assert parse_records(b"") == {}
    assert parse_records("10 p=\udcff\udcfeab\n".encode("utf-8", "surrogateescape")) == {"p": "\udcff\udcfeab"}
