"""Archives and data YAMLs from URLs: names, folders, repeated and failed downloads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from loopback import IMAGE, make_spec, put, write_zip, zip_bytes

from utils.core.errors import InputError
from utils.datasets.prepare.archives import (
    download_archive,
    download_data,
    download_dataset,
    get_file_name,
    unpack_data_yaml,
)


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/a/set.zip?x=/y.zip#/z.zip", "set.zip"),
        ("http://host/a%2f..%2f..%2fset.zip", "set.zip"),
        ("http://host/a%5c..%5cset.zip", "set.zip"),
        ("http://host/ä %C3%BC.zip", "ä ü.zip"),
        ("http://host/set/", "set"),
    ],
)
def test_file_names_of_urls(url: str, name: str) -> None:
    assert get_file_name(url) == name


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://host/", "its file name '' is empty or consists of dots"),
        ("http://host/..", r"its file name '\.\.' is empty or consists of dots"),
        ("http://host/a/%2e%2e%2e", r"its file name '\.\.\.' is empty or consists of dots"),
        ("http://host/%00.zip", "has control characters"),
        ("http://host/a%0a.zip", "has control characters"),
        ("http://host/" + "n" * 252 + ".zip", "is longer than 255 bytes"),
        ("http://host/" + "%C3%A4" * 126 + ".zip", "is longer than 255 bytes"),
        ("http://host/a\0b.zip", "not a valid URL"),
        ("http://host/\udcff.zip", "not a valid URL"),
        ("http://[::1/set.zip", r"not a valid URL \(Invalid IPv6 URL\)"),
        ("http:///set.zip", r"not a valid URL \(no host given\)"),
        ("http://host:99999/set.zip", r"not a valid URL \(Port out of range"),
        ("http://me:secret@host/set.zip", "user names in URLs are not supported"),
        ("ftp://host/set.zip", "not an http or https URL"),
    ],
)
def test_urls_without_a_file_name(url: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path / "sets"))
    for download in (get_file_name, download_data, lambda url: download_archive(url, tmp_path / "sets")):
        with pytest.raises(InputError, match=problem) as caught:
            download(url)
        assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    with pytest.raises(InputError, match=f"{problem}|not an archive"):
        download_dataset(url, tmp_path / "sets")
    assert not names_in(tmp_path)


def test_loopback_needs_the_variable(served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, address = served
    put(folder / "set.yaml", b"names: [a]\n")
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path / "sets"))
    monkeypatch.delenv("YOLOv5_ALLOW_PRIVATE_URLS")
    with pytest.raises(InputError, match=r"not a public address; set YOLOv5_ALLOW_PRIVATE_URLS=1 to allow it"):
        download_data(f"{address}/set.yaml")
    monkeypatch.setenv("YOLOv5_ALLOW_PRIVATE_URLS", "1")
    assert download_data(f"{address}/set.yaml").read_bytes() == b"names: [a]\n"


def test_a_large_yaml_is_refused(served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path / "sets"))
    monkeypatch.setattr("utils.datasets.prepare.archives.YAML_MAX_BYTES", 1e6)
    put(served[0] / "set.yaml", bytes(1_000_001))
    with pytest.raises(InputError, match=r"set\.yaml: larger than 1 MB"):
        download_data(f"{served[1]}/set.yaml")


@pytest.mark.parametrize("name", [".zip", "..zip", "...zip", ".tar.gz"])
def test_archives_whose_name_is_a_suffix(tmp_path: Path, name: str) -> None:
    """Their folder would be the one that they are in, or the one above."""
    archive = write_zip(tmp_path / "folder" / name, {"set.yaml": b"names: [a]\n"})
    with pytest.raises(InputError, match=r"its name before \.(zip|tar\.gz) is empty or consists of dots; rename it"):
        unpack_data_yaml(archive)
    assert names_in(tmp_path / "folder") == [name]


def test_a_damaged_archive_is_downloaded_again(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    content = zip_bytes({"images/a.jpg": b"image", "images/b.jpg": b"x" * 999})
    put(folder / "set.zip", content.replace(b"x" * 10, b"x" * 9 + b"y", 1))
    with pytest.raises(InputError, match="Bad CRC"):
        download_archive(f"{address}/set.zip", tmp_path / "set")
    assert names_in(tmp_path / "set") == [".fetched"]
    put(folder / "set.zip", content)
    download_archive(f"{address}/set.zip", tmp_path / "set")
    assert names_in(tmp_path / "set" / "images") == ["a.jpg", "b.jpg"]
    assert names_in(tmp_path / "set" / ".fetched") == ["set.zip.done"]


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_downloaded_set_does_not_follow_links(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    write_zip(folder / "set.zip", {"set/images/a.jpg": b"image", "set/labels/a.txt": b"new", "set/labels/b.txt": b""})
    outside, root = tmp_path / "outside", tmp_path / "sets" / "set"
    outside.mkdir()
    put(root / "labels" / "a.txt", b"own")
    (root / "images").symlink_to(outside)
    with pytest.raises(InputError, match=r"set/images: a link or a file, but a folder in the archive; remove it"):
        download_dataset(f"{address}/set.zip", root)
    assert not names_in(outside)
    assert names_in(root / "labels") == ["a.txt"]
    (root / "images").unlink()
    download_dataset(f"{address}/set.zip", root)
    assert names_in(root) == ["images", "labels"]
    assert (root / "labels" / "a.txt").read_bytes() == b"own"  # files that exist are kept


def test_an_interrupted_move_is_repeated(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set whose folders exist, but not all of their files."""
    folder, address = served
    write_zip(folder / "set.zip", {f"images/{number}.jpg": IMAGE for number in range(3)})
    text = f"path: set\ntrain: images\nval: images\nnames: [a]\ndownload: {address}/set.zip\n"
    replace = Path.replace

    def move(source: Path, target: Path) -> Path:
        if source.suffix == ".jpg" and list((tmp_path / "set" / "images").iterdir()):
            raise KeyboardInterrupt
        return replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", move)
        make_spec(tmp_path, text)
    assert len(list((tmp_path / "set" / "images").iterdir())) == 1
    make_spec(tmp_path, text)
    assert names_in(tmp_path / "set" / "images") == ["0.jpg", "1.jpg", "2.jpg"]
    assert names_in(tmp_path / "set") == ["images"]
