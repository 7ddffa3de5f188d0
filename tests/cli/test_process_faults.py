"""Faults of whole processes: kills, full and read-only disks, runs that start together, removed folders."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from interruptions import assert_same_run, fill_disk, is_same
from process_pairs import write_data

ROOT = Path(__file__).resolve().parents[2]
MOMENTS, EPOCHS = 20, 3
TIMEOUT_S = 240

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, `tiny.yaml` and `graph.yaml`."""
    folder = tmp_path_factory.mktemp("images")
    write_data(folder, "detect")
    return folder


def make_flags(data: Path, project: Path, *more: object) -> list[str]:
    """Flags of a training of seconds."""
    options = {
        **{"data": data / "tiny.yaml", "cfg": data / "graph.yaml", "weights": "", "imgsz": 64, "batch-size": 4},
        **{"device": "cpu", "epochs": EPOCHS, "save-every-steps": 2, "workers": 0, "project": project},
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [*map(str, (*flags, "--noautoanchor", *more))]


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process; exit status and what it wrote to standard error."""
    try:
        errors = process.communicate(timeout=TIMEOUT_S)[1]
    finally:
        process.kill()
    return process.returncode, errors


def run(script: str, *arguments: object) -> tuple[int, str]:
    return end(start(script, *arguments))


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the moment does not come"
        time.sleep(0.005)


def assert_refused(result: tuple[int, str], message: str) -> None:
    """Check for exit status 2 and an error of one line, the last one."""
    status, errors = result
    assert status == 2, errors
    assert "Traceback" not in errors
    assert re.search(message, errors.splitlines()[-1]), errors


def count_rows(folder: Path) -> int:
    """Epochs in results.csv."""
    file = folder / "results.csv"
    return len(file.read_text().splitlines()) - 1 if file.exists() else 0


# -- kills ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Folder of an uninterrupted run, and the number of its moments."""
    project = tmp_path_factory.mktemp("whole")
    status, errors = run("tests/killed_training.py", -1, *make_flags(data, project))
    assert status == 0, errors
    count = re.search(r"^(\d+) moments$", errors, re.MULTILINE)
    assert count, errors
    return project / "exp", int(count[1])


@pytest.mark.parametrize("part", range(MOMENTS))
def test_run_killed_at_any_moment_equals_an_uninterrupted_one(
    part: int, whole: tuple[Path, int], data: Path, tmp_path: Path
) -> None:
    expected, count = whole
    moment, folder = (2 * part + 1) * count // (2 * MOMENTS), tmp_path / "exp"
    last = folder / "weights/last.pt"
    status, errors = run("tests/killed_training.py", moment, *make_flags(data, tmp_path))
    assert status == -signal.SIGKILL, errors
    again = ["--resume", last] if last.exists() else make_flags(data, tmp_path, "--exist-ok")
    status, errors = run("train.py", *again)
    assert status == 0, errors
    assert_same_run(folder, expected)
    first, second = (torch.load(run / "weights/best.pt", weights_only=True) for run in (folder, expected))
    assert is_same(first["model"], second["model"])
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if "tfevents" not in path.name}
    assert names == {str(p.relative_to(expected)) for p in expected.rglob("*") if "tfevents" not in p.name}


