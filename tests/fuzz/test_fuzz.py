"""A short deterministic run of the fuzzer; `python -m tests.fuzz --minutes 30` is the long one."""

from __future__ import annotations

from pathlib import Path
from time import process_time
from typing import Any

import pytest

from tests.fuzz import runner
from tests.fuzz.runner import check_message, make_rng, run_case
from tests.fuzz.targets import TARGETS, TextTarget
from utils.core.errors import InputError

CASES = 40  # of each target


def test_every_case_is_accepted_or_refused_within_its_limits() -> None:
    report = runner.run([(name, 0, CASES) for name in TARGETS])
    assert not report.failures, report.format()
    assert sum(report.counts.values()) == CASES * len(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_accepted(name: str, tmp_path: Path) -> None:
    target = TARGETS[name](tmp_path)
    seeds = target.list_seeds()
    for seed in seeds:
        target.run(seed)
    assert sum(target.mutate(make_rng(name, number)) not in seeds for number in range(10)) > 5


class Faulty(TextTarget):
    """A reader with the fault that a test asks for."""

    name = "a.txt"
    seeds = ("a",)
    fault: Any = None

    def read(self, path: Path) -> None:
        self.fault()


def test_faults_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(message: str) -> None:
        raise InputError(message)

    def fill_memory() -> None:
        bytearray(8 << 30)

    def be_slow() -> None:
        start = process_time()
        while process_time() - start < 0.2:
            pass

    monkeypatch.setattr(runner, "CASE_SECONDS", 0.1)
    faults: list[tuple[Any, str, str]] = [
        (lambda: None, "accepted", ""),
        (lambda: refuse("a.txt: no"), "refused", ""),
        (lambda: 1 / 0, "failed", "ZeroDivisionError: division by zero"),
        (fill_memory, "failed", "MemoryError"),
        (be_slow, "failed", "s of CPU time"),
    ]
    for fault, outcome, text in faults:
        target = Faulty(tmp_path)
        target.fault = fault
        result = run_case(target, make_rng("faulty", 0))
        assert (result[0], text in result[1]) == (outcome, True), result
    assert check_message("a\nb").startswith("message with control characters")
    assert check_message("a" * 2000).startswith("message of 2000 characters")


def test_a_case_is_determined_by_its_number(tmp_path: Path) -> None:
    first, second = (TARGETS["labels"](tmp_path) for _ in range(2))
    for number in range(20):
        assert first.mutate(make_rng("labels", number)) == second.mutate(make_rng("labels", number))
