"""Find the checkpoint and stored settings of a run to resume, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from utils.config.train import TrainConfig
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.yaml_files import read_yaml

RESTORED_APART = frozenset({"hyp", "resume"})  # keys that are not taken from opt.yaml
SHOWN_DIFFERENCES = 5


def prepare_resumed_launch(config: TrainConfig, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Device of a resumed run, and the command-line arguments for each of its processes.

    The device is that of `--device`, else the one stored with the run. The arguments name the checkpoint, so that all
    processes resume from the same one.

    Raises:
        InputError: there is no checkpoint, or its settings cannot be read.
    """
    last = find_last_checkpoint(config.resume)
    device = config.device if "device" in config.explicit else load_device(last)
    return device, [*arguments, "--resume", str(last)]


def find_last_checkpoint(resume: str | bool) -> Path:
    """The checkpoint that `--resume` names, or the newest last.pt below runs/."""
    if isinstance(resume, str):
        path = Path(resume)
        if not path.is_file():
            raise InputError(f"--resume {resume}: there is no such file; name a last.pt, or give --resume alone")
        return path
    checkpoints = [path for path in Path("runs").glob("**/weights/last*.pt") if path.is_file()]
    if not checkpoints:
        raise InputError("--resume: no last.pt below runs/; name one, as in --resume path/to/weights/last.pt")
    return max(checkpoints, key=lambda path: path.stat().st_mtime)


def load_device(last: Path) -> str:
    """The device of a checkpoint's run, by the opt.yaml of its folder, else by the checkpoint itself."""
    try:
        stored = read_settings(get_settings_file(last))
    except InputError:  # `merge_settings` warns
        stored = None
    if stored is None or "device" not in stored:
        from models.checkpoint import load_training_state  # imports torch, which takes seconds

        stored = load_training_state(last)["opt"]
    return str(stored.get("device") or "")


def get_settings_file(last: Path) -> Path:
    """The opt.yaml of a checkpoint's run."""
    return last.parent.parent / "opt.yaml"


def read_settings(path: Path) -> dict[str, Any] | None:
    """Content of an opt.yaml; None if there is no such file, InputError if it is damaged."""
    if not path.exists():
        return None
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: {type(values).__name__} instead of settings; correct or remove the file")
    return values


def merge_settings(last: Path, own: Mapping[str, Any], known: Set[str]) -> dict[str, Any]:
    """Settings of a run: those in its checkpoint, replaced by those in opt.yaml, which may have been edited.

    There is a warning if they differ, or if opt.yaml is damaged and therefore not used.

    Args:
        own: the settings in the checkpoint.
        known: names of settings; others are left out.
    """
    file, known = get_settings_file(last), known - RESTORED_APART
    try:
        edited = read_settings(file) or {}
    except InputError as error:
        LOGGER.warning(f"WARNING {error}; resuming with the settings in {last.name}")
        edited = {}
    differing = [
        f"{key} {value!r:.40} ({own[key]!r:.40} in {last.name})" if key in own else f"{key!r:.40} (not in {last.name})"
        for key, value in edited.items()
        if key in known and (key not in own or value != own[key])
    ]
    if differing:
        more = f" and {len(differing) - SHOWN_DIFFERENCES} more" if len(differing) > SHOWN_DIFFERENCES else ""
        LOGGER.warning(f"WARNING {file} is used, with {', '.join(differing[:SHOWN_DIFFERENCES])}{more}")
    if unknown := [key for key in edited if key not in known | RESTORED_APART and key not in own]:
        LOGGER.warning(f"WARNING {file}: no such setting: {', '.join(f'{key!r:.40}' for key in unknown[:5])}; ignored")
    return {key: value for key, value in {**own, **edited}.items() if key in known}
