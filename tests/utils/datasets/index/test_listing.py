"""Listing of images: links, patterns, lists, and what must not be opened."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import pytest

from utils.core.errors import InputError
from utils.core.limits import NO_LIMITS
from utils.datasets.index import listing
from utils.datasets.index.listing import iter_files, list_images


def make_files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not opened")


def names_in(root: Path, path: str = "") -> list[str]:
    return [os.path.relpath(image, root) for image in list_images(root / path, root)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_files(tmp_path / "set", "train/a.jpg", "train/sub/b.jpg", "val/c.jpg")
    return tmp_path / "set"


@pytest.mark.parametrize("target", [".", "..", "../..", "sub/..", "/"])
def test_a_link_to_a_folder_above_is_not_followed(root: Path, target: str) -> None:
    (root / "train/sub/loop").symlink_to(target)
    assert names_in(root, "train") == ["train/a.jpg", "train/sub/b.jpg"]
    assert names_in(root / "train/sub") == ["b.jpg"]


def test_no_folder_is_listed_twice(root: Path, tmp_path: Path) -> None:
    make_files(tmp_path / "elsewhere", "d.jpg", "deep/e.jpg")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "elsewhere")
    (root / "train/0").symlink_to("sub")  # listed as sub, although 0 comes first
    for name in ("x", "y"):
        (root / "train" / name).symlink_to(tmp_path / "elsewhere")
    (root / "train/nowhere").symlink_to("gone")
    (root / "train/self").symlink_to("self")
    (root / "train/again.jpg").symlink_to("a.jpg")  # a file
    assert names_in(root, "train") == [
        *("train/a.jpg", "train/again.jpg", "train/sub/b.jpg", "train/x/d.jpg", "train/x/deep/e.jpg")
    ]
    (tmp_path / "alias").symlink_to(root)
    assert names_in(tmp_path / "alias", "train/sub") == ["train/sub/b.jpg"]


PATTERNS = (
    *("*", "**", "*/*", "*/*.jpg", "**/*.jpg", "**/b.*", "*/**/b.jpg", "**/sub/**", "**/**/[a-b].jpg", "t*/**/*b*"),
    *("**/.*/*", "train/s?b", "[!t]*/*", "*.jpg", "nothing/*", "**/nothing"),
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_as_those_of_glob(root: Path, pattern: str) -> None:
    make_files(root, ".hidden/f.jpg", "train/.g.jpg", "train/sub/sub/b.jpg", "train/sub/.h/b.jpg", "b.jpg")
    matches = glob.glob(str(root / pattern), recursive=True)  # noqa: PTH207
    folders = [
        os.path.normpath(f"{top}/{name}") for match in matches for top, _, names in os.walk(match) for name in names
    ]
    assert sorted(iter_files(root / pattern)) == sorted({*filter(os.path.isfile, matches), *folders})


def test_patterns_end_in_spite_of_loops(root: Path) -> None:
    for name in ("l", "train/l", "val/l"):
        (root / name).symlink_to(root)
    assert names_in(root, "**/*.jpg") == ["train/a.jpg", "train/sub/b.jpg", "val/c.jpg"]
    assert len(names_in(root, "/".join("*" * 30))) < 20  # of 3**15 paths that match
    assert names_in(root, "l/*/l/*/a.jpg") == ["l/train/l/train/a.jpg"]


def test_the_number_of_entries_is_limited(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_ENTRIES", 3)
    assert len(names_in(root, "train")) == 2
    for path in ("", "**/*.txt"):
        with pytest.raises(InputError, match=f"^{root}: 4 files and folders, the limit is 3; use --no-limits"):
            names_in(root, path)
    monkeypatch.setenv(NO_LIMITS, "1")
    assert len(names_in(root)) == 3


@pytest.mark.parametrize("path", ["/", "/**", "/**/*.jpg", "/*", "/*/nothing"])
def test_the_whole_disk_is_not_listed(path: str) -> None:
    with pytest.raises(InputError, match=r"^/.*: this is the whole disk; give a folder, or a pattern that starts with"):
        list_images(Path(path), Path("/"))


def test_pipes_are_listed_unopened(root: Path) -> None:
    for name in ("train/pipe.jpg", "list.txt", "pipe.jpg"):
        os.mkfifo(root / name)
    assert names_in(root, "train") == ["train/a.jpg", "train/pipe.jpg", "train/sub/b.jpg"]
    assert names_in(root, "pipe.jpg") == ["pipe.jpg"]
    assert names_in(root, "list.txt") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.jpg\nb\0c.jpg\n", r":2: 'b\\x00c.jpg' is not a path; correct the list"),
        (b"a.jpg\n\n" + b"x" * 10**7, r":3: 'x{60}' is not a path"),
        (b"a.jpg\ncaf\xe9.jpg\n", ":2: byte 0xe9 is not UTF-8; save the file as UTF-8: neither an image nor a"),
        ("a\ud800.jpg".encode("utf-8", "surrogatepass"), ":1: byte 0x.* not UTF-8"),
        (b"\xff\xd8\xff\xe0 a photograph", ":1: byte 0x.* not UTF-8"),
    ],
)
def test_damaged_lists(root: Path, content: bytes, message: str) -> None:
    (root / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match=f"^{root}/list.txt{message}"):
        names_in(root, "list.txt")


def test_lists_are_not_followed(root: Path) -> None:
    (root / "list.txt").write_text(f"list.txt\n{'x' * 300}.jpg\n")  # longer than a file name can be
    assert names_in(root, "list.txt") == ["list.txt", f"{'x' * 300}.jpg"]
