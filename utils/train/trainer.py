"""The training loop; the task supplies data, losses and metrics, callbacks everything else."""

from __future__ import annotations

import shlex
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.checkpoint import save_checkpoint
from models.yolo import BaseModel
from utils.config.train import TrainConfig
from utils.core import distributed
from utils.core.device import is_out_of_memory
from utils.core.errors import InputError
from utils.core.logging import LOGGER, TERMINAL_ONLY, open_run_log
from utils.core.signals import defer_signals
from utils.core.types import Batch
from utils.evaluate.validator import ValidationResult, validate
from utils.losses.meter import LossMeter
from utils.ops.network_input import images_to_device
from utils.tasks.base import Task
from utils.train.amp import choose_amp
from utils.train.callbacks import Callbacks, CallbackSink
from utils.train.checkpointing import collect_state, restore_state
from utils.train.early_stopping import EarlyStopping
from utils.train.ema import ModelEMA
from utils.train.multi_scale import draw_imgsz, resize_batch
from utils.train.optim import Schedule, build_optimizer
from utils.train.run_lock import restore_run_folder
from utils.train.settings import write_settings
from utils.train.stop_request import StopRequest

REMOVAL_S = 1.0  # that removing the run folder may take


@dataclass
class FitResult:
    """Files of a finished run; metrics and losses of its final validation."""

    save_dir: Path
    last: Path
    best: Path | None
    epochs: int
    metrics: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Fits a model to a task's data.

    Args:
        task: data, losses and metrics, bound to the model.
        model: the network on its device.
        config: checked settings of train.py.
        save_dir: run folder; checkpoints go to `weights/` inside.
        callbacks: monitors and loggers.
        state: content of a last.pt to resume from, or None.
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
        self.save_dir, self.last, self.best = save_dir, save_dir / "weights/last.pt", save_dir / "weights/best.pt"
        self.model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = next(self.model.parameters()).dtype
        with distributed.local_main_first():
            self.loader = task.build_train_loader()
            self.val_loader = task.build_eval_loader("val", batch_size=2 * config.batch_size)  # no gradients: fits
        hyp = task.hyp
        floor = task.floor_accumulation
        self.schedule = Schedule(hyp, config.epochs, len(self.loader), config.batch_size, config.cos_lr, floor=floor)
        decay = hyp.weight_decay * self.schedule.decay_scale
        self.optimizer = build_optimizer(
            self.model, config.optimizer, lr=hyp.lr0, momentum=hyp.momentum, weight_decay=decay
        )
        self.ema = ModelEMA(self.model)
        self.stopping = EarlyStopping(config.patience)
        self.stop = StopRequest(save_dir)
        self.amp = choose_amp(self.model, config.amp, device, (state or {}).get("amp"), agree=task.outputs_agree)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp is torch.float16)
        self.start_epoch = 0
        self.is_new = state is None
        self.position: dict[str, Any] | None = None  # progress within the first epoch to train
        self.image_weights: np.ndarray | None = None
        if config.image_weights:  # by class frequency until the first validation
            self.image_weights = task.compute_image_weights(np.zeros(len(task.class_names)))
        if state is not None:
            restore_state(self, state)
        self.epoch = self.start_epoch

    # -- run -------------------------------------------------------------------------------------------------------

    def fit(self) -> FitResult:
        """Train to the last epoch, or until early stopping or a stop request.

        Whatever else ends it (Ctrl-C, an error) leaves last.pt of the epoch before.

        Raises:
            StoppedError: SIGTERM was received.
        """
        self.callbacks.run("on_train_start")
        self._warn_of_warmup()
        started = time.time()
        with self.stop:
            try:
                self._save_start()
                epochs = self._run_epochs()
            except BaseException as error:
                if self.last.exists() and not self.config.nosave and not is_out_of_memory(error):
                    LOGGER.warning(
                        f"\nInterrupted; resume with: python train.py --resume {shlex.quote(str(self.last))}"
                    )
                self.callbacks.run("teardown")
                raise
        distributed.barrier()  # the files are written
        if done := epochs - self.start_epoch:
            minutes = (time.time() - started) / 60
            duration = f"{minutes:.1f} minutes" if minutes < 60 else f"{minutes / 60:.2f} hours"
            LOGGER.info(f"\n{done} epochs completed in {duration}")
        return FitResult(self.save_dir, self.last, self.best if self.best.exists() else None, epochs)

    def _save_start(self) -> None:
        """Write the last.pt of a new run, so that it can be resumed from the start."""
        if self.is_new and distributed.is_main_process():
            self.best.unlink(missing_ok=True)  # of another run, if --exist-ok reuses its folder
            if not self.config.nosave:
                self._save(self.last, epoch=-1)

    def _run_epochs(self) -> int:
        """All epochs still to do; returns how many are done, with those before a resume."""
        config = self.config
        if self.start_epoch >= config.epochs or self._stops_early(self.start_epoch - 1):
            return self.start_epoch
        LOGGER.info(
            f"Image size {self.task.options.data.imgsz}, {len(self.loader)} batches of {config.batch_size} per epoch\n"
            f"Logging results to {self.save_dir}\nTraining for {config.epochs} epochs..."
        )
        for epoch in range(self.start_epoch, config.epochs):
            self.epoch = epoch
            is_last = epoch + 1 == config.epochs
            losses = self._train_epoch(epoch)
            result = self._validate() if is_last or not config.noval else None
            metrics = self._log_epoch(epoch, losses, result)
            is_best = result is not None and self.stopping.update(epoch, result.evaluation.fitness)
            stops_early = self._stops_early(epoch)
            stop_requested = distributed.any_rank(self.stop.after_epoch())
            if not config.nosave or is_last or stops_early or stop_requested:
                self._save_epoch(epoch, is_best=is_best, metrics=metrics)
            if stop_requested or stops_early:
                return epoch + 1
        return config.epochs

    def _stops_early(self, epoch: int) -> bool:
        """Whether early stopping ends the run after an epoch, with a message; the same on all ranks."""
        stops = distributed.any_rank(self.stopping.should_stop(epoch) and not self.config.noval)
        if stops:
            LOGGER.info(
                f"Early stopping: no improvement for {self.config.patience} epochs, best was epoch "
                f"{self.stopping.best_epoch}; --patience sets how long to wait"
            )
        return stops

    def restore_folder(self) -> bool:
        """Make the run folder again if it was removed, so that the run can go on; returns whether it was."""
        was_removed = distributed.is_main_process() and restore_run_folder(self.save_dir)
        if was_removed:
            open_run_log(self.save_dir / "train.log", append=True)
            write_settings(self.save_dir, self.config, self.task.hyp)
            LOGGER.warning(f"WARNING {self.save_dir}: removed during the run; made again, without the earlier files")
        return was_removed

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training set; mean loss items by name."""
        self.model.train()
        self.optimizer.zero_grad()
        meter, first = self._resume_position()
        self.loader.set_epoch(epoch, self.image_weights, first)
        self.callbacks.run("on_train_epoch_start", epoch=epoch, first=first)
        pending = 0  # batches with gradients since the last optimizer step
        for number, batches in enumerate(self.loader, first):
            iteration = epoch * len(self.loader) + number
            step = {"epoch": epoch, "number": number, "iteration": iteration, "batches": batches, "meter": meter}
            self.callbacks.run("on_train_batch_start", **step)
            self.schedule.apply(self.optimizer, iteration)
            self._seed(iteration)
            items: dict[str, Tensor] = {}
            for batch in batches:
                targets = batch.to(self.device, non_blocking=True)
                images = self._prepare_images(targets, iteration)
                with self._autocast():
                    loss = self.task.losses(self.model(images), targets, reduce=distributed.all_reduce_sum)
                assert loss is not None, "a model in training mode gives raw outputs"
                self.scaler.scale(loss.total * 4 if self.config.quad else loss.total).backward()
                items |= loss.items
            meter.add(items, [path for batch in batches for path in batch.paths])
            pending += 1
            if pending >= self.schedule.accumulate(iteration) or number + 1 == len(self.loader):
                self._optimizer_step()
                self.ema.update(self.model)
                self.callbacks.run("on_optimizer_step_end", **step)
                pending = 0
            self.callbacks.run("on_train_batch_end", imgsz=images.shape[-1], **step)
        self.callbacks.run("on_train_epoch_end", epoch=epoch)
        return meter.read()

    def _resume_position(self) -> tuple[LossMeter, int]:
        """Meter of the epoch and number of its batches that are done, once, if the run was resumed within an epoch."""
        meter, position, self.position = LossMeter(self.task.loss_names), self.position, None
        if position is None:
            return meter, 0
        meter.load_state(position["meter"])
        return meter, int(position["batches"])

    def _seed(self, iteration: int) -> None:
        """Make the random draws of an iteration independent of interruptions, and different on each rank."""
        torch.manual_seed(self.config.seed * 100003 + iteration + (distributed.get_rank() << 40))

    def _prepare_images(self, batch: Batch, iteration: int) -> Tensor:
        """(B, C, H, W) floats on the device, of the size drawn for the iteration."""
        images = images_to_device(batch.images, self.device, self.dtype, pixels=self.task.pixels)
        if not self.config.multi_scale:
            return images
        data = self.task.options.data
        return resize_batch(images, draw_imgsz(self.config.seed, iteration, data.imgsz, data.stride), data.stride)

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, dtype=self.amp) if self.amp else nullcontext()

    def _optimizer_step(self) -> None:
        """Step over the accumulated gradients of all ranks, clipped."""
        distributed.all_reduce_gradients(self.model.parameters())
        self.scaler.unscale_(self.optimizer)
        if self.config.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.callbacks.run("optimizer_step", optimizer=self.optimizer)
        self.callbacks.run("on_before_zero_grad", model=self.model)
        self.optimizer.zero_grad()

    def _warn_of_warmup(self) -> None:
        """Warn if a run is nearly all warm-up, as on a small set with a recipe for large ones."""
        length, total = self.schedule.warmup_iterations, self.config.epochs * len(self.loader)
        if self.is_new and 2 * length > total and self.task.hyp_defaults:
            LOGGER.warning(
                f"WARNING the warm-up lasts {length} iterations, the whole run {total}: set warmup_iterations (and "
                "nominal_batch) in the hyp file, as data/hyps/hyp.joint-small.yaml does"
            )

    # -- validation and checkpoints --------------------------------------------------------------------------------

    def _validate(self) -> ValidationResult:
        """Evaluate the EMA model on the validation split."""
        distributed.broadcast_tensors_(self.ema.model.buffers())  # batch-norm statistics differ between ranks
        self.callbacks.run("on_val_start")
        result = validate(
            self.task,
            self.ema.model,
            self.val_loader,
            device=self.device,
            autocast=self.amp,
            sinks=[CallbackSink(self.callbacks)],
            before_batch=lambda: self.callbacks.run("on_val_batch_start"),
            progress="validating",
        )
        LOGGER.info(result.evaluation.table, extra=TERMINAL_ONLY)
        if self.config.image_weights:
            self.image_weights = self.task.compute_image_weights(result.evaluation.per_class)
        self.callbacks.run("on_val_end", result=result)
        return result

    def _log_epoch(self, epoch: int, losses: dict[str, float], result: ValidationResult | None) -> dict[str, float]:
        """Pass an epoch's row of results.csv to the loggers."""
        self.restore_folder()
        metrics, val_losses = ({}, {}) if result is None else (result.evaluation.metrics, result.losses)
        row = self.task.build_results_row(losses, metrics, val_losses)
        groups = self.optimizer.param_groups
        rates = groups if self.task.logs_all_lrs else groups[:1]
        row |= {f"{self.task.lr_column}{i}": group["lr"] for i, group in enumerate(rates)}
        self.callbacks.run("on_fit_epoch_end", epoch=epoch, metrics=row)
        return row

    def _save_epoch(self, epoch: int, *, is_best: bool, metrics: dict[str, float]) -> None:
        """Write best.pt and epochN.pt if they are due, then last.pt.

        last.pt comes last: a run killed in between repeats the epoch, and no best.pt is missed.
        """
        period = self.config.save_period
        if is_best:
            self._save(self.best, epoch=epoch, metrics=metrics)
        if period > 0 and (epoch + 1) % period == 0:
            self._save(self.last.with_name(f"epoch{epoch}.pt"), epoch=epoch, metrics=metrics)
        self._save(self.last, epoch=epoch, metrics=metrics)
        self.callbacks.run("on_model_save", epoch=epoch)

    def save_last(self, epoch: int) -> None:
        """Write last.pt after an epoch."""
        self._save(self.last, epoch=epoch)

    def save_position(self, epoch: int, position: dict[str, Any]) -> None:
        """Write last.pt within an epoch, when no gradients are pending; `position` as in models/checkpoint.py."""
        self._save(self.last, epoch=epoch - 1, position=position)

    def _save(self, path: Path, *, epoch: int, metrics: dict[str, float] | None = None, position: Any = None) -> None:
        if not distributed.is_main_process():
            return
        with defer_signals():
            state = collect_state(self, epoch=epoch, metrics=metrics or {}, position=position)
            self.restore_folder()
            try:
                save_checkpoint(path, state)
            except InputError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                time.sleep(REMOVAL_S)
                self.restore_folder()
                save_checkpoint(path, state)
