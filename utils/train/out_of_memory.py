"""A run that finds no memory in its first epoch starts anew with half the batch."""

from __future__ import annotations

import gc
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


class EpochCounter:
    """Callback that counts the epochs that ended."""

    def __init__(self) -> None:
        self.ended = 0

    def on_fit_epoch_end(self, **_: Any) -> None:
        self.ended += 1


def fit_within_memory(config: TrainConfig, *listeners: object) -> tuple[Trainer, FitResult]:
    """Build a run and train; where memory runs out in the first epoch, start anew with half the batch.

    The nominal batch stays: twice as many batches make a step. So the run is that of the smaller `--batch-size`.

    Args:
        listeners: callbacks to add.

    Raises:
        InputError: memory ran out later, in a resumed run, with several processes or with a single image.
    """
    while True:
        trainer, counter = build_trainer(config), EpochCounter()
        for listener in (counter, *listeners):
            trainer.callbacks.add(listener)
        try:
            return trainer, trainer.fit()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            config = halved(trainer, first_epoch=counter.ended == 0)
        del trainer  # with its memory; the error and its frames are gone too
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def halved(trainer: Trainer, *, first_epoch: bool) -> TrainConfig:
    """The settings of a run that found no memory with half its batch, for the same folder.

    Raises:
        InputError: it cannot start anew.
    """
    config, size = trainer.config, trainer.config.batch_size
    place = f"out of memory with batches of {size} at {trainer.task.options.data.imgsz} px"
    remedy = "give a smaller --batch-size or --imgsz, or --checkpoint-activations"
    several = distributed.get_world_size() > 1
    if size < 2 or several or config.resume or not first_epoch:
        raise InputError(f"{place}; {remedy}")
    half = size // 2
    LOGGER.warning(
        f"\nWARNING {place}: starting anew with batches of {half}; their gradients are gathered up to "
        f"{trainer.task.hyp.nominal_batch:g} images a step, as before"
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
