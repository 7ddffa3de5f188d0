"""Callbacks of every training run: progress bar, plots of the first batches, checkpoints within an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from utils.core import distributed
from utils.core.device import format_memory_usage
from utils.core.logging import LOGGER, TERMINAL_ONLY, get_tqdm_disable
from utils.core.types import Batch
from utils.losses.meter import LossMeter
from utils.plots.batches import get_batch_file

if TYPE_CHECKING:
    from utils.train.trainer import Trainer

CUDA_SYNC_INTERVAL = 10  # steps between readings of the loss on a GPU; each waits for the device


class Monitor:
    """A callback that knows the trainer from the end of the set-up on."""

    trainer: Trainer

    def on_pretrain_routine_end(self, *, trainer: Trainer, **_: Any) -> None:
        self.trainer = trainer


class ProgressBar(Monitor):
    """Reads the losses, and shows them on the terminal; every rank needs one, as the losses are those of all."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def on_train_epoch_start(self, *, first: int, **_: Any) -> None:
        """Print the column names and start a bar of which `first` batches are done."""
        columns = ("Epoch", "Memory", *self.trainer.task.loss_names, "Instances", "Size")
        LOGGER.info("\n" + "".join(f"{column:>11}" for column in columns), extra=TERMINAL_ONLY)
        self._bar = tqdm(
            total=len(self.trainer.loader),
            initial=first,
            disable=get_tqdm_disable(distributed.is_main_process()),
            bar_format="{l_bar}{bar:10}{r_bar}",
            dynamic_ncols=True,
        )

    def on_train_batch_end(
        self, *, epoch: int, number: int, batches: list[Batch], meter: LossMeter, imgsz: int, **_: Any
    ) -> None:
        """Show the current numbers."""
        assert self._bar is not None
        interval = CUDA_SYNC_INTERVAL if self.trainer.device.type == "cuda" else 1
        if number % interval == 0 or number + 1 == len(self.trainer.loader):
            losses: Iterator[str] = (f"{value:11.4g}" for value in meter.read().values())
            memory = format_memory_usage(self.trainer.device)
            instances = sum(batch.num_instances for batch in batches)
            counter = f"{epoch}/{self.trainer.config.epochs - 1}"
            text = f"{counter:>11}{memory:>11}{''.join(losses)}{instances:>11}{imgsz:>11}"
            self._bar.set_description(text, refresh=False)
        self._bar.update()

    def on_train_epoch_end(self, **_: Any) -> None:
        """Close the bar."""
        self._close()

    def teardown(self, **_: Any) -> None:
        """Close the bar of an epoch that was interrupted."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class BatchPlotter(Monitor):
    """Plots the first training batches with their labels."""

    def on_train_batch_end(self, *, iteration: int, batches: list[Batch], **_: Any) -> None:
        """Plot the batches of the first iterations."""
        task = self.trainer.task
        if iteration < len(task.train_plots):
            for batch in batches:
                task.plot_batch(batch, self.trainer.save_dir / get_batch_file(task.train_plots[iteration], batch))


class StepCheckpointer(Monitor):
    """Writes last.pt within an epoch: every so many optimizer steps, and on SIGTERM.

    Ranks receive SIGTERM at different steps and so have no common one to write; several write at the period only.

    Args:
        period: optimizer steps; 0 for SIGTERM alone.
    """

    def __init__(self, period: int) -> None:
        self.period, self._steps = period, 0

    def on_train_epoch_start(self, **_: Any) -> None:
        """Count the steps of an epoch."""
        self._steps = 0

    def on_optimizer_step_end(self, *, epoch: int, number: int, meter: LossMeter, **_: Any) -> None:
        """Write last.pt if it is due; at the end of an epoch the trainer does so."""
        self._steps += 1
        trainer = self.trainer
        terminated = trainer.stop.terminated and distributed.get_world_size() == 1
        is_due = terminated or (self.period > 0 and self._steps % self.period == 0)
        if is_due and number + 1 < len(trainer.loader):
            meter.read()  # fails on a loss that is not finite, before it is saved
            trainer.save_position(epoch, {"batches": number + 1, "meter": meter.state()})


class StopChecker(Monitor):
    """Ends the run on SIGTERM, after an optimizer step or before a validation batch."""

    def on_optimizer_step_end(self, **_: Any) -> None:
        """Raise StoppedError if SIGTERM was received."""
        self.trainer.stop.check()

    def on_val_batch_start(self, **_: Any) -> None:
        """Raise StoppedError if SIGTERM was received."""
        self.trainer.stop.check()
