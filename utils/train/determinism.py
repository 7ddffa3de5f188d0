"""Deterministic algorithms (`--deterministic`), and a report of operations without one."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

import torch

from utils.core.logging import LOGGER

WORKSPACE = ":4096:8"  # makes cuBLAS deterministic, see torch.use_deterministic_algorithms
MARK = "deterministic"  # in every such message of PyTorch


def make_deterministic() -> None:
    """Use deterministic algorithms; operations without one still run, see `NondeterminismReport`."""
    use_deterministic_algorithms()
    LOGGER.info(
        "--deterministic: results repeat on this machine with this version of PyTorch and this number of threads "
        "(OMP_NUM_THREADS); others may change the last digits"
    )


def use_deterministic_algorithms() -> None:
    """As `make_deterministic`, without a message."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACE)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


class NondeterminismReport:
    """Callback that reports, after the first epoch, operations without a deterministic algorithm."""

    def __init__(self) -> None:
        self.operations: set[str] = set()
        self._is_done = False
        self._context: Any = None

    def on_train_epoch_start(self, **_: Any) -> None:
        """Collect PyTorch's warnings; others are shown as usual."""
        if self._is_done:
            return
        self._context = warnings.catch_warnings()
        self._context.__enter__()
        show = warnings.showwarning

        def collect(message: Any, *details: Any, **more: Any) -> None:
            if MARK in str(message):
                self.operations.add(parse_operation(str(message)))
            else:
                show(message, *details, **more)

        warnings.showwarning = collect
        warnings.filterwarnings("always", message=f".*{MARK}.*")

    def on_train_epoch_end(self, **_: Any) -> None:
        """Log the report."""
        self.teardown()
        if self._is_done:
            return
        self._is_done = True
        if self.operations:
            LOGGER.warning(
                f"WARNING --deterministic: not deterministic on this device: {', '.join(sorted(self.operations))}"
            )
        else:
            LOGGER.info("--deterministic: all operations of this network are deterministic on this device")

    def teardown(self, **_: Any) -> None:
        """Restore the handling of warnings."""
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None


def parse_operation(message: str) -> str:
    """The operation named in a warning of PyTorch, else its first words."""
    match = re.match(r"\s*(\S+) does not have a deterministic", message)
    return match[1] if match else " ".join(message.split()[:12])
