"""Retry with half the batch size after running out of memory in the first epoch."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from utils.config.train import TrainConfig
from utils.core import distributed
from utils.core.device import is_out_of_memory
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.train.setup import build_trainer
from utils.train.trainer import FitResult, Trainer


def fit_within_memory(config: TrainConfig, callbacks: Sequence[object] = ()) -> tuple[Trainer, FitResult]:
    """Build a run and train; if memory runs out in the first epoch, restart with half the batch size.

    The nominal batch stays the same: twice as many batches make an optimizer step. The run equals one with the
    smaller `--batch-size`.

    Args:
        callbacks: as for `build_trainer`.

    Raises:
        InputError: memory ran out later, in a resumed run, with several processes or with a single image.
    """
    while True:
        trainer = build_trainer(config, callbacks)
        try:
            return trainer, trainer.fit()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            config = halve_batch_size(trainer)
        del trainer  # frees its memory
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def halve_batch_size(trainer: Trainer) -> TrainConfig:
    """The settings of a run that is out of memory with half its batch size, for the same folder.

    Raises:
        InputError: it cannot restart.
    """
    config, size = trainer.config, trainer.config.batch_size
    place = f"out of memory with batches of {size} at {trainer.task.options.data.imgsz} px"
    remedy = "give a smaller --batch-size or --imgsz, or --checkpoint-activations"
    is_first_epoch = trainer.epoch == trainer.start_epoch
    if size < 2 or distributed.get_world_size() > 1 or config.resume or not is_first_epoch:
        raise InputError(f"{place}; {remedy}")
    half = size // 2
    LOGGER.warning(
        f"\nWARNING {place}: restarting with batches of {half}; gradients are accumulated over "
        f"{trainer.task.hyp.nominal_batch:g} images per step, as before"
    )
    folder = trainer.save_dir
    changes: dict[str, Any] = {
        "batch_size": half,
        "hyp": trainer.task.hyp.to_dict(),  # the nominal batch of a classifier would follow the batch
        "project": str(folder.parent),
        "name": folder.name,
        "exist_ok": True,
    }
    return replace(config, **changes, explicit=config.explicit | changes.keys())
