"""Settings of a training run: hyperparameters, task, architecture, starting weights; what is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from models.graph import load_model_yaml
from utils.config.base import ROOT
from utils.config.hyp import Hyperparameters
from utils.config.train import TrainConfig
from utils.core.errors import InputError
from utils.core.files import atomic_write, find_file, increment_path
from utils.core.logging import LOGGER
from utils.tasks.base import Task
from utils.tasks.networks import Checkpoint, find_weights, load_checkpoint
from utils.tasks.registry import find_graph_task, find_task
from utils.train.resume import read_settings

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
        InputError: all epochs are done.
    """
    stored = read_settings(last.parent.parent / "opt.yaml") or dict(state["opt"])
    kind = find_task(str(state["task"])).train_config
    names = {f.name for f in fields(kind)}
    base = kind.from_kwargs(**{k: v for k, v in stored.items() if k in names})
    changed = {name for name in config.explicit - {"resume"} if getattr(config, name) != getattr(base, name, None)}
    if ignored := sorted(changed - set(RESUME_OVERRIDES)):
        LOGGER.warning(f"--resume keeps the settings of the run: ignored {', '.join(ignored)}")
    overrides: dict[str, Any] = {name: getattr(config, name) for name in changed & set(RESUME_OVERRIDES)}
    result = replace(base, resume=str(last), hyp=dict(state["hyp"]), **overrides)
    done = int(state["epoch"]) + 1
    if done >= result.epochs:
        raise InputError(f"{last}: all {result.epochs} epochs are done; add --epochs with a larger number to continue")
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


def choose_run_folder(config: TrainConfig, last: Path | None) -> Path:
    """Folder of the run: that of the checkpoint to resume, else a new one, not yet created."""
    if last is not None and last.parent.name == "weights":
        return last.parent.parent
    return increment_path(Path(config.project) / get_run_name(config), config.exist_ok)


def write_settings(save_dir: Path, config: TrainConfig, hyp: Hyperparameters) -> None:
    """Write opt.yaml and hyp.yaml into the run folder."""
    for name, values in (("opt.yaml", config.to_dict()), ("hyp.yaml", hyp.to_dict())):
        with atomic_write(save_dir / name) as temporary:
            temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