# -- runs that start together -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2])
def test_runs_that_start_together_get_folders_of_their_own(
    ranks: int, whole: tuple[Path, int], data: Path, tmp_path: Path
) -> None:
    device = ("--device", ",".join(["cpu"] * ranks))
    processes = [start("train.py", *make_flags(data, tmp_path, *device, "--noplots")) for _ in range(4 // ranks)]
    results = [end(process) for process in processes]
    assert [status for status, _ in results] == [0] * len(processes), results
    names = ["exp", "exp2", "exp3", "exp4"][: len(processes)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert sum(f"Results saved to {tmp_path / name}\n" in errors for _, errors in results) == 1
        if ranks == 1:
            assert_same_run(tmp_path / name, whole[0])


@pytest.mark.parametrize("script", ["val.py", "detect.py"])
def test_other_commands_that_start_together(script: str, whole: tuple[Path, int], data: Path, tmp_path: Path) -> None:
    images = ("--data", data / "tiny.yaml") if script == "val.py" else ("--source", data / "images/val")
    flags = ("--weights", whole[0] / "weights/best.pt", *images, "--imgsz", 64, "--device", "cpu", "--save-txt")
    results = [end(process) for process in [start(script, *flags, "--project", tmp_path) for _ in range(4)]]
    assert [status for status, _ in results] == [0] * 4, results
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exp", "exp2", "exp3", "exp4"]


def test_second_run_in_a_folder_is_refused_until_the_first_ends(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exp"
    first = start("train.py", *make_flags(data, tmp_path, "--noplots", "--epochs", 10_000))
    wait_for(lambda: count_rows(folder), first)
    refused = rf"{folder}: process {first.pid} on .* trains in this folder; wait until it has ended, or stop it"
    assert_refused(run("train.py", *make_flags(data, tmp_path, "--exist-ok")), refused)
    assert_refused(run("train.py", "--resume", folder / "weights/last.pt"), refused)
    assert first.poll() is None
    second = start("train.py", "--resume", folder / "weights/last.pt")
    time.sleep(3)
    rows = count_rows(folder)
    first.kill()  # while the second one waits
    wait_for(lambda: count_rows(folder) > rows + 1, second)
    second.send_signal(signal.SIGTERM)
    status, errors = end(second)
    assert status == 143, errors
    assert not (folder / ".lock").exists()


def test_second_search_in_a_folder_is_refused_and_a_killed_one_resumes(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exp"
    table = folder / "evolve.csv"
    first = start("train.py", *make_flags(data, tmp_path, "--noplots", "--epochs", 1, "--evolve", 10_000))
    wait_for(lambda: table.exists() and len(table.read_text().splitlines()) > 2, first)
    again = ("--resume_evolve", folder, "--evolve")
    assert_refused(run("train.py", *again, 10_000), rf"{folder}: process {first.pid} on .* trains in this folder")
    first.kill()
    first.wait()
    lines = table.read_bytes().splitlines()
    lines[2] = b"\xff" + lines[2]
    table.write_bytes(b"\n".join(lines))
    status, errors = run("train.py", *again, len(lines) - 1)
    assert status == 0, errors
    assert f"WARNING {table}:3: not " in errors
    numbers = [int(line.rpartition(",")[2]) for line in table.read_text().splitlines()[1:]]
    assert sorted(numbers) == list(range(1, len(lines)))
    assert (folder / "evolve.csv.damaged").read_bytes() == b"\n".join(lines)
    assert not list(folder.glob(".*"))


# -- disks and folders ------------------------------------------------------------------------------------------------


def test_full_disk(whole: tuple[Path, int], data: Path, small_disk: Path) -> None:
    folder = small_disk / "exp"
    process = start("train.py", *make_flags(data, small_disk))
    wait_for(lambda: count_rows(folder), process)
    fill_disk(small_disk)
    assert_refused(end(process), r"weights/\w+\.pt: cannot be written .*No space left.* free some space")
    assert_refused(run("train.py", *make_flags(data, small_disk)), r"No space left")
    (small_disk / "filler").unlink()
    status, errors = run("train.py", "--resume", folder / "weights/last.pt")
    assert status == 0, errors
    assert_same_run(folder, whole[0])
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("kind", ["torchscript", "pickle", "onnx", "openvino"])
def test_export_to_a_full_disk(kind: str, whole: tuple[Path, int], small_disk: Path) -> None:
    if kind not in ("torchscript", "pickle"):
        pytest.importorskip(kind, reason="not installed")
    weights = shutil.copy(whole[0] / "weights/best.pt", small_disk)
    fill_disk(small_disk)
    status, errors = run("export.py", "--weights", weights, "--include", kind, "--imgsz", 64, "--device", "cpu")
    assert status == 1, errors
    assert "Traceback" not in errors
    assert re.search(r"^error: .*free some space", errors, re.MULTILINE), errors
    assert sorted(path.name for path in small_disk.iterdir()) == ["best.pt", "filler"]


def test_read_only_disk(whole: tuple[Path, int], data: Path, small_disk: Path) -> None:
    shutil.copytree(whole[0], small_disk / "exp")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    message = "Read-only file system; choose another --project or --name"
    last, best = small_disk / "exp/weights/last.pt", small_disk / "exp/weights/best.pt"
    for flags in (make_flags(data, small_disk), ["--resume", last, "--epochs", 9]):
        assert_refused(run("train.py", *flags), message)
    common = ("--weights", best, "--project", small_disk, "--imgsz", 64, "--device", "cpu")
    assert_refused(run("val.py", "--data", data / "tiny.yaml", *common), message)
    assert_refused(run("detect.py", "--source", data / "images/val", *common), message)


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_removed_folder_is_made_again(rows: int, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs/exp"
    process = start("train.py", *make_flags(data, tmp_path / "runs", "--epochs", 12))
    wait_for(lambda: count_rows(folder) >= rows, process)
    while folder.exists():  # files may be written meanwhile
        shutil.rmtree(folder, ignore_errors=True)
    status, errors = end(process)
    assert status == 0, errors
    assert f"WARNING {folder}: removed during the run; made again" in errors
    assert count_rows(folder) == 12
    names = {path.name for path in folder.iterdir()}
    assert {"opt.yaml", "hyp.yaml", "results.csv", "results.png", "train.log", "weights"} <= names
    assert run("train.py", "--resume", folder / "weights/last.pt", "--epochs", 13)[0] == 0


def test_folder_that_another_run_has_taken(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exp"
    first = start("train.py", *make_flags(data, tmp_path, "--noplots", "--epochs", 10_000))
    wait_for((folder / "weights/last.pt").exists, first)
    first.send_signal(signal.SIGSTOP)
    shutil.rmtree(folder)
    status, errors = run("train.py", *make_flags(data, tmp_path, "--noplots"))
    assert status == 0, errors
    content = (folder / "weights/last.pt").read_bytes()
    first.send_signal(signal.SIGCONT)
    assert_refused(end(first), "exp: removed during the run, and since then used by another one")
    assert (folder / "weights/last.pt").read_bytes() == content
    assert count_rows(folder) == EPOCHS


@pytest.mark.parametrize("value", ["file/x", "loop/x", "n" * 300, "a\udcff"])
@pytest.mark.parametrize("flag", ["--project", "--name", "--resume"])
def test_bad_names(flag: str, value: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    flags = make_flags(data, tmp_path, flag, tmp_path / value if "/" in value else value)
    assert_refused(run("train.py", *flags), r"^error: ")


def test_name_of_the_root_folder(data: Path, tmp_path: Path) -> None:
    assert_refused(run("train.py", *make_flags(data, tmp_path, "--name", "/")), "/: the run folder cannot be created")
