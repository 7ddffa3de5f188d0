"""train.py in a process that kills itself: `killed_training.py MOMENT FLAGS...`.

Moments are the calls of callbacks, and those before and after each rename of a written file. With moment -1 nothing is
killed, and their number is printed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

import train  # noqa: E402
from utils.core import files  # noqa: E402
from utils.core.script import run_script  # noqa: E402
from utils.train.callbacks import Callbacks  # noqa: E402


def install(victim: int) -> list[str]:
    """Count moments from now on, and die at number `victim`; their names."""
    moments: list[str] = []
    flush, run = files._flush, Callbacks.run

    def pass_moment(name: str) -> None:
        if len(moments) == victim:
            print(f"killed at {name}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        moments.append(name)

    def flush_counted(path: Path) -> None:
        pass_moment(f"{'before' if path.suffix == '.tmp' else 'after'} a rename")
        flush(path)

    def run_counted(self: Callbacks, hook: str, **details: Any) -> None:
        pass_moment(hook)
        run(self, hook, **details)

    files._flush, Callbacks.run = flush_counted, run_counted  # type: ignore[method-assign]
    return moments


if __name__ == "__main__":
    passed = install(int(sys.argv.pop(1)))
    try:
        run_script(train.main)
    finally:
        print(f"{len(passed)} moments", file=sys.stderr)
