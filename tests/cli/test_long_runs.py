"""Long training runs: the log, stop requests, full disks, missing files and killed processes."""

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
from interruptions import assert_same_run, fill_disk

from models.checkpoint import load_training_state
from utils.config.train import TrainConfig
from utils.core.errors import InputError, StoppedError
from utils.train import run_lock
from utils.train.callbacks import Callbacks
from utils.train.setup import build_trainer
from utils.train.trainer import Trainer

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--weights", "", "--cfg", "yolov5n.yaml", "--img", "64", "--batch", "4", "--device", "cpu", "--noautoanchor")


def make_command(data: Path, project: Path, *more: object) -> list[str]:
    arguments = ("train.py", "--data", data, "--project", project, *QUICK, *more)
    return [sys.executable, *map(str, arguments)]


def make_trainer(data: Path, project: Path, **options: object) -> Trainer:
    base = {
        **{"data": str(data), "weights": "", "cfg": "yolov5n.yaml", "imgsz": 64, "batch_size": 4, "workers": 0},
        **{"epochs": 3, "project": str(project), "noplots": True, "device": "cpu", "noautoanchor": True},
    }
    return build_trainer(TrainConfig.from_kwargs(**(base | options)))


@pytest.fixture(autouse=True)
def restore_signals() -> Iterator[None]:
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


# -- console and train.log ------------------------------------------------------------------------------------------


def test_pipe_gets_one_line_per_epoch(tiny_data: Path, tmp_path: Path) -> None:
    arguments = make_command(tiny_data, tmp_path, "--epochs", 2, "--workers", 0, "--noplots")
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert b"\r" not in result.stderr
    assert b"\x1b" not in result.stderr
    lines = [line for line in result.stderr.decode().splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == ["epoch 0/1", "epoch 1/1"]
    assert "mAP_0.5 " in lines[0]
    log = (tmp_path / "exp/train.log").read_text().splitlines()
    assert [line[20:] for line in log if " epoch " in line] == lines
    assert any("torch" in line for line in log)  # logged before the run folder existed


def test_terminal_gets_a_progress_bar(tiny_data: Path, tmp_path: Path) -> None:
    controller, screen = pty.openpty()
    termios.tcsetwinsize(screen, (24, 160))
    arguments = make_command(tiny_data, tmp_path, "--epochs", 1, "--workers", 0, "--noplots")
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=screen, stdout=subprocess.DEVNULL)
    os.close(screen)
    output = b""
    while select.select([controller], [], [], 240)[0]:
        try:
            output += os.read(controller, 65536)
        except OSError:  # the other end is closed
            break
    os.close(controller)
    assert process.wait(240) == 0, output
    text = output.decode()
    assert "\r" in text.replace("\r\n", "\n")
    assert "3/3 [" in text  # steps of the bar
    assert "box_loss" in text
    assert "epoch 0/0:" not in text
    log = (tmp_path / "exp/train.log").read_text()
    assert "epoch 0/0:" in log
    assert "\r" not in log


# -- stop requests --------------------------------------------------------------------------------------------------


def test_run_stopped_by_file_and_signal_equals_an_uninterrupted_one(
    tiny_data: Path, tmp_path: Path, run_script: Run
) -> None:
    options = ("--epochs", 5, "--noplots", "--workers", 0)
    whole, project = tmp_path / "whole", tmp_path / "stopped"
    result = run_script(*make_command(tiny_data, whole, *options)[1:])
    assert result.returncode == 0, result.stderr
    run, last = project / "exp", project / "exp/weights/last.pt"
    process = start(make_command(tiny_data, project, *options))
    wait_for(last.exists, process)
    (run / "stop").touch()
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert f"{run / 'stop'}: stopping after this epoch" in errors
    assert "Results saved to" in errors
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
    result = run_script("train.py", "--resume", last)
    assert result.returncode == 0, result.stderr
    assert_same_run(whole / "exp", run)


def test_sigterm_to_the_process_group(tiny_data: Path, tmp_path: Path) -> None:
    """As batch systems and systemd send it: it also kills the workers."""
    arguments = make_command(tiny_data, tmp_path, "--epochs", 100, "--noplots", "--workers", 2)
    process = start(arguments, start_new_session=True)
    wait_for((tmp_path / "exp/results.csv").exists, process)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    assert load_training_state(tmp_path / "exp/weights/last.pt")["epoch"] >= -1


