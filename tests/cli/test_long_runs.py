"""What happens to a training run in hours and days: its log, requests to stop, full disks, lost files and processes."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from models.checkpoint import load_training_state
from utils.config.base import TrainConfig
from utils.core.errors import InputError, StoppedError
from utils.train.callbacks import Callbacks
from utils.train.setup import build_trainer
from utils.train.trainer import Trainer

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--weights", "", "--cfg", "yolov5n.yaml", "--img", "64", "--batch", "4", "--device", "cpu", "--noautoanchor")


def command(data: Path, project: Path, *more: object) -> list[str]:
    arguments = ("train.py", "--data", data, "--project", project, *QUICK, *more)
    return [sys.executable, *map(str, arguments)]


def make_trainer(data: Path, project: Path, **options: object) -> Trainer:
    base = {
        **{"data": str(data), "weights": "", "cfg": "yolov5n.yaml", "imgsz": 64, "batch_size": 4, "workers": 0},
        **{"epochs": 3, "project": str(project), "noplots": True, "device": "cpu", "noautoanchor": True},
    }
    return build_trainer(TrainConfig.from_kwargs(**(base | options)))


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, handler)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.time() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.time() < deadline, "training makes no progress"
        time.sleep(0.02)


def start(arguments: list[str], **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


# -- what is seen and kept ------------------------------------------------------------------------------------------


def test_a_pipe_gets_a_line_an_epoch(tiny_data: Path, tmp_path: Path) -> None:
    arguments = command(tiny_data, tmp_path, "--epochs", 2, "--workers", 0, "--noplots")
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\r" not in done.stderr
    assert b"\x1b" not in done.stderr
    lines = [line for line in done.stderr.decode().splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == ["epoch 0/1", "epoch 1/1"]
    assert "mAP_0.5 " in lines[0]
    log = (tmp_path / "exp/train.log").read_text().splitlines()
    assert [line[20:] for line in log if " epoch " in line] == lines
    assert any("torch" in line for line in log)  # said before there was a folder


def test_a_terminal_gets_a_bar(tiny_data: Path, tmp_path: Path) -> None:
    controller, screen = pty.openpty()
    termios.tcsetwinsize(screen, (24, 160))
    arguments = command(tiny_data, tmp_path, "--epochs", 1, "--workers", 0, "--noplots")
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=screen, stdout=subprocess.DEVNULL)
    os.close(screen)
    shown = b""
    while select.select([controller], [], [], 240)[0]:
        try:
            shown += os.read(controller, 65536)
        except OSError:  # the other end is closed
            break
    os.close(controller)
    assert process.wait(240) == 0, shown
    text = shown.decode()
    assert "\r" in text.replace("\r\n", "\n")
    assert "3/3 [" in text  # steps of the bar
    assert "box_loss" in text
    assert "epoch 0/0:" not in text
    log = (tmp_path / "exp/train.log").read_text()
    assert "epoch 0/0:" in log
    assert "\r" not in log


# -- requests to stop -----------------------------------------------------------------------------------------------


def assert_equal_runs(a: Path, b: Path) -> None:
    """The same table and, bit for bit, the same weights, EMA and optimizer."""
    assert (a / "results.csv").read_text() == (b / "results.csv").read_text()
    first, second = load_training_state(a / "weights/last.pt"), load_training_state(b / "weights/last.pt")
    for part in ("model", "ema"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items()), part
    for number, state in first["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], second["optimizer"]["state"][number]["momentum_buffer"])


def test_stopped_by_file_and_by_signal_and_resumed_equals_undisturbed(
    tiny_data: Path, tmp_path: Path, run_script: Run
) -> None:
    options = ("--epochs", 5, "--noplots", "--workers", 0)
    whole, project = tmp_path / "whole", tmp_path / "stopped"
    done = run_script(*command(tiny_data, whole, *options)[1:])
    assert done.returncode == 0, done.stderr
    run, last = project / "exp", project / "exp/weights/last.pt"
    process = start(command(tiny_data, project, *options))
    wait_for(last.exists, process)
    (run / "stop").touch()
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert f"{run / 'stop'}: found" in errors
    assert "Results are in" in errors
    assert not (run / "stop").exists()
    assert 1 <= len((run / "results.csv").read_text().splitlines()) - 1 < 5
    rows = len((run / "results.csv").read_text().splitlines())
    process = start([sys.executable, "train.py", "--resume", str(last)])
    wait_for(lambda: len((run / "results.csv").read_text().splitlines()) > rows, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "terminated (SIGTERM)"
    assert f"--resume {last}" in errors
    assert "ended by StoppedError" in (run / "train.log").read_text()
    done = run_script("train.py", "--resume", last)
    assert done.returncode == 0, done.stderr
    assert_equal_runs(whole / "exp", run)


def test_sigterm_to_all_processes_of_a_run(tiny_data: Path, tmp_path: Path) -> None:
    """As batch systems and systemd send it: the loader processes die of it."""
    arguments = command(tiny_data, tmp_path, "--epochs", 100, "--noplots", "--workers", 2)
    process = start(arguments, start_new_session=True)
    wait_for((tmp_path / "exp/results.csv").exists, process)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    assert load_training_state(tmp_path / "exp/weights/last.pt")["epoch"] >= -1


def test_sigterm_in_the_middle_of_an_epoch(tiny_data: Path, tmp_path: Path) -> None:
    """The step in hand is finished and written: nothing is done twice."""
    trainer = make_trainer(tiny_data, tmp_path, batch_size=2)

    def terminate(*, iteration: int, **_: object) -> None:
        if iteration == 6:  # the first of six in epoch 1
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.callbacks.on("on_train_batch_start", terminate)
    with pytest.raises(StoppedError):
        trainer.fit()
    state = load_training_state(tmp_path / "exp/weights/last.pt")
    assert state["epoch"] == 0
    assert 0 < state["position"]["batches"] < 6


def test_sigterm_while_validating(tiny_data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path)
    trainer.callbacks.on("on_val_start", lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StoppedError):
        trainer.fit()
    assert (tmp_path / "exp/weights/last.pt").exists()


# -- disks, files and processes that fail -------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 64 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no file system of a test's own: {error}")
    if done.returncode:
        pytest.skip(f"no file system of a test's own: {done.stderr.strip()} (it takes root)")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> None:
    """Take all room there is."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(
    tiny_data: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(tiny_data, small_disk)
    trainer.callbacks.on("on_train_epoch_start", lambda epoch: fill(small_disk) if epoch == 1 else None)
    with pytest.raises(InputError, match=r"weights/(best|last)\.pt: cannot be written .*free some space"):
        trainer.fit()
    run = small_disk / "exp"
    assert load_training_state(run / "weights/last.pt")["epoch"] == 0
    assert not [p.name for p in (run / "weights").iterdir() if p.suffix != ".pt"]
    assert f"{run / 'results.csv'}: cannot be written (No space left on device)" in caplog.text
    (small_disk / "filler").unlink()
    resumed = build_trainer(TrainConfig.from_kwargs(resume=str(run / "weights/last.pt")))
    assert resumed.fit().epochs == 3
    assert len((run / "results.csv").read_text().splitlines()) == 4


