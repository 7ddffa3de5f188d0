"""Numbered folders, atomic writes and the search for files."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils.core.errors import InputError
from utils.core.files import (
    LEFTOVER_AGE_S,
    UniqueNames,
    atomic_write,
    expand_user,
    find_file,
    increment_path,
    make_run_folder,
    remove_temporary_files,
)

ROOT = Path(__file__).resolve().parents[3]


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_run_folders_are_numbered_from_two(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "exp"
    assert increment_path(folder) == folder
    for name in ("exp", "exp2", "exp4"):
        (folder.parent / name).mkdir(parents=True)
    assert increment_path(folder) == folder.with_name("exp3")
    assert increment_path(str(folder), exist_ok=True) == folder


def test_number_goes_before_a_files_suffix_but_after_a_folders_dots(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").touch()
    (tmp_path / "exp.v1").mkdir()
    assert increment_path(tmp_path / "cat.jpg").name == "cat2.jpg"
    assert increment_path(tmp_path / "exp.v1").name == "exp.v12"


def test_atomic_write_replaces_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "new" / "opt.yaml"
    for text in ("one", "two"):
        with atomic_write(target) as temporary:
            temporary.write_text(text)
            assert temporary.parent == target.parent
        assert target.read_text() == text
    assert names_in(target.parent) == ["opt.yaml"]


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "last.pt"
    target.write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_write(target) as temporary:
        temporary.write_text("ne")
        raise OSError("disk full")
    assert names_in(tmp_path) == ["last.pt"]
    assert target.read_text() == "old"


def test_a_block_without_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.txt"):
        pass
    assert not names_in(tmp_path)


def test_written_file_has_ordinary_permissions_and_links_survive(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    link.symlink_to(real)
    with atomic_write(link) as temporary:
        temporary.write_text("x")
    assert link.is_symlink()
    assert real.read_text() == "x"
    assert real.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(os.name != "posix", reason="kills with a POSIX signal")
def test_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "last.pt"
    target.write_text("old")
    code = (
        "import os, signal, sys\n"
        "from utils.core.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "old"


def test_errors_name_the_target(tmp_path: Path) -> None:
    target = tmp_path / "opt.yaml"
    target.mkdir()
    with pytest.raises(OSError, match=r"directory: '[^']*/opt\.yaml'$"), atomic_write(target) as temporary:
        temporary.touch()
    with pytest.raises(OSError, match=r"No space left on device: '[^']*/opt\.yaml'$"), atomic_write(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_temporary_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    for name in (".last.pt.0123456789ab.tmp", ".mine.tmp", "a.0123456789ab.tmp", ".b.xyz.tmp", "last.pt"):
        (tmp_path / name).touch()
    remove_temporary_files(tmp_path)
    assert names_in(tmp_path) == [".b.xyz.tmp", ".mine.tmp", "a.0123456789ab.tmp", "last.pt"]
    remove_temporary_files(tmp_path / "missing")


def test_leftovers_of_killed_writers_are_removed_when_old(tmp_path: Path) -> None:
    old, fresh, other = (tmp_path / n for n in (".a[1].pt.00.tmp", ".a[1].pt.01.tmp", ".b.pt.00.tmp"))
    for file in (old, fresh, other):
        file.touch()
    hours_ago = time.time() - LEFTOVER_AGE_S - 60
    for file in (old, other):
        os.utime(file, (hours_ago, hours_ago))
    with atomic_write(tmp_path / "a[1].pt") as temporary:
        temporary.touch()
    assert names_in(tmp_path) == [fresh.name, other.name, "a[1].pt"]


def test_file_is_found_as_given_then_in_order_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "hyp.yaml").touch()
    assert find_file("hyp.yaml", ["a", "b"]) == Path("a/hyp.yaml")
    assert find_file("b/hyp.yaml", ["a"]) == Path("b/hyp.yaml")
    with pytest.raises(InputError, match=r"hip\.yaml: no such file; near: hyp\.yaml"):
        find_file("hip.yaml", ["a"])
    with pytest.raises(InputError, match=r"q\.txt: no such file; searched .*, a$"):
        find_file("q.txt", ["a"])


def test_home_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_user("~/a.pt") == Path("/home/me/a.pt")
    assert expand_user("~nobody-of-this-name/a.pt") == Path("~nobody-of-this-name/a.pt")


# -- run folders ------------------------------------------------------------------------------------------------------


def test_run_folders_are_made_with_numbers(tmp_path: Path) -> None:
    assert [make_run_folder(tmp_path / "a/exp.v1").name for _ in range(3)] == ["exp.v1", "exp.v12", "exp.v13"]
    assert make_run_folder(tmp_path / "a/exp.v1", exist_ok=True).name == "exp.v1"
    (tmp_path / "a/link").symlink_to(tmp_path / "nowhere")
    assert make_run_folder(tmp_path / "a/link", sep="_").name == "link_2"
    assert not (tmp_path / "nowhere").exists()


def test_processes_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from utils.core.files import make_run_folder\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print([make_run_folder(sys.argv[1]).name for _ in range(20)])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "exp")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(4)]  # type: ignore[call-overload]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    names = [name for process in processes for name in json.loads(process.communicate()[0].replace("'", '"'))]
    assert sorted(names) == sorted(["exp", *(f"exp{number}" for number in range(2, 81))])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("file/exp", "file: the run folder cannot be created: (File exists|Not a directory)", id="file"),
        pytest.param(
            "loop/exp", "loop: the run folder cannot be created: (File exists|Too many levels)", id="loop of links"
        ),
        pytest.param("n" * 300, "File name too long", id="long name"),
        pytest.param("a\0b", "null byte", id="null byte"),
        pytest.param("/", "the path has no name", id="root"),
    ],
)
def test_a_run_folder_that_cannot_be_created_is_an_error(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match=f"{reason}.*; choose another --project or --name"):
        make_run_folder(tmp_path / name)


def test_a_file_in_the_way_is_an_error_with_exist_ok(tmp_path: Path) -> None:
    (tmp_path / "exp").write_text("mine")
    with pytest.raises(InputError, match=r"exp: the run folder cannot be created: File exists"):
        make_run_folder(tmp_path / "exp", exist_ok=True)
    assert make_run_folder(tmp_path / "exp").name == "exp2"
    assert (tmp_path / "exp").read_text() == "mine"


def test_many_inputs_of_one_name_take_two_lookups_each() -> None:
    class CountingDict(dict[str, str]):
        lookups = 0

        def __contains__(self, key: object) -> bool:
            self.lookups += 1
            return super().__contains__(key)

    names = UniqueNames()
    names._owners = owners = CountingDict()
    output_names = [names.assign(f"{number}/x.jpg", "x", ".jpg") for number in range(30)]
    assert output_names == ["x.jpg", *(f"x_{number}.jpg" for number in range(2, 31))]
    assert owners.lookups <= 2 * 30
