"""torchrun --max-restarts: ranks killed at various moments; the restarted run equals an uninterrupted one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from interruptions import assert_same_run
from process_pairs import find_free_port, write_data

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--max-restarts=1")
EPOCHS = 6
LIMIT_S = 120  # for a restarted run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds ranks in /proc"),
]


def launch(*arguments: object, log: Path, static: bool = False) -> subprocess.Popen[bytes]:
    """Start train.py with torchrun, its output in `log`."""
    rendezvous = ("--master_addr=127.0.0.1", f"--master_port={find_free_port()}") if static else ("--standalone",)
    command = [*LAUNCH, *rendezvous, "train.py", *map(str, arguments)]
    with log.open("wb") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)


def make_options(data: Path, project: Path) -> list[object]:
    options = {
        **{"data": data / "tiny.yaml", "cfg": data / "graph.yaml", "weights": "", "imgsz": 64, "batch-size": 4},
        **{"device": "cpu", "epochs": EPOCHS, "save-every-steps": 2, "project": project},
    }
    return [*(part for name, value in options.items() for part in (f"--{name}", value)), "--noautoanchor", "--noplots"]


def wait_for(condition: Callable[[], object], launcher: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert launcher.poll() is None, "the run ended before the moment"
        assert time.monotonic() < deadline, "the moment does not come"
        time.sleep(0.001)


def find_ranks(launcher: subprocess.Popen[bytes]) -> dict[int, int]:
    """Rank -> process id of the running ranks."""
    ranks = {}
    for children in Path(f"/proc/{launcher.pid}/task").glob("*/children"):
        with suppress(OSError):  # a child that ends
            for pid in map(int, children.read_text().split()):
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                ranks.update({int(v.removeprefix(b"RANK=")): pid for v in variables if v.startswith(b"RANK=")})
    return ranks


def count_rows(run: Path) -> int:
    """Epochs in results.csv."""
    table = run / "results.csv"
    return len(table.read_text().splitlines()) - 1 if table.exists() else 0


MOMENTS: dict[str, Callable[[Path], object]] = {
    "start": lambda run: time.sleep(1) or True,
    "set-up": lambda run: (run / "train.log").exists(),
    "save": lambda run: list((run / "weights").glob(".last.pt.*")),
    "epoch": lambda run: count_rows(run) >= 3,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data set, an uninterrupted run in `whole/exp` and a run stopped after its first epoch in `begun/exp`."""
    folder = tmp_path_factory.mktemp("restarts")
    write_data(folder, "detect")
    for name in ("whole", "begun"):
        launcher = launch(*make_options(folder, folder / name), log=folder / f"{name}.log")
        if name == "begun":
            wait_for((folder / "begun/exp/results.csv").exists, launcher)
            (folder / "begun/exp/stop").touch()
        assert launcher.wait(LIMIT_S) == 0, (folder / f"{name}.log").read_text()
    assert 1 <= count_rows(folder / "begun/exp") < 3
    yield folder
    shutil.rmtree(folder)  # the checkpoints of many runs


@pytest.mark.parametrize("repetition", range(4))  # 20 kills in all: which rank connects first is chance
@pytest.mark.parametrize(
    ("moment", "rank", "resumed", "workers", "static"),
    [
        pytest.param("start", 0, True, 0, False, id="start"),
        pytest.param("set-up", 1, False, 0, True, id="set-up"),
        pytest.param("save", 0, True, 0, True, id="save"),
        pytest.param("epoch", 1, False, 2, False, id="epoch"),
        pytest.param("epoch", 0, True, 2, False, id="resumed epoch"),
    ],
)
def test_killed_rank(
    moment: str, rank: int, resumed: bool, workers: int, static: bool, repetition: int, folder: Path, tmp_path: Path
) -> None:
    """With `--resume`, the restarted command continues its run; without, it starts a new one in the next folder."""
    run, log = tmp_path / "exp", tmp_path / "log"
    if resumed:
        shutil.copytree(folder / "begun/exp", run)
    options = ["--resume", run / "weights/last.pt"] if resumed else make_options(folder, tmp_path)
    launcher = launch(*options, "--workers", workers, log=log, static=static)
    try:
        wait_for(lambda: len(find_ranks(launcher)) == 2, launcher)
        victim = find_ranks(launcher)[rank]
        wait_for(lambda: MOMENTS[moment](run), launcher)
        os.kill(victim, signal.SIGKILL)
        status = launcher.wait(LIMIT_S)
    finally:
        for pid in (*find_ranks(launcher).values(), launcher.pid) if launcher.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
    output = log.read_text()
    assert status == 0, output
    assert f"(exitcode: -9) local_rank: {rank}" in output
    assert_same_run(folder / "whole/exp", run if resumed else tmp_path / "exp2")
