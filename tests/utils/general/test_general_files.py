from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from loopback import serve_folder

from utils import general
from utils.core.errors import InputError
from utils.general import files

ROOT = Path(__file__).resolve().parents[3]


# -- paths ------------------------------------------------------------------------------------------------------------


def test_constants() -> None:
    assert ROOT == general.ROOT
    assert general.FILE.parts[-3:] == ("utils", "general", "__init__.py")
    assert isinstance(general.DATASETS_DIR, Path)
    assert 1 <= general.NUM_THREADS <= 8
    assert general.RANK == -1


def test_get_latest_run(tmp_path: Path) -> None:
    assert general.get_latest_run(tmp_path) == ""
    for age, name in enumerate(("exp/weights/last.pt", "exp2/weights/last_v2.pt", "exp3/weights/best.pt")):
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (1e9 + age, 1e9 + age))
    assert general.get_latest_run(tmp_path) == str(tmp_path / "exp2/weights/last_v2.pt")


def test_user_config_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOV5_CONFIG_DIR", str(tmp_path / "chosen"))
    assert general.CONFIG_DIR == general.user_config_dir() == tmp_path / "chosen"
    assert (tmp_path / "chosen").is_dir()
    monkeypatch.delenv("YOLOV5_CONFIG_DIR")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for system, place in (("Linux", ".config"), ("Windows", "AppData/Roaming")):
        monkeypatch.setattr(platform, "system", lambda system=system: system)
        assert general.user_config_dir("Name") == tmp_path / place / "Name"
        assert (tmp_path / place / "Name").is_dir()


def test_ages_and_sizes(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(bytes(3 << 19))
    changed = time.mktime((2021, 3, 6, 12, 0, 0, 0, 0, -1))
    os.utime(file, (changed, changed))
    assert general.file_date(file) == general.date_modified(file) == "2021-3-6"
    assert general.file_age(file) == int((time.time() - changed) // 86400)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.bin").write_bytes(bytes(1 << 19))
    assert general.file_size(file) == 1.5
    assert general.file_size(tmp_path) == 2.0
    assert general.file_size(tmp_path / "missing") == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("rtsp://user:pw@host/1?x=2", "rtsp_//user_pw_host/1_x_2"), ("plain name_1.jpg", "plain name_1.jpg"), ("", "")],
)
def test_clean_str(text: str, expected: str) -> None:
    assert general.clean_str(text) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [("https://host/a/b%20c.txt?auth=x/y", "b c.txt"), ("https://host/file.zip", "file.zip"), ("file.pt", "file.pt")],
)
def test_url2file(url: str, expected: str) -> None:
    assert general.url2file(url) == expected


# -- content ----------------------------------------------------------------------------------------------------------


def test_yaml_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "opt.yaml"
    general.yaml_save(file, {"weights": Path("a/b.pt"), "imgsz": 640, "names": {0: "größe"}, "lr": 0.01})
    assert file.read_text(encoding="utf-8").splitlines() == [
        "weights: a/b.pt", "imgsz: 640", "names:", "  0: größe", "lr: 0.01",
    ]  # fmt: skip
    assert general.yaml_load(file) == {"weights": "a/b.pt", "imgsz": 640, "names": {0: "größe"}, "lr": 0.01}
    file.write_text("a: [1, 2")
    with pytest.raises(InputError, match=r"opt.yaml:1: not valid YAML"):
        general.yaml_load(file)


def test_images_with_any_name(tmp_path: Path) -> None:
    frame = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    file = tmp_path / "größe 猫.png"
    assert general.imwrite(file, frame)
    np.testing.assert_array_equal(general.imread(file), frame)
    assert general.imread(file, cv2.IMREAD_GRAYSCALE).shape == (4, 5)  # type: ignore[union-attr]
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert general.imread(tmp_path / "bad.png") is None
    assert not general.imwrite(tmp_path / "missing" / "a.png", frame)


def test_imshow(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(cv2, "imshow", lambda title, im: shown.append((title, im.shape)))
    general.imshow("größe", np.zeros((2, 3, 3), np.uint8))
    assert shown == [("gr\\xf6\\xdfe", (2, 3, 3))]


def write_zip(file: Path) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("set/a.txt", "1")
        archive.writestr("set/.DS_Store", "2")
        archive.writestr("__MACOSX/set/a.txt", "3")
    return file


def test_unzip_file(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "set.zip")
    general.unzip_file(archive)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["set.zip", "a.txt"]
    general.unzip_file(archive, tmp_path / "all", exclude=())
    assert sum(p.is_file() for p in (tmp_path / "all").rglob("*")) == 3
    with zipfile.ZipFile(tmp_path / "hostile.zip", "w") as hostile:
        hostile.writestr("../outside.txt", "x")
    with pytest.raises(InputError, match="outside the folder"):
        general.unzip_file(tmp_path / "hostile.zip")


@pytest.mark.usefixtures("allow_private_urls")
def test_download(tmp_path: Path) -> None:
    with serve_folder(tmp_path / "served") as (folder, url):
        write_zip(folder / "set.zip")
        (folder / "one.txt").write_text("one")
        general.download([f"{url}/one.txt", f"{url}/set.zip"], dir=tmp_path / "out", threads=2)
        assert (tmp_path / "out/one.txt").read_text() == "one"
        assert (tmp_path / "out/set/a.txt").read_text() == "1"
        assert not (tmp_path / "out/set.zip").exists()
        general.download(f"{url}/set.zip", dir=tmp_path / "kept", unzip=False)
        assert [p.name for p in (tmp_path / "kept").iterdir()] == ["set.zip"]
        with pytest.raises(InputError, match="404"):
            general.download(f"{url}/missing.txt", dir=tmp_path / "out")
    general.download(tmp_path / "kept/set.zip", dir=tmp_path / "local")  # a local archive is only unpacked
    assert (tmp_path / "local/set/a.txt").is_file()
    assert (tmp_path / "kept/set.zip").is_file()


def test_download_of_a_private_address(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a public address"):
        general.download("http://127.0.0.1:9/a.txt", dir=tmp_path)


# -- network and Git --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reachable", [True, False])
def test_check_online(reachable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        def close(self) -> None: ...

    def connect(address: tuple[str, int], timeout: float) -> Connection:
        assert address == ("1.1.1.1", 443)
        if not reachable:
            raise TimeoutError
        return Connection()

    monkeypatch.setattr(socket, "create_connection", connect)
    assert general.check_online() is reachable


def test_check_git_status_uses_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.setattr(socket, "create_connection", None)
    assert general.check_git_status() is None


def test_git(tmp_path: Path) -> None:
    empty = {"remote": None, "branch": None, "commit": None}
    assert general.check_git_info(tmp_path) == empty
    assert general.git_describe(tmp_path) == ""

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "--initial-branch=trunk")
    git("commit", "--allow-empty", "-m", "first")
    git("tag", "v1.0")
    git("remote", "add", "origin", "https://host/name.git")
    commit = git("rev-parse", "HEAD")
    assert general.check_git_info(tmp_path) == {
        "remote": "https://host/name.git", "branch": "trunk", "commit": commit,
    }  # fmt: skip
    assert general.git_describe(tmp_path) == f"v1.0-0-g{commit[:7]}"


def test_git_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert files._run_git(".", "status") == ""
