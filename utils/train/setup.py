"""From the settings of train.py to a Trainer that is ready to run, for a new run or a resumed one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from models.checkpoint import Checkpoint, find_weights, load_checkpoint, load_training_state, transfer_weights
from models.dropblock import add_dropblock
from models.graph import load_model_yaml
from models.yolo import BaseModel, check_image_size, task_of_graph
from utils.config.base import AUTOMATIC_BATCH, ROOT, TrainConfig, flags_of
from utils.config.hyp import Hyperparameters
from utils.core import distributed
from utils.core.device import describe_device, seed_everything, select_device
from utils.core.errors import InputError
from utils.core.files import atomic_write, find_file, increment_path, make_run_folder
from utils.core.logging import LOGGER, log_to
from utils.loggers.registry import build_listeners, wanted_services
from utils.loggers.run_folder import CSVLogger, EpochLines, ResultsImage
from utils.tasks.base import Task, TaskOptions
from utils.tasks.registry import build_task, find_task
from utils.train.autobatch import automatic_batch
from utils.train.callbacks import Callbacks
from utils.train.compile import compile_network
from utils.train.determinism import NondeterminismReport, make_deterministic
from utils.train.resume import find_last_checkpoint, read_settings
from utils.train.sync_batchnorm import with_shared_norms
from utils.train.trainer import Trainer

# settings that may change when a run is resumed; all others are those of the run
RESUME_OVERRIDES = (
    *("epochs", "device", "workers", "cache", "patience", "save_period", "save_every_steps", "noplots", "nosave"),
    "noval",
)
LAUNCH_FILE = ".launch"  # in a run folder: the start of torchrun that made it


def build_trainer(config: TrainConfig, *, restarted: Path | None = None) -> Trainer:
    """Everything a training run needs, built and checked.

    Args:
        restarted: last.pt of the run that a launcher has started anew because a process had died.

    Raises:
        InputError: a file, flag or value cannot be used.
    """
    last = restarted or (find_last_checkpoint(config.resume) if config.resume else None)
    state = None if last is None else load_training_state(last)
    if last is not None and state is not None:
        config = resumed_config(config, last, state, may_be_done=restarted is not None)
    if state is None and config.task:
        config = config.adapted(find_task(config.task).traits.train_config)
    config.check()
    device = select_device(config.device)
    distributed.start(device)
    announce(device, config)
    services = wanted_services(config)
    load_hyp(config)  # a wrong file is told before weights are fetched
    with distributed.first_on_each_machine():  # it may be fetched
        source = load_source(config) if state is None else None
    name = choose_task(config, source) if state is None else str(state["task"])
    kind = find_task(name)
    config = config.adapted(kind.traits.train_config)
    config.check()
    if unused := config.given & kind.traits.unused:
        LOGGER.warning(f"WARNING {flags_of(unused)}: without effect in task {name!r}")
    if restarted is None and (interrupted := restarted_run(config)):
        return build_trainer(config, restarted=interrupted)
    hyp = load_hyp(config, kind.traits.hyp_defaults)
    cfg = dict(state["yaml"]) if state is not None else architecture(config, source, kind)
    save_dir = Path(distributed.from_main(str(run_folder(config, last))))
    seed_everything(config.seed + 1)
    if config.deterministic:
        make_deterministic()
    with distributed.first_on_each_machine():  # it may be fetched
        data = kind.load_data(config.data)
    task = build_task(
        name,
        data,
        hyp,
        TaskOptions(**{f.name: getattr(config, f.name) for f in fields(TaskOptions) if hasattr(config, f.name)}),
        channels=int(cfg.get("ch", 3)),
    )
    model = task.build_model(cfg)
    freeze_layers(model, config.freeze)
    if config.checkpoint_activations:
        recompute_activations(model)
    if rows := add_dropblock(model, config.dropblock):
        LOGGER.info(f"DropBlock on the maps of layers {', '.join(map(str, rows))}, a share of {config.dropblock:g}")
    stride = max(int(model.stride.max()), 32)
    side = max(check_image_size(config.imgsz, stride), 2 * stride)
    task.options = replace(task.options, imgsz=side, pin_memory=device.type == "cuda")
    make_run_folder(save_dir / "weights")
    if distributed.is_main():
        log_to(save_dir / "train.log", append=state is not None)
        write_settings(save_dir, config, hyp)
        if launch := distributed.launch_id():
            (save_dir / LAUNCH_FILE).write_text(launch, encoding="utf-8")
    if state is None:
        if source is not None and config.takes_weights:
            take_weights(model, source, config, hyp)
        plotting = distributed.is_main() and not config.noplots
        with distributed.first_on_each_machine():  # the labels are checked, which leaves a file
            task.prepare_training(model, save_dir, anchors=not config.noautoanchor, plots=plotting)
    else:
        model.load_state_dict(state["model"])
    model.to(device)
    distributed.copy_from_main_(model.state_dict().values())
    task.bind(model)
    if config.sync_bn and distributed.world_size() > 1:
        model = with_shared_norms(model, device)  # type: ignore[assignment]
    if config.batch_size == AUTOMATIC_BATCH:
        config = replace(config, batch_size=automatic_batch(config, task, model, device))
        task.hyp = hyp = load_hyp(config, kind.traits.hyp_defaults)
        task.options = replace(task.options, batch_size=config.batch_size)
        write_settings(save_dir, config, hyp)
    callbacks = build_callbacks(config, task, save_dir, services) if distributed.is_main() else Callbacks()
    callbacks.run("on_pretrain_routine_start")
    trainer = Trainer(task, model, config, device=device, save_dir=save_dir, callbacks=callbacks, state=state)
    if config.compile:
        compile_network(model, device)
    if config.deterministic:
        callbacks.add(NondeterminismReport())
    callbacks.run("on_params_update", params={**config.to_dict(), **hyp.to_dict()})
    callbacks.run("on_pretrain_routine_end", trainer=trainer)
    return trainer


def announce(device: torch.device, config: TrainConfig) -> None:
    """Say what trains; of several processes the main one speaks, for all."""
    processes = distributed.world_size()
    if not distributed.is_main():
        LOGGER.setLevel(logging.ERROR)
    LOGGER.info(describe_device(device))
    if processes > 1:
        LOGGER.info(f"{processes} processes share each batch of {config.batch_size} images")
    elif config.sync_bn:
        LOGGER.warning("--sync-bn: one process has nobody to share batch norms with: no effect")


def build_callbacks(config: TrainConfig, task: Task, save_dir: Path, services: list[str]) -> Callbacks:
    """What listens to the run: the files of its folder and the loggers."""
    table = CSVLogger(save_dir / "results.csv", width=task.traits.csv_width)
    callbacks = Callbacks([table, EpochLines(config.epochs), *build_listeners(config, services)])
    if not config.noplots:
        callbacks.add(ResultsImage(table.file))
    return callbacks


def run_folder(config: TrainConfig, last: Path | None) -> Path:
    """Folder of the run: that of the checkpoint to resume, else a new one. Not made yet."""
    if last is not None and last.parent.name == "weights":
        return last.parent.parent
    return increment_path(Path(config.project) / run_name(config), config.exist_ok)


def restarted_run(config: TrainConfig) -> Path | None:
    """last.pt of the run that this start of torchrun began, if it has started the processes anew since."""
    if not distributed.restarts():
        return None
    own, found = distributed.launch_id(), []
    if own and distributed.is_main():
        marks = list(Path(config.project).glob(f"*/{LAUNCH_FILE}"))
        if isinstance(config.resume, str):
            marks += Path(config.resume).parent.parent.glob(LAUNCH_FILE)
        candidates = [mark.with_name("weights") / "last.pt" for mark in marks if mark.read_text("utf-8") == own]
        found = sorted((path for path in candidates if path.exists()), key=lambda path: path.stat().st_mtime)
    path = distributed.from_main(str(found[-1]) if found else "")
    return Path(path) if path else None


def take_weights(model: BaseModel, source: Checkpoint, config: TrainConfig, hyp: Hyperparameters) -> None:
    """Copy what fits of a checkpoint; anchors stay those of the graph where flag or hyp file choose them."""
    chosen = bool(config.cfg) or hyp.anchors is not None
    taken, total = transfer_weights(model, source.state_dict, exclude=("anchor",) if chosen else ())
    LOGGER.info(f"{config.weights}: {taken}/{total} items taken over")


def resumed_config(
    config: TrainConfig, last: Path, state: Mapping[str, Any], *, may_be_done: bool = False
) -> TrainConfig:
    """The settings of the interrupted run, with those that may change taken from the command line.

    Args:
        may_be_done: whether there may be no epoch left to train, only the final measurement.
    """
    stored = read_settings(last.parent.parent / "opt.yaml") or dict(state["opt"])
    kind = find_task(str(state["task"])).traits.train_config
    known = {f.name for f in fields(kind)}
    base = kind.from_kwargs(**{k: v for k, v in stored.items() if k in known})
    given = {name for name in config.given - {"resume"} if getattr(config, name) != getattr(base, name, None)}
    if ignored := sorted(given - set(RESUME_OVERRIDES)):
        LOGGER.warning(f"--resume keeps the settings of the run: ignored {', '.join(ignored)}")
    changes: dict[str, Any] = {name: getattr(config, name) for name in given & set(RESUME_OVERRIDES)}
    result = replace(base, resume=str(last), hyp=dict(state["hyp"]), **changes)
    done = int(state["epoch"]) + 1
    if done >= result.epochs and not may_be_done:
        raise InputError(f"{last}: all {result.epochs} epochs are done; add --epochs with a larger number to go on")
    batches = (state.get("position") or {}).get("batches", 0)
    within = f" and {batches} batches" if batches else ""
    LOGGER.info(f"Resuming {last} after {done} of {result.epochs} epochs{within}")
    return result


def load_hyp(config: TrainConfig, defaults: Mapping[str, Any] | None = None) -> Hyperparameters:
    """Hyperparameters of the file or mapping in the settings, with the flags that override them.

    `defaults` as for `Hyperparameters.load`.
    """
    recipe = config.recipe
    if isinstance(recipe, Mapping):
        hyp = Hyperparameters.from_dict({**(defaults or {}), **recipe}, source="hyp")
    else:
        hyp = Hyperparameters.load(find_file(recipe, [ROOT, ROOT / "data" / "hyps"]), defaults=defaults)
    return hyp if config.label_smoothing is None else replace(hyp, label_smoothing=config.label_smoothing)


def run_name(config: TrainConfig) -> str:
    """Name of the run folder; the literal `cfg` stands for the model YAML's own name."""
    return Path(config.cfg).stem if config.name == "cfg" and config.cfg else config.name


