"""Fuzz the readers of all files: `python -m tests.fuzz --minutes 30`.

    python -m tests.fuzz --minutes 30 --targets images checkpoints
    python -m tests.fuzz --case images:1234      # one case in this process, for a debugger

Every case must end within its limits: the file is accepted, or refused with a one-line InputError or ImageError.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.runner import Report, iter_rounds, make_rng, run, run_cases


def main(argv: Sequence[str] | None = None) -> int:
    """Run the fuzzer; status 1 if a case failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the readers of all files.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to run (default: 1)")
    parser.add_argument("--targets", nargs="+", help="only these (default: all)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default: 0)")
    parser.add_argument("--case", help="run one case, such as images:1234, in this process")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        run_cases(json.loads(options.child[0]), Path(options.child[1]))
        return 0
    if options.case:
        return run_one(options.case)
    return fuzz(options.targets, options.minutes * 60, options.first)


def fuzz(names: Sequence[str] | None, seconds: float, first: int) -> int:
    """Run rounds of cases until the time is over, and print what was found."""
    from tests.fuzz.targets import TARGETS

    total, deadline = Report(), time.monotonic() + seconds
    for cases in iter_rounds(names or list(TARGETS)):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        report = run([(name, first + start, first + stop) for name, start, stop in cases], seconds=left)
        total.counts.update(report.counts)
        total.failures.update(report.failures)
        for case, text in report.failures.items():
            print(f"FAILED {case}: {text}", flush=True)
    print(total.format())
    print(f"{sum(total.counts.values()):,} cases, {len(total.failures)} failures")
    return 1 if total.failures else 0


def run_one(case: str) -> int:
    """Run one case without limits; a traceback shows where it fails."""
    from tests.fuzz.targets import TARGETS

    name, _, number = case.partition(":")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        target = TARGETS[name](Path(folder))
        data = target.mutate(make_rng(name, int(number)))
        print(f"{len(data)} bytes: {data[:200]!r}", file=sys.stderr)
        target.run(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