def test_a_disk_that_becomes_read_only(tiny_data: Path, small_disk: Path) -> None:
    def lock(epoch: int) -> None:
        if epoch == 1:
            trainer.callbacks.run("teardown")  # closes the files that loggers hold open
            trainer.callbacks = Callbacks()  # nobody listens after that
            subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    trainer = make_trainer(tiny_data, small_disk)
    trainer.callbacks.on("on_train_epoch_end", lock)
    with pytest.raises(InputError, match=r"weights/(best|last)\.pt: cannot be written .*Read-only file system"):
        trainer.fit()
    assert load_training_state(small_disk / "exp/weights/last.pt")["epoch"] == 0
    with pytest.raises(InputError, match=r"exp2/weights: the run folder cannot be made: Read-only .* --project"):
        make_trainer(tiny_data, small_disk)
    with pytest.raises(InputError, match=r"exp/weights: the run folder cannot be written in: Read-only .* --project"):
        make_trainer(tiny_data, small_disk, exist_ok=True)


def test_a_limit_on_the_size_of_files(tiny_data: Path, tmp_path: Path) -> None:
    """Works without root: what `ulimit -f` allows ends in the middle of the first checkpoint."""
    resource = pytest.importorskip("resource", reason="this system has no limits on files")
    arguments = command(tiny_data, tmp_path, "--epochs", 1, "--noplots", "--workers", 0)
    process = start(arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)))
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    assert "last.pt: cannot be written" in errors.splitlines()[-1]
    assert not list((tmp_path / "exp/weights").iterdir())


@pytest.fixture
def own_data(tmp_path: Path, tiny_data: Path) -> Path:
    """A copy of the tiny set that a test may damage."""
    folder = tmp_path / "set"
    subprocess.run(["cp", "-r", str(tiny_data.parent), str(folder)], check=True)
    return folder / tiny_data.name


@pytest.mark.parametrize(("workers", "split"), [(0, "train"), (2, "train"), (0, "val"), (2, "val")])
def test_an_image_that_is_deleted_while_training(workers: int, split: str, own_data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(own_data, tmp_path, workers=workers)
    lost = own_data.parent / f"images/{split}/004.jpg"
    trainer.callbacks.on("on_train_epoch_end", lambda epoch: lost.unlink() if (epoch, split) == (0, "train") else None)
    trainer.callbacks.on("on_val_end", lambda **_: lost.unlink(missing_ok=True) if split == "val" else None)
    with pytest.raises(InputError, match=rf"{lost}: No such file or directory; it could be read before: put it back"):
        trainer.fit()
    assert load_training_state(tmp_path / "exp/weights/last.pt")["epoch"] in (0, 1)


def test_a_loader_process_that_is_killed(tiny_data: Path, tmp_path: Path) -> None:
    process = start(command(tiny_data, tmp_path, "--epochs", 100, "--noplots", "--workers", 2))
    wait_for((tmp_path / "exp/results.csv").exists, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("this system does not tell the children of a process")
    killed = children.read_text().split()[0]
    os.kill(int(killed), signal.SIGKILL)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    assert f"pid(s) {killed}" in errors.splitlines()[-1] or f"pid {killed}" in errors.splitlines()[-1]
    last = tmp_path / "exp/weights/last.pt"
    assert f"--resume {last}" in errors
    assert load_training_state(last)["optimizer"]["param_groups"]
