"""`--deterministic`: repeatable algorithms, and a word on what has none."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

import torch

from utils.core.logging import LOGGER

WORKSPACE = ":4096:8"  # with it cuBLAS is repeatable, see torch.use_deterministic_algorithms
MARK = "deterministic"  # in every such message of PyTorch


def make_deterministic() -> None:
    """Choose repeatable algorithms everywhere; those that have none run and are told of by `NondeterminismReport`."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACE)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    LOGGER.info(
        "--deterministic: the same command gives the same numbers on this machine with this version of PyTorch and as "
        "many threads (OMP_NUM_THREADS); another processor, GPU, version or number of threads may change last digits"
    )


class NondeterminismReport:
    """Callback that says after the first epoch which operations had no repeatable algorithm."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self._told = False
        self._catcher: Any = None

    def on_train_epoch_start(self, **_: Any) -> None:
        """Listen to PyTorch's warnings; all others are passed on."""
        if self._told:
            return
        self._catcher = warnings.catch_warnings()
        self._catcher.__enter__()
        show = warnings.showwarning

        def keep(message: Any, *details: Any, **more: Any) -> None:
            if MARK in str(message):
                self.found.add(operation_of(str(message)))
            else:
                show(message, *details, **more)

        warnings.showwarning = keep
        warnings.filterwarnings("always", message=f".*{MARK}.*")

    def on_train_epoch_end(self, **_: Any) -> None:
        """Say what was heard."""
        self.teardown()
        if self._told:
            return
        self._told = True
        if self.found:
            LOGGER.warning(f"WARNING --deterministic: not repeatable on this device: {', '.join(sorted(self.found))}")
        else:
            LOGGER.info("--deterministic: every operation of this network has a repeatable algorithm on this device")

    def teardown(self, **_: Any) -> None:
        """Leave the warnings as they were."""
        if self._catcher is not None:
            self._catcher.__exit__(None, None, None)
            self._catcher = None


def operation_of(message: str) -> str:
    """The operation that a warning of PyTorch names, else its first words."""
    named = re.match(r"\s*(\S+) does not have a deterministic", message)
    return named[1] if named else " ".join(message.split()[:12])
