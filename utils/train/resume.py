"""Find the checkpoint and stored settings of a run to resume, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from utils.config.train import TrainConfig
from utils.core.errors import InputError


def prepare_resumed_launch(config: TrainConfig, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Device of a resumed run, and the command-line arguments for each of its processes.

    The device is that of `--device`, else the one stored with the run. The arguments name the checkpoint, so that all
    processes resume from the same one.

    Raises:
        InputError: there is no checkpoint, or its settings cannot be read.
    """
    last = find_last_checkpoint(config.resume)
    device = config.device if "device" in config.explicit else str(load_settings(last).get("device") or "")
    return device, [*arguments, "--resume", str(last)]


def find_last_checkpoint(resume: str | bool) -> Path:
    """The checkpoint that `--resume` names, or the newest last.pt below runs/."""
    if isinstance(resume, str):
        path = Path(resume)
        if not path.is_file():
            raise InputError(f"--resume {resume}: there is no such file; name a last.pt, or give --resume alone")
        return path
    checkpoints = sorted(Path("runs").glob("**/weights/last*.pt"), key=lambda p: p.stat().st_mtime)
    if not checkpoints:
        raise InputError("--resume: no last.pt below runs/; name one, as in --resume path/to/weights/last.pt")
    return checkpoints[-1]


def load_settings(last: Path) -> dict[str, Any]:
    """The settings of a checkpoint's run: opt.yaml of its folder, else those in the checkpoint itself."""
    stored = read_settings(last.parent.parent / "opt.yaml")
    if not stored:
        from models.checkpoint import load_training_state  # imports torch, which takes seconds

        stored = dict(load_training_state(last)["opt"])
    return stored


def read_settings(path: Path) -> dict[str, Any] | None:
    """Content of an opt.yaml; None if there is no such file."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    return values if isinstance(values, dict) else None
