"""The choice of CPU threads, with a mock clock and mock trials."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from utils.backends import threads
from utils.backends.registry import load_backend
from utils.backends.threads import ThreadTuner, measure_threads, set_up_threads, use_threads

CPU = torch.device("cpu")
IDLE, BUSY = {1: 2.0, 2: 1.0, 3: 0.8, 4: 0.5}, {1: 2.0, 2: 3.0, 3: 40.0, 4: 90.0}  # milliseconds of a trial
SHAPE = (1, 3, 64, 64)


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Machine:
    """A machine whose load the test sets; time passes only in trials and calls."""

    def __init__(self, load: dict[int, float]) -> None:
        self.load, self.now, self.rounds = load, 0.0, 0

    @property
    def trials(self) -> int:
        return self.rounds // threads.ROUNDS

    def measure(self, count: int) -> float:
        self.rounds += count == 1
        self.now += 0.01
        return self.load[count] / 1000

    def run(self, tuner: ThreadTuner, seconds: float, shape: Any = SHAPE) -> int:
        """A call of inference; the number of threads it had."""
        with tuner.running(shape):
            self.now += seconds
            return torch.get_num_threads()

    def build_tuner(self, most: int = 4) -> ThreadTuner:
        return ThreadTuner(most, measure=self.measure, clock=lambda: self.now)


@pytest.mark.parametrize(
    ("load", "count"),
    [
        pytest.param(IDLE, 4, id="idle"),
        pytest.param(BUSY, 1, id="busy"),
        pytest.param({1: 2.0, 2: 1.2, 3: 0.7, 4: 9.0}, 3, id="one of four is busy"),
        pytest.param({1: 0.9, 2: 0.9, 3: 0.9, 4: 1.0}, 1, id="more threads gain nothing"),
    ],
)
def test_the_first_call_picks_the_number(load: dict[int, float], count: int) -> None:
    machine = Machine(load)
    tuner, before = machine.build_tuner(), torch.get_num_threads()
    assert machine.run(tuner, 0.01) == tuner.count == count
    assert torch.get_num_threads() == before
    assert machine.trials == 1


def test_slower_calls_cause_a_trial_and_load_that_ends_another() -> None:
    machine = Machine(IDLE)
    tuner = machine.build_tuner()
    machine.now = 100.0
    assert [machine.run(tuner, 0.01) for _ in range(600)] == [4] * 600
    assert machine.trials == 1  # no trial without a reason
    machine.load = BUSY
    assert [machine.run(tuner, 0.9) for _ in range(4)] == [4, 4, 4, 1]  # three slow calls are enough
    assert machine.trials == 2
    assert [machine.run(tuner, 0.014) for _ in range(250)] == [1] * 250  # 4.4 s with the call before
    machine.load = IDLE
    counts = [machine.run(tuner, 0.014) for _ in range(100)]
    assert counts == [1] * counts.index(4) + [4] * (100 - counts.index(4))
    assert machine.trials == 3


def test_calls_of_other_shapes_are_compared_with_their_own() -> None:
    machine = Machine(IDLE)
    tuner = machine.build_tuner()
    for number in range(2000):
        machine.run(tuner, 0.001 + 0.02 * (number % 5), shape=number % 5)
    assert machine.trials == 1
    for number in range(threads.MAX_SHAPES + 9):
        machine.run(tuner, 0.01, shape=("new", number))
    assert len(tuner._fastest) <= threads.MAX_SHAPES


def test_trials_take_a_small_share_of_the_time() -> None:
    machine = Machine(BUSY)
    tuner = machine.build_tuner(2)
    machine.measure = lambda count: setattr(machine, "now", machine.now + 2.0) or BUSY[count]  # type: ignore[method-assign]
    tuner._measure = machine.measure
    starts = []
    for _ in range(6000):
        before = machine.now
        machine.run(tuner, 0.1)
        if machine.now - before > 1:
            starts.append(before)
    assert len(starts) > 2
    assert min(b - a for a, b in itertools.pairwise(starts)) >= 4 * threads.ROUNDS / threads.MAX_COST


def test_calls_from_other_threads_and_errors() -> None:
    machine = Machine(BUSY)
    tuner, inside = machine.build_tuner(), []
    with tuner.running(SHAPE):
        other = threading.Thread(target=lambda: inside.append(machine.run(tuner, 0.01) > 0))
        other.start()
        other.join(10)
    assert inside == [True]
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="failed"), tuner.running(SHAPE):
        raise ValueError("failed")
    assert torch.get_num_threads() == before
    assert machine.run(tuner, 0.01) == 1  # the lock is free


def test_a_real_trial() -> None:
    with use_threads(2):
        assert 1e-6 < measure_threads(1) < 5
        assert torch.get_num_threads() == 2


def test_fixed_numbers_are_not_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "available_cpus", lambda: 3)
    torch.set_num_threads(8)
    tuner = set_up_threads(None, CPU)
    assert tuner is not None and (tuner.most, tuner.candidates, torch.get_num_threads()) == (3, [3, 2, 1], 3)
    assert set_up_threads(2, CPU) is None and torch.get_num_threads() == 2
    assert set_up_threads(None, torch.device("cuda")) is None and torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert set_up_threads(None, CPU) is None  # a number set by the calling program is the maximum
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    torch.set_num_threads(4)
    assert set_up_threads(None, CPU) is None and torch.get_num_threads() == 4


def test_backends_run_with_the_number(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = shared / "weights/yolov5n.pt"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "available_cpus", lambda: 2)
    monkeypatch.setattr(threads, "measure_threads", lambda count, images: {1: 1.0, 2: 9.0}[count])
    torch.set_num_threads(2)
    backend: Any = load_backend(weights, device=CPU)
    counts: list[int] = []
    backend.model.register_forward_pre_hook(lambda *_: counts.append(torch.get_num_threads()))
    with torch.inference_mode():
        backend.forward(torch.zeros(1, 3, 64, 64))
        assert load_backend(weights, device=CPU, threads=2).threads is None  # type: ignore[attr-defined]
    assert counts == [1] and torch.get_num_threads() == 2
