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


def is_same(own: Any, other: Any) -> bool:
    """Whether two values of checkpoints agree bit for bit."""
    if isinstance(own, torch.Tensor):
        return torch.equal(own, other)
    if isinstance(own, dict):
        return own.keys() == other.keys() and all(is_same(own[key], other[key]) for key in own)
    if isinstance(own, list):
        return len(own) == len(other) and all(map(is_same, own, other))
    return bool(own == other)


def assert_same_run(folder: Path, other: Path) -> None:
    """Check that results.csv and last.pt of two run folders agree bit for bit."""
    assert (folder / "results.csv").read_text() == (other / "results.csv").read_text()
    first, second = (load_training_state(run / "weights/last.pt") for run in (folder, other))
    for part in ("model", "ema", "optimizer", "ema_updates", "epoch", "early_stop", "position"):
        assert is_same(first[part], second[part]), part


def fill_disk(disk: Path) -> None:
    """Use all free space."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
