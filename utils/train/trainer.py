"""The training loop: epochs, accumulation, mixed precision, EMA, checkpoints; the task supplies everything else."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from models.checkpoint import save_checkpoint
from models.yolo import BaseModel
from utils.config.base import TrainConfig
from utils.core import distributed
from utils.core.device import memory_in_use, out_of_memory
from utils.core.errors import WORKER_DIED, InputError
from utils.core.logging import LOGGER, WATCHED, hidden_bar
from utils.core.types import Batch
from utils.evaluate.validator import ValidationResult, validate
from utils.losses.meter import LossMeter
from utils.tasks.base import Task, image_file, images_to_device
from utils.train.amp import checked_amp, setting_of, wanted_dtype
from utils.train.callbacks import Callbacks, CallbackSink
from utils.train.early_stopping import EarlyStopping
from utils.train.ema import ModelEMA
from utils.train.multi_scale import grid_of, rescaled, scaled_side
from utils.train.optim import Schedule, build_optimizer
from utils.train.stop_request import StopRequest

CUDA_SYNC_INTERVAL = 10  # steps between looks at the loss on a GPU; each look waits for the device


@dataclass
class FitResult:
    """Where a finished run left its files and how good its best epoch was."""

    save_dir: Path
    last: Path
    best: Path | None
    epochs: int
    metrics: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Fits a model to a task's data.

    Args:
        task: data, losses and metrics.
        model: the network on its device, prepared by the task.
        config: checked settings of train.py.
        save_dir: run folder; checkpoints go to `weights/` inside.
        callbacks: loggers and other listeners.
        state: content of a last.pt to go on from, or None.
    """

    def __init__(
        self,
        task: Task,
        model: BaseModel,
        config: TrainConfig,
        *,
        device: torch.device,
        save_dir: Path,
        callbacks: Callbacks,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.task, self.config, self.device, self.callbacks = task, config, device, callbacks
        self.save_dir, self.weights_dir = save_dir, save_dir / "weights"
        self.best = self.weights_dir / "best.pt"
        self.model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = next(self.model.parameters()).dtype
        with distributed.first_on_each_machine():
            self.loader = task.train_loader()
            self.val_loader = task.eval_loader("val", batch_size=2 * config.batch_size)  # there is room: no gradients
        self.schedule = Schedule(
            task.hyp,
            config.epochs,
            len(self.loader),
            config.batch_size,
            config.cos_lr,
            floor=task.traits.floor_accumulation,
        )
        decay = task.hyp.weight_decay * self.schedule.decay_scale
        hyp = task.hyp
        self.optimizer = build_optimizer(
            self.model, config.optimizer, lr=hyp.lr0, momentum=hyp.momentum, weight_decay=decay
        )
        self.ema = ModelEMA(self.model)
        self.stopping = EarlyStopping(config.patience)
        self.stop = StopRequest(save_dir)
        wanted = wanted_dtype(config.amp, device, (state or {}).get("amp"))
        self.amp = checked_amp(self.model, wanted, device, agree=task.outputs_agree)
        if distributed.any_process(self.amp is None):
            self.amp = None
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp is torch.float16)
        self.start_epoch, self.fresh = 0, state is None
        self.position: dict[str, Any] | None = None  # in the first epoch to train, if it was left in the middle
        self.image_weights: np.ndarray | None = None
        if config.image_weights:  # nothing is known of the classes yet but how rare they are
            self.image_weights = task.image_weights(np.zeros(len(task.class_names)))
        if state is not None:
            self._restore(state)

    # -- a run ----------------------------------------------------------------------------------------------------

    def fit(self) -> FitResult:
        """Train to the last epoch, until patience runs out or the end is asked for.

        Whatever else ends it (Ctrl-C, an error) leaves last.pt of the epoch before.

        Raises:
            StoppedError: SIGTERM was received.
        """
        last = self.weights_dir / "last.pt"
        self.callbacks.run("on_train_start")
        self._warn_of_warmup()
        if self.fresh and distributed.is_main():
            self.best.unlink(missing_ok=True)  # with --exist-ok the folder may hold that of another run
            if not self.config.nosave:
                self._save(last, epoch=-1)
        started = time.time()
        with self.stop:
            try:
                epoch = self._run_epochs()
            except BaseException as error:
                if not self.config.nosave and not out_of_memory(error):
                    LOGGER.warning(f"\nNot finished; go on with: python train.py --resume {shlex.quote(str(last))}")
                self.callbacks.run("teardown")
                raise
        distributed.barrier()  # the files are written
        minutes = (time.time() - started) / 60
        took = f"{minutes:.1f} minutes" if minutes < 60 else f"{minutes / 60:.2f} hours"
        LOGGER.info(f"\n{epoch + 1 - self.start_epoch} epochs done in {took}")
        return FitResult(self.save_dir, last, self.best if self.best.exists() else None, epoch + 1)

    def _run_epochs(self) -> int:
        """All epochs still to do; returns the last one done."""
        config = self.config
        LOGGER.info(
            f"Images of {self.task.options.imgsz} px, {len(self.loader)} batches of {config.batch_size} an epoch\n"
            f"Results go to {self.save_dir}\nTraining for {config.epochs} epochs..."
        )
        epoch = self.start_epoch - 1
        for epoch in range(self.start_epoch, config.epochs):
            final = epoch + 1 == config.epochs
            losses = self._train_epoch(epoch)
            result = self._validate() if final or not config.noval else None
            metrics = self._log_epoch(epoch, losses, result)
            is_best = result is not None and self.stopping.update(epoch, result.evaluation.fitness)
            stop = distributed.any_process(self.stopping.should_stop(epoch) and not config.noval)
            asked = distributed.any_process(self.stop.after_epoch())
            if not config.nosave or final or stop or asked:
                self._save_epoch(epoch, is_best=is_best, metrics=metrics)
            if asked:
                break
            if stop:
                LOGGER.info(
                    f"No gain for {config.patience} epochs: stopped after epoch {epoch}, "
                    f"the best was {self.stopping.best_epoch}; --patience sets how long to wait"
                )
                break
        return epoch

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training set; mean loss items by name."""
        self.model.train()
        meter, first = LossMeter(self.task.loss_names), 0
        if self.position is not None:
            first = int(self.position["batches"])
            meter.load_state(self.position["meter"])
            self.position = None
        self.loader.set_epoch(epoch, self.image_weights, first)
        self.callbacks.run("on_train_epoch_start", epoch=epoch)
        interval = CUDA_SYNC_INTERVAL if self.device.type == "cuda" else 1
        self.optimizer.zero_grad()
        images = self.task.traits.train_images
        waiting, steps, means = 0, 0, {}
        with self._progress_bar(first) as bar:
            for number, batches in enumerate(self.loader, first):
                iteration = epoch * len(self.loader) + number
                final = number + 1 == len(self.loader)
                self.callbacks.run("on_train_batch_start", epoch=epoch, iteration=iteration)
                self.schedule.apply(self.optimizer, iteration)
                self._seed(iteration)
                size = self._backward(batches, iteration, meter)
                waiting += 1
                if waiting >= self.schedule.accumulate(iteration) or final:
                    self._step()
                    waiting, steps = 0, steps + 1
                    if self._is_due(steps) and not final:
                        self._save_within(epoch, number + 1, meter)
                    self.stop.check()
                if final or number % interval == 0:
                    means = meter.read()
                    self._show(bar, epoch, means, batches, size)
                bar.update()
                if iteration < len(images) and distributed.is_main() and not self.config.noplots:
                    for batch in batches:
                        self.task.plot_batch(batch, self.save_dir / image_file(images[iteration], batch))
                self.callbacks.run("on_train_batch_end", epoch=epoch, iteration=iteration)
        self.callbacks.run("on_train_epoch_end", epoch=epoch)
        return means

    def _seed(self, iteration: int) -> None:
        """Have torch draw what it would have drawn if the run had not been resumed; each process something else."""
        torch.manual_seed(self.config.seed * 100003 + iteration + (distributed.rank() << 40))

    def _backward(self, batches: list[Batch], iteration: int, meter: LossMeter) -> int:
        """Forward and backward of a step's batches; returns the side of the images that went through last."""
        items: dict[str, Tensor] = {}
        for batch in batches:
            on_device = batch.to(self.device, non_blocking=True)
            images = images_to_device(on_device.images, self.device, self.dtype, pixels=self.task.traits.pixels)
            if self.config.multi_scale:
                images = self._rescale(images, iteration)
            with self._precision(), distributed.one_batch():
                result = self.task.losses(self.model(images), on_device)
            assert result is not None, "a model in training gives raw maps"
            total = result.total * 4 if self.config.quad else result.total
            self.scaler.scale(total).backward()
            items |= result.items
        meter.add(items, [path for batch in batches for path in batch.paths])
        return images.shape[-1]

    def _step(self) -> None:
        """Optimizer step over the gradients gathered so far, in all processes."""
        distributed.sum_gradients(self.model.parameters())
        self.scaler.unscale_(self.optimizer)
        if self.config.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.callbacks.run("optimizer_step", optimizer=self.optimizer)
        self.callbacks.run("on_before_zero_grad", model=self.model)
        self.optimizer.zero_grad()
        self.ema.update(self.model)

    def _warn_of_warmup(self) -> None:
        """Say where a run is nearly all warm-up, as on a small set with a recipe for large ones."""
        length, total = self.schedule.warmup_iterations, self.config.epochs * len(self.loader)
        if self.fresh and 2 * length > total and self.task.traits.hyp_defaults:
            LOGGER.warning(
                f"WARNING the warm-up lasts {length} iterations, the whole run {total}: set warmup_iterations (and "
                "nominal_batch) in the hyp file, as data/hyps/hyp.joint-small.yaml does"
            )

    def _rescale(self, images: Tensor, iteration: int) -> Tensor:
        """The batch at the side that is drawn for an iteration."""
        grid = grid_of(self.model.stride)
        return rescaled(images, scaled_side(self.config.seed, iteration, self.task.options.imgsz, grid), grid)

    def _precision(self) -> Any:
        """Autocast where mixed precision is on, see `wanted_dtype`."""
        return torch.autocast(self.device.type, dtype=self.amp) if self.amp else nullcontext()

    # -- what is measured and kept ------------------------------------------------------------------------------------

    def _validate(self) -> ValidationResult:
        """Measure the EMA model on the validation split."""
        distributed.copy_from_main_(self.ema.model.buffers())  # batch norms have seen other images in each process
        self.callbacks.run("on_val_start")
        result = validate(
            self.task,
            self.ema.model,
            self.val_loader,
            device=self.device,
            autocast=self.amp,
            sinks=[CallbackSink(self.callbacks)],
            before_batch=self._before_val_batch,
            progress="validating",
        )
        LOGGER.info(result.evaluation.table, extra=WATCHED)
        if self.config.image_weights:
            self.image_weights = self.task.image_weights(result.evaluation.per_class)
        self.callbacks.run("on_val_end", result=result)
        return result

    def _before_val_batch(self) -> None:
        self.stop.check()
        self.callbacks.run("on_val_batch_start")

    def _log_epoch(self, epoch: int, losses: dict[str, float], result: ValidationResult | None) -> dict[str, float]:
        """Hand an epoch's numbers to the loggers, in the order of results.csv."""
        measured = ({}, {}) if result is None else (result.evaluation.metrics, result.losses)
        metrics = self.task.results_row(losses, *measured)
        traits, groups = self.task.traits, self.optimizer.param_groups
        rates = groups if traits.all_rates else groups[:1]
        metrics |= {f"{traits.rate_name}{i}": group["lr"] for i, group in enumerate(rates)}
        self.callbacks.run("on_fit_epoch_end", epoch=epoch, metrics=metrics)
        return metrics

    def _save_epoch(self, epoch: int, *, is_best: bool, metrics: dict[str, float]) -> None:
        """Write best.pt and epochN.pt where they are due, and last.pt.

        last.pt comes last: a run killed in between does the epoch again, and no best.pt is missed.
        """
        period = self.config.save_period
        if is_best:
            self._save(self.best, epoch=epoch, metrics=metrics)
        if period > 0 and (epoch + 1) % period == 0:
            self._save(self.weights_dir / f"epoch{epoch}.pt", epoch=epoch, metrics=metrics)
        self._save(self.weights_dir / "last.pt", epoch=epoch, metrics=metrics)
        self.callbacks.run("on_model_save", epoch=epoch)

    def _is_due(self, steps: int) -> bool:
        """Whether last.pt is to be written after so many optimizer steps of an epoch: each so many, or for a SIGTERM.

        Several processes hear that at different steps, so they have no common one to write.
        """
        period = self.config.save_every_steps
        regular = period > 0 and steps % period == 0
        return (regular or (self.stop.terminated and distributed.world_size() == 1)) and not self.config.nosave

    def _save_within(self, epoch: int, batches: int, meter: LossMeter) -> None:
        """Write last.pt in the middle of an epoch, after so many batches, where no gradient is waiting."""
        meter.read()  # a loss that is not finite is told before it is kept
        self._save(self.weights_dir / "last.pt", epoch=epoch - 1, position={"batches": batches, "meter": meter.state()})

    def _save(
        self,
        path: Path,
        *,
        epoch: int,
        metrics: dict[str, float] | None = None,
        position: dict[str, Any] | None = None,
    ) -> None:
        """Write all that an exact resume needs; `epoch` is the last finished one, -1 before the first.

        Args:
            position: how far the next epoch is, see models/checkpoint.py.
        """
        if not distributed.is_main():
            return
        try:
            save_checkpoint(path, {**self._content(epoch, metrics or {}), "position": position})
        except InputError as error:
            # torch reports what a signal raised while it writes, a Ctrl-C or the end of a loader, as a failed write
            signalled = None if error.__cause__ is None else error.__cause__.__context__
            if isinstance(signalled, KeyboardInterrupt) or str(signalled).startswith(WORKER_DIED):
                assert signalled is not None
                raise signalled from error
            raise

    def _content(self, epoch: int, metrics: dict[str, float]) -> dict[str, Any]:
        """What a checkpoint of this moment holds."""
        return {
            "task": self.task.name,
            "yaml": self.model.yaml,
            "names": dict(self.task.class_names),
            "semantic": None if self.task.semantic is None else self.task.semantic.to_dict(),
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "ema_updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "amp": setting_of(self.amp),
            "epoch": epoch,
            "best_fitness": self.stopping.best_fitness,
            "early_stop": self.stopping.state_dict(),
            "task_state": self.task.state_dict(),
            "image_weights": None if self.image_weights is None else torch.from_numpy(self.image_weights),
            "metrics": metrics,
            "hyp": self.task.hyp.to_dict(),
            "opt": self.config.to_dict(),
            "date": datetime.now().isoformat(timespec="seconds"),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        """Go on from the content of a last.pt."""
        self.model.load_state_dict(state["model"])
        self.ema.model.load_state_dict(state["ema"])
        self.ema.updates = int(state["ema_updates"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.stopping.load_state_dict(state["early_stop"])
        self.task.load_state_dict(state["task_state"])
        weights = state["image_weights"]
        self.image_weights = self.image_weights if weights is None else weights.numpy()
        self.position = state.get("position")
        self.start_epoch = int(state["epoch"]) + 1

    # -- what the user sees ---------------------------------------------------------------------------------------

    def _progress_bar(self, first: int) -> tqdm:
        """A bar for the epoch, of which `first` batches are done, under a line of column names."""
        columns = ("Epoch", "Memory", *self.task.loss_names, "Instances", "Size")
        LOGGER.info("\n" + "".join(f"{column:>11}" for column in columns), extra=WATCHED)
        hidden = hidden_bar(distributed.is_main())
        total = len(self.loader)
        return tqdm(total=total, initial=first, disable=hidden, bar_format="{l_bar}{bar:10}{r_bar}", dynamic_ncols=True)

    def _show(self, bar: tqdm, epoch: int, means: dict[str, float], batches: list[Batch], size: int) -> None:
        """Put the current numbers before the bar."""
        memory = memory_in_use(self.device)
        numbers: Iterator[str] = (f"{value:11.4g}" for value in means.values())
        instances = sum(batch.num_instances for batch in batches)
        counter = f"{epoch}/{self.config.epochs - 1}"
        bar.set_description(f"{counter:>11}{memory:>11}{''.join(numbers)}{instances:>11}{size:>11}", refresh=False)