def load_source(config: TrainConfig) -> Checkpoint | None:
    """The checkpoint to start from, or None for a run from scratch."""
    if config.weights:
        return load_checkpoint(find_weights(config.weights))
    if not config.cfg:
        raise InputError("--weights '' trains from scratch and needs an architecture, as in --cfg yolov5n.yaml")
    return None


def choose_task(config: TrainConfig, source: Checkpoint | None) -> str:
    """The task that is asked for, else that of the model YAML or of the checkpoint."""
    if config.task:
        return config.task
    if config.cfg:
        return task_of_graph(load_model_yaml(config.cfg))
    assert source is not None
    return source.task


def architecture(config: TrainConfig, source: Checkpoint | None, kind: type[Task]) -> dict[str, Any]:
    """The graph of --cfg, else of the checkpoint."""
    if config.cfg:
        return kind.load_graph(config.cfg)
    assert source is not None
    if not source.yaml:
        raise InputError(f"{source.path}: its layers cannot be told from the file; name its architecture with --cfg")
    return dict(source.yaml)


def recompute_activations(model: BaseModel) -> None:
    """Keep the outputs of layers only while training; InputError for a network that is no graph of rows."""
    if not isinstance(model.model, nn.Sequential):
        raise InputError("--checkpoint-activations: this network is no graph of rows; leave the flag out")
    model.recompute = True


def freeze_layers(model: BaseModel, freeze: list[int]) -> None:
    """Stop the training of layers: one number N means the first N, several mean those."""
    frozen = set(range(freeze[0]) if len(freeze) == 1 else freeze)
    layers = list(model.model.children())  # the rows
    if frozen and max(frozen) >= len(layers):
        raise InputError(f"--freeze {' '.join(map(str, freeze))}: the model has layers 0-{len(layers) - 1}")
    if len(frozen) == len(layers):
        raise InputError(
            f"--freeze {' '.join(map(str, freeze))}: all {len(layers)} layers, so nothing is left to train; "
            f"give at most {len(layers) - 1}"
        )
    for number in frozen:
        layers[number].requires_grad_(False)
    if frozen:
        LOGGER.info(f"Frozen layers: {', '.join(map(str, sorted(frozen)))}")


def write_settings(save_dir: Path, config: TrainConfig, hyp: Hyperparameters) -> None:
    """Write opt.yaml and hyp.yaml into the run folder."""
    for name, values in (("opt.yaml", config.to_dict()), ("hyp.yaml", hyp.to_dict())):
        with atomic_write(save_dir / name) as temporary:
            temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
