"""`--batch-size -1`: the largest batch whose steps fit into the memory that is free."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch

from models.yolo import BaseModel
from utils.config.base import TrainConfig
from utils.core import distributed
from utils.core.device import out_of_memory
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.losses.meter import LossMeter
from utils.tasks.base import Task
from utils.train.callbacks import Callbacks
from utils.train.multi_scale import largest_scale
from utils.train.trainer import Trainer

SHARE = 0.85  # of the free memory that a step may take
LARGEST = 1024
STEPS = 2  # measured ones: the second has the optimizer's state beside the activations


def automatic_batch(config: TrainConfig, task: Task, model: BaseModel, device: torch.device) -> int:
    """The batch that `--batch-size -1` stands for; the task is left as it was.

    On CUDA the largest whose steps (forward, backward, optimizer, EMA) stay below 0.85 of the free memory, elsewhere
    the default of the command.

    Raises:
        InputError: not even one image fits, or there are several processes.
    """
    if distributed.world_size() > 1:
        raise InputError("--batch-size -1: measures one process; give a number for several")
    default = int(type(config)().batch_size)
    if device.type != "cuda":
        LOGGER.info(
            f"--batch-size -1: memory is measured on CUDA only; batches of {default} on this {device.type.upper()}"
        )
        return default
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    room = f"{SHARE:.0%} of the {free / 2**30:.1f} GiB that are free"
    options, state = task.options, deepcopy(task.state_dict())
    most = min(LARGEST, 1 << (images_of(task) - 1).bit_length())

    def measure(batch: int) -> int | None:
        return memory_of_step(replace(config, batch_size=batch), task, model, device)

    try:
        found = largest_batch(measure, SHARE * free, most=most)
    finally:
        task.options = options
        task.load_state_dict(state)
    if not found:
        raise InputError(
            f"--batch-size -1: one image of {options.imgsz} px needs more than {room}; lower --imgsz, or give "
            "--checkpoint-activations"
        )
    LOGGER.info(
        f"--batch-size -1: batches of {found} take at most {SHARE:.0%} of the {free / 2**30:.1f} GiB that are free"
    )
    return found


def images_of(task: Task) -> int:
    """Images in the training split: a larger batch makes no sense."""
    task.options = replace(task.options, batch_size=1, workers=0, cache=None)
    return max(len(task.train_loader()), 1)


def largest_batch(measure: Callable[[int], int | None], limit: float, *, most: int = LARGEST) -> int:
    """The largest batch in 1..`most` for which `measure` gives at most `limit`; 0 where there is none.

    Doubles until one is too large, then looks where a line through the two largest measured ones meets the limit,
    and halves what is left in between.

    Args:
        measure: bytes of a batch, growing with it; None where memory ran out.
    """
    known: list[tuple[int, int]] = []
    fits, too_large, batch, guessed = 0, most + 1, 1, False
    while fits + 1 < too_large:
        used = measure(batch)
        if used is not None:
            known.append((batch, used))
        if used is None or used > limit:
            too_large = batch
        else:
            fits = batch
        if too_large > most:
            batch = min(2 * fits, most)
        elif not guessed and len(known) > 1:
            batch, guessed = _on_the_line(known[-2:], limit), True
        else:
            batch = (fits + too_large) // 2
        batch = min(max(batch, fits + 1), too_large - 1)
    return fits


def _on_the_line(points: list[tuple[int, int]], limit: float) -> int:
    """Batch at which the line through two measurements reaches the limit."""
    (a, bytes_a), (b, bytes_b) = points
    return a + math.floor((limit - bytes_a) * (b - a) / max(bytes_b - bytes_a, 1))


def memory_of_step(config: TrainConfig, task: Task, model: BaseModel, device: torch.device) -> int | None:
    """Bytes that PyTorch holds at the peak of a training's first steps, None where they do not fit; CUDA only."""
    task.options = replace(task.options, batch_size=config.batch_size, workers=0, cache=None)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        take_steps(config, task, model, device)
        return int(torch.cuda.max_memory_reserved(device))
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return None
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def take_steps(config: TrainConfig, task: Task, model: BaseModel, device: torch.device) -> None:
    """A few steps of a training on a copy of the network, at the largest of its image sizes; nothing is written."""
    trainer = Trainer(task, deepcopy(model), config, device=device, save_dir=Path(), callbacks=Callbacks())
    trainer.model.train()
    trainer.optimizer.zero_grad()
    batches = next(iter(trainer.loader))
    iteration = largest_scale(config.seed, task.options.imgsz, model) if config.multi_scale else 0
    meter = LossMeter(task.loss_names)
    for _ in range(STEPS):
        trainer._backward(batches, iteration, meter)
        trainer._step()