def test_sigterm_in_the_middle_of_an_epoch(tiny_data: Path, tmp_path: Path) -> None:
    """The current step is finished and saved: no batch is used twice."""
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


def test_sigterm_during_validation(tiny_data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path)
    trainer.callbacks.on("on_val_start", lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StoppedError):
        trainer.fit()
    assert (tmp_path / "exp/weights/last.pt").exists()


# -- failing disks, files and processes ---------------------------------------------------------------------------


def test_full_disk_keeps_the_last_checkpoint(
    tiny_data: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(tiny_data, small_disk)
    trainer.callbacks.on("on_train_epoch_start", lambda epoch, **_: epoch == 1 and fill_disk(small_disk))
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


def test_disk_that_becomes_read_only(tiny_data: Path, small_disk: Path) -> None:
    def remount_read_only(epoch: int) -> None:
        if epoch == 1:
            trainer.callbacks.run("teardown")  # closes the files of the loggers
            trainer.callbacks = Callbacks()  # no more events
            run_lock._release(trainer.save_dir.resolve())  # so that no file is open
            subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    trainer = make_trainer(tiny_data, small_disk)
    trainer.callbacks.on("on_train_epoch_end", remount_read_only)
    with pytest.raises(InputError, match=r"weights/(best|last)\.pt: cannot be written .*Read-only file system"):
        trainer.fit()
    assert load_training_state(small_disk / "exp/weights/last.pt")["epoch"] == 0
    with pytest.raises(InputError, match=r"exp2: the run folder cannot be created: Read-only .* --project"):
        make_trainer(tiny_data, small_disk)
    with pytest.raises(InputError, match=r"exp: the run folder cannot be written to: Read-only .* --project"):
        make_trainer(tiny_data, small_disk, exist_ok=True)


def test_file_size_limit(tiny_data: Path, tmp_path: Path) -> None:
    """Needs no root: the limit (`ulimit -f`) is smaller than the first checkpoint."""
    resource = pytest.importorskip("resource", reason="this system has no file size limits")
    arguments = make_command(tiny_data, tmp_path, "--epochs", 1, "--noplots", "--workers", 0)
    process = start(arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)))
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    assert "last.pt: cannot be written" in errors.splitlines()[-1]
    assert not list((tmp_path / "exp/weights").iterdir())


@pytest.fixture
def data_copy(tmp_path: Path, tiny_data: Path) -> Path:
    """A copy of the tiny set that the test may damage."""
    folder = tmp_path / "set"
    subprocess.run(["cp", "-r", str(tiny_data.parent), str(folder)], check=True)
    return folder / tiny_data.name


@pytest.mark.parametrize(("workers", "split"), [(0, "train"), (2, "train"), (0, "val"), (2, "val")])
def test_image_deleted_during_training(workers: int, split: str, data_copy: Path, tmp_path: Path) -> None:
    trainer = make_trainer(data_copy, tmp_path, workers=workers)
    image = data_copy.parent / f"images/{split}/004.jpg"
    trainer.callbacks.on("on_train_epoch_end", lambda epoch: image.unlink() if (epoch, split) == (0, "train") else None)
    trainer.callbacks.on("on_val_end", lambda **_: image.unlink(missing_ok=True) if split == "val" else None)
    with pytest.raises(InputError, match=rf"{image}: No such file or directory; it was readable before: restore it"):
        trainer.fit()
    assert load_training_state(tmp_path / "exp/weights/last.pt")["epoch"] in (0, 1)


def test_killed_worker(tiny_data: Path, tmp_path: Path) -> None:
    process = start(make_command(tiny_data, tmp_path, "--epochs", 100, "--noplots", "--workers", 2))
    wait_for((tmp_path / "exp/results.csv").exists, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("this system does not list the children of a process")
    pid = children.read_text().split()[0]
    os.kill(int(pid), signal.SIGKILL)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    assert f"pid(s) {pid}" in errors.splitlines()[-1] or f"pid {pid}" in errors.splitlines()[-1]
    last = tmp_path / "exp/weights/last.pt"
    assert f"--resume {last}" in errors
    assert load_training_state(last)["optimizer"]["param_groups"]
