"""Interrupted training runs, and the comparison of a resumed run with an uninterrupted one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from models.checkpoint import load_training_state
from utils.train.trainer import Trainer


def stop_after_first_epoch(run: Callable[..., Any], **options: Any) -> None:
    """Call `run(**options)` and interrupt it (Ctrl-C) after the first epoch is saved."""
    save_epoch = Trainer._save_epoch

    def save_and_stop(self: Trainer, epoch: int, **more: Any) -> None:
        save_epoch(self, epoch, **more)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_save_epoch", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run(**options)


def assert_same_run(folder: Path, other: Path) -> None:
    """Check that results.csv and last.pt of two run folders agree bit for bit."""
    assert (folder / "results.csv").read_text() == (other / "results.csv").read_text()
    first, second = (load_training_state(run / "weights/last.pt") for run in (folder, other))
    for part in ("model", "ema"):
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items())
