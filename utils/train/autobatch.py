"""`--batch-size -1`: the largest batch whose training steps fit into free memory."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np
import torch

from models.yolo import BaseModel
from utils.config.train import TrainConfig
from utils.core import distributed
from utils.core.device import is_out_of_memory
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.types import Batch
from utils.datasets.step_loader import StepLoader
from utils.tasks.base import Task
from utils.train.callbacks import Callbacks
from utils.train.multi_scale import get_largest_imgsz
from utils.train.trainer import Trainer

SHARE = 0.85  # of the free memory that a step may take
LARGEST = 1024
STEPS = 2  # measured: the second one has the optimizer's state beside the activations

Build = Callable[[int, int], tuple[Task, BaseModel]]  # (batch size, image size) -> bound task, network on the device


def find_batch_size(config: TrainConfig, build: Build, *, imgsz: int, stride: int, device: torch.device) -> int:
    """The batch size of `--batch-size -1`.

    On CUDA the largest whose steps (forward, backward, optimizer, EMA) stay below 0.85 of the free memory, elsewhere
    the default of the command.

    Args:
        build: makes what is measured.
        imgsz, stride: of the network, pixels.

    Raises:
        InputError: not even one image fits, or there are several processes.
    """
    if distributed.get_world_size() > 1:
        raise InputError("--batch-size -1: measures one process; give a number for several")
    default = int(type(config)().batch_size)
    if device.type != "cuda":
        LOGGER.info(
            f"--batch-size -1: memory is measured on CUDA only; batches of {default} on this {device.type.upper()}"
        )
        return default
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    limit = f"{SHARE:.0%} of the {free / 2**30:.1f} GiB of free memory"
    num_images = max(len(build(1, imgsz)[0].build_train_loader()), 1)
    size = get_largest_imgsz(imgsz, stride) if config.multi_scale else imgsz

    def measure(batch_size: int) -> int | None:
        return measure_memory(replace(config, batch_size=batch_size, multi_scale=False), build, size, device)

    batch_size = search_batch_size(measure, SHARE * free, most=min(LARGEST, 1 << (num_images - 1).bit_length()))
    if not batch_size:
        raise InputError(
            f"--batch-size -1: one image of {imgsz} px needs more than {limit}; lower --imgsz, or give "
            "--checkpoint-activations"
        )
    LOGGER.info(f"--batch-size -1: batches of {batch_size} take at most {limit}")
    return batch_size


def search_batch_size(measure: Callable[[int], int | None], limit: float, *, most: int = LARGEST) -> int:
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
            batch, guessed = _extrapolate(known[-2:], limit), True
        else:
            batch = (fits + too_large) // 2
        batch = min(max(batch, fits + 1), too_large - 1)
    return fits


def _extrapolate(points: list[tuple[int, int]], limit: float) -> int:
    """Batch at which the line through two measurements reaches the limit."""
    (a, bytes_a), (b, bytes_b) = points
    return a + math.floor((limit - bytes_a) * (b - a) / max(bytes_b - bytes_a, 1))


def measure_memory(config: TrainConfig, build: Build, imgsz: int, device: torch.device) -> int | None:
    """Bytes that PyTorch reserves at the peak of the first training steps, None if they do not fit; CUDA only."""
    return measure_peak(lambda: run_steps(config, *build(config.batch_size, imgsz), device), device)


def measure_peak(run: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that PyTorch reserves at the peak of a call, None if they do not fit; CUDA only."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        run()
        return int(torch.cuda.max_memory_reserved(device))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def run_steps(config: TrainConfig, task: Task, model: BaseModel, device: torch.device) -> None:
    """Train a network for a few steps; nothing is written."""
    trainer = Trainer(task, model, config, device=device, save_dir=Path(), callbacks=Callbacks())
    trainer.loader = RepeatedStep(trainer.loader, STEPS)
    trainer._train_epoch(0)


@dataclass
class RepeatedStep:
    """A `StepLoader` that repeats the first step of another."""

    loader: StepLoader
    steps: int

    def set_epoch(self, epoch: int, image_weights: np.ndarray | None = None, first: int = 0) -> None:
        self.loader.set_epoch(epoch, image_weights, first)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Batch]]:
        return repeat(next(iter(self.loader)), self.steps)
