"""Number of CPU threads for inference: all of them, or fewer beside other busy processes.

After each operation the threads of PyTorch wait for the slowest one. If another process takes the CPU of one thread,
all wait until it runs again, so that two threads on two CPUs, one of them busy, can take 60 times as long as one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from threading import Lock
from time import perf_counter

import torch

from utils.core.hardware import available_cpus
from utils.core.logging import LOGGER

TRIAL_S = 0.03  # per candidate: several time slices of the scheduler
ROUNDS = 2  # of all candidates
JUMP, JUMP_CALLS = 1.6, 3  # this many calls in a row, slower than the fastest by this factor, cause a new trial
MIN_INTERVAL_S, JUMP_INTERVAL_S = 5.0, 1.0  # between trials; the shorter one if calls have become slower
MAX_COST = 0.05  # share of the time that trials take at most
FORGET = 1.1  # factor on the remembered fastest calls per trial, so that a lasting change is accepted in time
MAX_SHAPES = 64  # whose fastest call is remembered


class ThreadTuner:
    """Runs PyTorch with the number of threads that a short trial finds fastest.

    The trial is repeated when calls become slower, and from time to time while fewer than all threads are used.

    Args:
        most: the maximum number of threads.
        measure: seconds of a fixed computation with a number of threads.

    Attributes:
        count: the number in use; `most` before the first call.
    """

    def __init__(
        self,
        most: int,
        *,
        measure: Callable[[int], float] | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.most = self.count = most
        self.candidates = sorted({most, max(most - 1, 1), max(most // 2, 1), 1}, reverse=True)
        self._measure = measure or partial(measure_threads, images=max(most // 2, 1))  # enough work for all threads
        self._clock = clock
        self._last_trial: float | None = None  # time of its end
        self._trial_s = 0.0  # duration of the last trial
        self._fastest: dict[Hashable, float] = {}  # seconds of a call, by shape
        self._slow_calls = 0
        self._lock = Lock()

    @contextmanager
    def running(self, shape: Hashable) -> Iterator[None]:
        """Use the chosen number of threads within the context, which computes an input of this shape.

        A call while another thread is within the context takes the number as it is.
        """
        if not self._lock.acquire(blocking=False):
            yield
            return
        try:
            if self._is_trial_due():
                self._run_trial()
            with use_threads(self.count):
                start = self._clock()
                yield
                self._record(shape, self._clock() - start)
        finally:
            self._lock.release()

    def _is_trial_due(self) -> bool:
        if self._last_trial is None:
            return True
        is_slower = self._slow_calls >= JUMP_CALLS
        if self.count == self.most and not is_slower:
            return False
        interval = JUMP_INTERVAL_S if is_slower else MIN_INTERVAL_S
        return self._clock() - self._last_trial >= max(interval, self._trial_s / MAX_COST)

    def _run_trial(self) -> None:
        start, before = self._clock(), self.count
        seconds = dict.fromkeys(self.candidates, 0.0)
        for count in self.candidates * ROUNDS:
            seconds[count] += self._measure(count)
        self.count = min(reversed(self.candidates), key=lambda count: seconds[count])
        self._last_trial = self._clock()
        self._trial_s = self._last_trial - start
        self._fastest = {shape: FORGET * fastest for shape, fastest in self._fastest.items()}
        self._slow_calls = 0
        if self.count != before:
            LOGGER.info(f"inference on {self.count} of {self.most} CPU threads, the fastest at the present load")

    def _record(self, shape: Hashable, seconds: float) -> None:
        if len(self._fastest) >= MAX_SHAPES and shape not in self._fastest:
            self._fastest.clear()
        fastest = self._fastest[shape] = min(seconds, self._fastest.get(shape, seconds))
        self._slow_calls = self._slow_calls + 1 if seconds > JUMP * fastest else 0


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Run PyTorch with `count` threads within the context."""
    before = torch.get_num_threads()
    if count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count != before:
            torch.set_num_threads(before)


@torch.inference_mode()
def measure_threads(count: int, images: int = 1) -> float:
    """Mean seconds of a convolution with `count` threads; the minimum would miss the waiting."""
    x = torch.ones(images, 64, 40, 40).to(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3).to(memory_format=torch.channels_last)
    with use_threads(count):
        torch.conv2d(x, weight, padding=1)  # the first call selects the kernel
        start, calls = perf_counter(), 0
        while (elapsed := perf_counter() - start) < TRIAL_S:
            torch.conv2d(x, weight, padding=1)
            calls += 1
    return elapsed / calls


def set_up_threads(threads: int | None, device: torch.device) -> ThreadTuner | None:
    """Set the number of threads of PyTorch and of runtimes that are loaded after it.

    Args:
        threads: a fixed number; None for the one of OMP_NUM_THREADS, or else at most one per available CPU.

    Returns:
        What tunes the number for PyTorch; None if it is fixed, or for other devices than the CPU.
    """
    if threads is not None:
        torch.set_num_threads(threads)
        return None
    if os.environ.get("OMP_NUM_THREADS") or device.type != "cpu":
        return None
    most = min(torch.get_num_threads(), available_cpus())
    if most < torch.get_num_threads():  # a container with a quota of CPU time
        torch.set_num_threads(most)
    return ThreadTuner(most) if most > 1 else None


def running(tuner: ThreadTuner | None, shape: Hashable) -> AbstractContextManager[None]:
    """`ThreadTuner.running`, or a context that changes nothing."""
    return nullcontext() if tuner is None else tuner.running(shape)
