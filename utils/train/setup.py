"""From the settings of train.py to a Trainer, in four phases: run, task, model, trainer."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.checkpoint import load_training_state, load_weights, transfer_weights
from models.dropblock import add_dropblock
from models.yolo import BaseModel, check_image_size
from utils.config.base import format_flags
from utils.config.hyp import Hyperparameters
from utils.config.train import AUTOMATIC_BATCH, TrainConfig
from utils.core import distributed
from utils.core.device import describe_device, seed_everything, select_device
from utils.core.errors import InputError
from utils.core.files import make_run_folder
from utils.core.logging import LOGGER, open_run_log
from utils.datasets.index.data_yaml import DataSpec
from utils.loggers.registry import build_tracker_callbacks, choose_services
from utils.loggers.run_folder import CSVLogger, EpochLogger, ResultsPlotter
from utils.tasks.base import Task
from utils.tasks.networks import Checkpoint
from utils.tasks.registry import check_graph, find_task
from utils.train.autobatch import find_batch_size
from utils.train.callbacks import Callbacks
from utils.train.compile import compile_network
from utils.train.determinism import NondeterminismReport, make_deterministic
from utils.train.monitors import BatchPlotter, ProgressBar, StepCheckpointer, StopChecker
from utils.train.resume import find_last_checkpoint
from utils.train.run_lock import lock_run_folder
from utils.train.script_callbacks import ScriptCallbacks
from utils.train.settings import (
    check_files,
    choose_graph,
    choose_task,
    get_resumed_folder,
    load_hyp,
    load_source,
    open_run_folder,
    restore_config,
    write_settings,
)
from utils.train.sync_batchnorm import convert_batchnorm
from utils.train.trainer import Trainer


@dataclass(frozen=True)
class Run:
    """A new or resumed run, before its task is known.

    Attributes:
        config: settings; of a resumed run those stored with it.
        last, state: checkpoint to resume from and its content; None for a new run.
    """

    config: TrainConfig
    device: torch.device
    last: Path | None
    state: dict[str, Any] | None


@dataclass(frozen=True)
class Plan:
    """A run whose task, data and sizes are settled.

    Attributes:
        config: settings with the task's defaults and the batch size.
        kind: the task.
        spec: the data set.
        graph: content of the model YAML.
        source: checkpoint whose weights are transferred, or None.
        imgsz, stride: of the network, pixels.
    """

    config: TrainConfig
    kind: type[Task]
    spec: DataSpec
    hyp: Hyperparameters
    graph: dict[str, Any]
    source: Checkpoint | None
    imgsz: int
    stride: int

    def build_task(self, device: torch.device, **overrides: Any) -> Task:
        """The task of the run; `overrides` are fields of `DataOptions`."""
        data = {"imgsz": self.imgsz, "stride": self.stride, "pin_memory": device.type == "cuda"} | overrides
        options = self.kind.build_train_options(self.config, **data)
        return self.kind(self.spec, self.hyp, options, channels=int(self.graph.get("ch", 3)))


def build_trainer(config: TrainConfig, extra: Sequence[object] = ()) -> Trainer:
    """Everything that a training run needs, built and checked.

    Args:
        extra: further callbacks: objects with methods named as hooks, or with the method `register_action` of
            `utils.callbacks`.

    Raises:
        InputError: a file, flag or value cannot be used.
    """
    run = resolve_run(config)
    services = choose_services(run.config)
    plan = resolve_task(run)
    save_dir = prepare_run_folder(run, plan)
    task, model = build_task_and_model(run, plan, save_dir)
    callbacks = build_callbacks(plan.config, task, save_dir, services)
    for callback in extra:
        callbacks.add(ScriptCallbacks(callback) if hasattr(callback, "register_action") else callback)
    callbacks.run("on_pretrain_routine_start")
    trainer = Trainer(
        task, model, plan.config, device=run.device, save_dir=save_dir, callbacks=callbacks, state=run.state
    )
    if plan.config.compile:
        compile_network(model, run.device)
    callbacks.run("on_params_update", params={**plan.config.to_dict(), **plan.hyp.to_dict()})
    callbacks.run("on_pretrain_routine_end", trainer=trainer)
    return trainer


# -- run ---------------------------------------------------------------------------------------------------------------


def resolve_run(config: TrainConfig) -> Run:
    """Find out whether the run is new or resumed; choose the device and join the other ranks."""
    last, state = find_last_checkpoint(config.resume) if config.resume else None, None
    if last is not None:
        if os.getenv("RANK", "0") == "0" and (folder := get_resumed_folder(last)):
            lock_run_folder(folder)  # first, as a process that ends may still write the checkpoint
        state = load_training_state(last)
        config = restore_config(config, last, state)
    elif config.task:
        config = config.adapt_to(find_task(config.task).train_config)
    config.check()
    device = select_device(config.device)
    distributed.init_process_group(device)
    if last is not None and not distributed.is_main_process():
        state = load_training_state(last)  # now that rank 0 has locked the folder
    announce(device, config)
    return Run(config, device, last, state)


def announce(device: torch.device, config: TrainConfig) -> None:
    """Log the device and the number of ranks; only the main rank logs."""
    ranks = distributed.get_world_size()
    if not distributed.is_main_process():
        LOGGER.setLevel(logging.ERROR)
    LOGGER.info(describe_device(device))
    if ranks > 1:
        LOGGER.info(f"{ranks} processes share each batch of {config.batch_size} images")
    elif config.sync_bn:
        LOGGER.warning("--sync-bn is ignored: there is a single process")


# -- task --------------------------------------------------------------------------------------------------------------


def resolve_task(run: Run) -> Plan:
    """Settle task, data, hyperparameters, architecture, image size and batch size."""
    check_files(run.config)
    with distributed.local_main_first():  # it may be downloaded
        source = load_source(run.config) if run.state is None else None
    kind = find_task(choose_task(run.config, source) if run.state is None else str(run.state["task"]))
    config = run.config.adapt_to(kind.train_config)
    config.check()
    kind.check_tile(config.tile)
    if unused := config.explicit & kind.unused_train_flags:
        LOGGER.warning(f"WARNING {format_flags(unused)}: ignored in task {kind.name!r}")
    graph = choose_graph(config, source, kind) if run.state is None else dict(run.state["yaml"])
    check_graph(kind, graph)
    if config.save_pickle and not kind.in_original:
        raise InputError(f"--save-pickle: the original releases have no class for task {kind.name!r}; leave it out")
    with distributed.local_main_first():  # it may be downloaded
        spec = kind.load_data(config.data)
    hyp = load_hyp(config, kind.hyp_defaults)
    stride = kind.get_stride(graph)
    imgsz = max(check_image_size(config.imgsz, stride), 2 * stride)
    plan = Plan(config, kind, spec, hyp, graph, source, imgsz, stride)
    return resolve_batch_size(plan, run.device) if config.batch_size == AUTOMATIC_BATCH else plan


def resolve_batch_size(plan: Plan, device: torch.device) -> Plan:
    """The plan with the batch size of `--batch-size -1`, which a recipe may depend on."""

    def build(batch_size: int, imgsz: int) -> tuple[Task, BaseModel]:
        task = plan.build_task(device, batch_size=batch_size, imgsz=imgsz, workers=0, cache=None)
        model = task.build_model(plan.graph).to(device)
        task.bind(model)
        return task, model

    batch_size = find_batch_size(plan.config, build, imgsz=plan.imgsz, stride=plan.stride, device=device)
    config = replace(plan.config, batch_size=batch_size)
    return replace(plan, config=config, hyp=load_hyp(config, plan.kind.hyp_defaults))


def prepare_run_folder(run: Run, plan: Plan) -> Path:
    """Create the run folder, which rank 0 chooses, with its log and settings files."""
    is_main = distributed.is_main_process()
    save_dir = Path(distributed.broadcast_text(str(open_run_folder(plan.config, run.last)) if is_main else ""))
    make_run_folder(save_dir / "weights", exist_ok=True)
    if is_main:
        open_run_log(save_dir / "train.log", append=run.state is not None)
        write_settings(save_dir, plan.config, plan.hyp)
    return save_dir


# -- model -------------------------------------------------------------------------------------------------------------


def build_task_and_model(run: Run, plan: Plan, save_dir: Path) -> tuple[Task, BaseModel]:
    """The task, bound to its network, which has its starting weights and is on the device."""
    config, device = plan.config, run.device
    seed_everything(config.seed + 1)
    if config.deterministic:
        make_deterministic()
    task = plan.build_task(device)
    model = task.build_model(plan.graph)
    freeze_layers(model, config.freeze)
    if config.checkpoint_activations:
        checkpoint_activations(model)
    if rows := add_dropblock(model, config.dropblock):
        LOGGER.info(f"DropBlock on the outputs of layers {', '.join(map(str, rows))}, a share of {config.dropblock:g}")
    if run.state is not None and run.last is not None:
        load_weights(model, run.state["model"], run.last)
    else:
        if plan.source is not None and config.transfers_weights:
            load_starting_weights(model, plan.source, config, plan.hyp)
        with distributed.local_main_first():  # labels are verified, which leaves a cache file
            plots = distributed.is_main_process() and not config.noplots
            task.prepare_training(model, save_dir, anchors=not config.noautoanchor, plots=plots)
    model.to(device)
    distributed.broadcast_tensors_(model.state_dict().values())
    task.bind(model)
    if config.sync_bn and distributed.get_world_size() > 1:
        model = convert_batchnorm(model, device)  # type: ignore[assignment]
    return task, model


def load_starting_weights(model: BaseModel, source: Checkpoint, config: TrainConfig, hyp: Hyperparameters) -> None:
    """Transfer the weights of a checkpoint; anchors stay those of the graph if flag or hyp file choose them."""
    exclude = ("anchor",) if config.cfg or hyp.anchors is not None else ()
    copied, total = transfer_weights(model, source.state_dict, exclude=exclude)
    LOGGER.info(f"Transferred {copied}/{total} items from {config.weights}")


def checkpoint_activations(model: BaseModel) -> None:
    """Recompute activations in the backward pass; InputError for a network that is no graph of layers."""
    if not isinstance(model.model, nn.Sequential):
        raise InputError("--checkpoint-activations: this network is no graph of layers; leave the flag out")
    model.checkpoint_activations = True


def freeze_layers(model: BaseModel, freeze: list[int]) -> None:
    """Freeze layers: one number N means the first N, several mean those."""
    frozen = set(range(freeze[0]) if len(freeze) == 1 else freeze)
    layers = list(model.model.children())
    flag = f"--freeze {' '.join(map(str, freeze))}"
    if frozen and max(frozen) >= len(layers):
        raise InputError(f"{flag}: the model has layers 0-{len(layers) - 1}")
    if len(frozen) == len(layers):
        raise InputError(f"{flag}: nothing is left to train of {len(layers)} layers; freeze at most {len(layers) - 1}")
    for number in frozen:
        layers[number].requires_grad_(False)
    if frozen:
        LOGGER.info(f"Frozen layers: {', '.join(map(str, sorted(frozen)))}")


# -- trainer -----------------------------------------------------------------------------------------------------------


def build_callbacks(config: TrainConfig, task: Task, save_dir: Path, services: list[str]) -> Callbacks:
    """Monitors of every rank; on the main rank also plots, files of the run folder and experiment trackers."""
    callbacks = Callbacks()
    if not config.nosave:
        callbacks.add(StepCheckpointer(config.save_every_steps))
    callbacks.add(StopChecker())
    callbacks.add(ProgressBar())
    if distributed.is_main_process():
        table = CSVLogger(save_dir / "results.csv", width=task.csv_width)
        plotters = [] if config.noplots else [BatchPlotter(), ResultsPlotter(table.file)]
        for callback in (table, EpochLogger(config.epochs), *build_tracker_callbacks(config, services), *plotters):
            callbacks.add(callback)
    if config.deterministic:
        callbacks.add(NondeterminismReport())
    return callbacks
