"""Run fuzz cases in a child process with limits of time and memory; a case is a target and a number."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.core.errors import InputError
from utils.imaging.read import ImageError

ROOT = Path(__file__).resolve().parents[2]
CASE_SECONDS = 10.0  # of CPU time
STALL_SECONDS = 60.0  # without progress of the child, which is then killed
CASE_BYTES = 2 << 30  # of memory beyond that of the idle process
MAX_MESSAGE = 1000  # characters


@dataclass
class Report:
    """Result of a run.

    Attributes:
        counts: cases by target and outcome ("accepted", "refused").
        failures: `target:number`, and what happened.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    def format(self) -> str:
        """A line for each target, and one for each failure."""
        names = sorted({name for name, _ in self.counts})
        rows = [
            f"{name:<20} {self.counts[name, 'accepted']:>7} accepted {self.counts[name, 'refused']:>7} refused"
            for name in names
        ]
        return "\n".join([*rows, *(f"FAILED {case}: {text}" for case, text in self.failures.items())])


def run(cases: Sequence[tuple[str, int, int]], *, seconds: float = float("inf")) -> Report:
    """Run ranges of cases (target, first, stop) in child processes; a new one follows each that dies or hangs."""
    report, waiting, deadline = Report(), list(cases), time.monotonic() + seconds
    while waiting and time.monotonic() < deadline:
        current = _run_child(waiting, report, deadline)
        if current is None:
            break
        name, number = current
        position = next(i for i, (target, _, stop) in enumerate(waiting) if target == name and number < stop)
        waiting = [(name, number + 1, waiting[position][2]), *waiting[position + 1 :]]
    return report


def _run_child(cases: Sequence[tuple[str, int, int]], report: Report, deadline: float) -> tuple[str, int] | None:
    """Run cases in one child; the case that killed it, or None if it came to the end or to the deadline."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        journal = Path(folder, "journal")
        journal.touch()
        command = [sys.executable, "-m", "tests.fuzz", "--child", json.dumps(cases), folder]
        with open(journal.with_name("errors"), "wb") as errors:
            child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        position, last_progress, current = 0, time.monotonic(), None
        while True:
            ended = child.poll() is not None
            lines = journal.read_bytes()[position:].splitlines(keepends=True)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                position += len(line)
                current = _read_line(json.loads(line), report, current)
                last_progress = time.monotonic()
            if ended:
                break
            now = time.monotonic()
            if now > deadline or now - last_progress > STALL_SECONDS:
                child.kill()
                child.wait()
                if now > deadline:
                    return None
            time.sleep(0.05)
        if current is not None:
            report.failures[f"{current[0]}:{current[1]}"] = f"the process died or hung (status {child.returncode})"
        elif child.returncode:
            raise RuntimeError(f"the fuzzer itself failed: {journal.with_name('errors').read_text()[-2000:]}")
    return current


def _read_line(line: list[object], report: Report, current: tuple[str, int] | None) -> tuple[str, int] | None:
    """Count a line of the journal; the case that is running after it."""
    name, number, outcome, text = str(line[0]), int(str(line[1])), str(line[2]), str(line[3])
    if outcome == "start":
        return name, number
    if outcome == "failed":
        report.failures[f"{name}:{number}"] = text
    else:
        report.counts[name, outcome] += 1
    return None


def run_cases(cases: Sequence[tuple[str, int, int]], folder: Path) -> None:
    """Body of the child: run cases and write a line to `folder/journal` before and after each."""
    from tests.fuzz.targets import TARGETS

    with open(folder / "journal", "a", buffering=1) as journal:
        for name, first, stop in cases:
            work = folder / name
            work.mkdir(exist_ok=True)
            target = TARGETS[name](work)
            for number in range(first, stop):
                journal.write(json.dumps([name, number, "start", ""]) + "\n")
                outcome, text = run_case(target, make_rng(name, number))
                journal.write(json.dumps([name, number, outcome, text]) + "\n")


def run_case(target: object, rng: np.random.Generator) -> tuple[str, str]:
    """Outcome of one case ("accepted", "refused", "failed") and the reason of a failure."""
    start = time.process_time()
    try:
        with _limit_memory():
            target.run(target.mutate(rng))  # type: ignore[attr-defined]
        outcome, text = "accepted", ""
    except (InputError, ImageError) as error:
        outcome, text = "refused", check_message(str(error))
    except Exception as error:  # any other is what this program looks for
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome = "failed"
        text = f"{type(error).__name__}: {str(error)[:200]} ({Path(place.filename).name}:{place.lineno})"
    seconds = time.process_time() - start
    if seconds > CASE_SECONDS:
        outcome, text = "failed", f"{seconds:.1f} s of CPU time"
    return ("failed", text) if text and outcome == "refused" else (outcome, text)


def check_message(text: str) -> str:
    """What is wrong with an error message, or an empty text."""
    if not text.isprintable():
        return f"message with control characters: {text[:200]!r}"
    return f"message of {len(text)} characters: {text[:100]}" if len(text) > MAX_MESSAGE else ""


def make_rng(name: str, number: int) -> np.random.Generator:
    """The generator of a case."""
    return np.random.default_rng([zlib.crc32(name.encode()), number])


class _limit_memory:  # noqa: N801 (used like a function)
    """Limit the address space to what is in use plus CASE_BYTES; a larger allocation raises MemoryError."""

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_AS)
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + CASE_BYTES, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self.before)


def iter_rounds(names: Sequence[str], *, size: int = 50) -> Iterator[list[tuple[str, int, int]]]:
    """Ranges of cases, a round of `size` for each target, without end."""
    first = 0
    while True:
        yield [(name, first, first + size) for name in names]
        first += size
