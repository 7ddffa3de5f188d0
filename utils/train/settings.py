"""Settings of a training run: hyperparameters, task, architecture, starting weights; what is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from models.graph import load_model_yaml
from utils.config.base import ROOT
from utils.config.hyp import Hyperparameters
from utils.config.train import TrainConfig
from utils.core.errors import InputError
from utils.core.files import atomic_write, find_file, make_run_folder
from utils.core.logging import LOGGER
from utils.datasets.index.data_yaml import read_spec
from utils.tasks.base import Task
from utils.tasks.networks import Checkpoint, find_weights, load_checkpoint
from utils.tasks.registry import find_graph_task, find_task
from utils.train.resume import get_settings_file, merge_settings
from utils.train.run_lock import lock_run_folder

# settings that may change when a run is resumed; the others are those of the run
RESUME_OVERRIDES = (
    *("epochs", "device", "workers", "cache", "patience", "save_period", "save_every_steps", "noplots", "nosave"),
    "noval",
)


def restore_config(config: TrainConfig, last: Path, state: Mapping[str, Any]) -> TrainConfig:
    """The settings of an interrupted run, with `RESUME_OVERRIDES` from the command line.

    Args:
        last: its checkpoint. state: the content of it.

    Raises:
        InputError: a setting is invalid.
    """
    kind = find_task(str(state["task"])).train_config
    stored = merge_settings(last, state["opt"], kind.flags().keys())
    try:
        base = build_stored_config(kind, stored)
    except InputError as error:
        file = get_settings_file(last)
        raise InputError(f"{file if file.exists() else last}: {error}; correct or remove the file") from error
    changed = {name for name in config.explicit - {"resume"} if getattr(config, name) != getattr(base, name, None)}
    if ignored := sorted(changed - set(RESUME_OVERRIDES)):
        LOGGER.warning(f"--resume keeps the settings of the run: ignored {', '.join(ignored)}")
    overrides: dict[str, Any] = {name: getattr(config, name) for name in changed & set(RESUME_OVERRIDES)}
    result = replace(base, resume=str(last), hyp=dict(state["hyp"]), **overrides)
    done = int(state["epoch"]) + 1
    batches = (state.get("position") or {}).get("batches", 0)
    within = f" and {batches} batches" if batches else ""
    LOGGER.info(f"Resuming {last} after {done} of {result.epochs} epochs{within}")
    if done >= result.epochs:
        LOGGER.warning(
            f"WARNING all {result.epochs} epochs are done: repeating the final validation; add --epochs with a larger "
            "number to continue"
        )
    return result


def build_stored_config(kind: type[TrainConfig], stored: Mapping[str, Any]) -> TrainConfig:
    """Settings from an opt.yaml or checkpoint; those that differ from the defaults count as given.

    Raises:
        InputError: a value is invalid.
    """
    default, given = kind(), {}
    for name, value in stored.items():
        expected = getattr(default, name)
        if isinstance(expected, str) and isinstance(value, list | Mapping):
            raise InputError(f"{name}: {value!s:.40} is not a single value")
        if value is not None and value != expected:
            given[name] = str(value) if isinstance(expected, str) else value
    return kind.from_kwargs(**given)


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


def check_files(config: TrainConfig) -> None:
    """InputError if the hyp file or the data YAML is missing or invalid; call it before weights are downloaded."""
    load_hyp(config)
    if Path(str(config.data)).suffix.lower() in (".yaml", ".yml"):
        read_spec(config.data)


def load_source(config: TrainConfig) -> Checkpoint | None:
    """The checkpoint to start from, or None for a run from scratch."""
    if config.weights:
        return load_checkpoint(find_weights(config.weights))
    if not config.cfg:
        raise InputError("--weights '' trains from scratch and needs an architecture, as in --cfg yolov5n.yaml")
    return None


def choose_task(config: TrainConfig, source: Checkpoint | None) -> str:
    """The task that `--task` names, else that of the model YAML or of the checkpoint."""
    if config.task:
        return config.task
    if config.cfg:
        return find_graph_task(load_model_yaml(config.cfg)).name
    assert source is not None
    return source.task


def choose_graph(config: TrainConfig, source: Checkpoint | None, kind: type[Task]) -> dict[str, Any]:
    """The graph of --cfg, else of the checkpoint."""
    if config.cfg:
        return kind.load_graph(config.cfg)
    assert source is not None
    if not source.yaml:
        raise InputError(
            f"{source.path}: its layers cannot be inferred from the file; name its architecture with --cfg"
        )
    return dict(source.yaml)


def get_run_name(config: TrainConfig) -> str:
    """Name of the run folder; the literal `cfg` means the model YAML's own name."""
    return Path(config.cfg).stem if config.name == "cfg" and config.cfg else config.name


def get_resumed_folder(last: Path) -> Path | None:
    """Folder of a run to resume; None if its checkpoint is elsewhere."""
    return last.parent.parent if last.parent.name == "weights" else None


def open_run_folder(config: TrainConfig, last: Path | None) -> Path:
    """Lock the folder of the run: that of the checkpoint to resume, or a new one.

    Raises:
        InputError: it cannot be created or written to, or another process trains in it.
    """
    folder = get_resumed_folder(last) if last is not None else None
    if folder is None:
        folder = Path(config.project) / get_run_name(config)
        try:
            str(folder).encode()  # the log and opt.yaml name it
        except UnicodeEncodeError as error:
            raise InputError(f"{str(folder)!r}: not valid UTF-8; choose another --project or --name") from error
        folder = make_run_folder(folder, exist_ok=config.exist_ok)
    lock_run_folder(folder)
    return folder


def write_settings(save_dir: Path, config: TrainConfig, hyp: Hyperparameters) -> None:
    """Write opt.yaml and hyp.yaml into the run folder."""
    for name, values in (("opt.yaml", config.to_dict()), ("hyp.yaml", hyp.to_dict())):
        with atomic_write(save_dir / name) as temporary:
            temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
