"""Flags and file names of older YOLOv5 releases and of Multi-YOLOv5, and what replaces them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.core.errors import InputError


@dataclass(frozen=True)
class OldFlag:
    """A flag that this command does not have.

    Attributes:
        flags: the flags that replace it, the last one with its value if it has one; none if it asks for the default.
        remedy: what to use, if no flag replaces it.
    """

    flags: tuple[str, ...] = ()
    remedy: str = ""


DEFAULT = OldFlag()
SAVE_TO_PROJECT = OldFlag(remedy="set the folder with --project and --name")
SEMANTIC_DATA = OldFlag(
    remedy="--data takes one YAML with the keys detection and semantic, which name both data sets (docs/semantic.md)"
)
TRAIN_FLAGS: Mapping[str, OldFlag] = {
    "--adam": OldFlag(("--optimizer", "Adam")),
    "--notest": OldFlag(("--noval",)),
    "--no-save": OldFlag(("--nosave",)),
    "--cache-images": OldFlag(("--cache",)),
    "--linear-lr": DEFAULT,
    "--logdir": SAVE_TO_PROJECT,
    "--segdata": SEMANTIC_DATA,
    "--base-size": OldFlag(("--seg-imgsz",)),
}
VAL_FLAGS: Mapping[str, OldFlag] = {
    "--merge": OldFlag(remedy="non-maximum suppression keeps the best box; --augment is another way to a higher mAP"),
    "--segdata": SEMANTIC_DATA,
    "--base-size": OldFlag(("--seg-imgsz",)),
}
DETECT_FLAGS: Mapping[str, OldFlag] = {
    "--no-save": OldFlag(("--nosave",)),
    "--output": SAVE_TO_PROJECT,
}
EXPORT_FLAGS: Mapping[str, OldFlag] = {
    "--grid": DEFAULT,
    "--train": OldFlag(
        remedy="exported files have decoded boxes; for raw outputs export model.train() with torch.onnx.export yourself"
    ),
    "--mlmodel": OldFlag(remedy="--include coreml writes an .mlpackage, which Core ML and Xcode open"),
}

FORK_MODEL = re.compile(r"yolov5([smlx])_(city|citybdd|custom)(_seg)?\.ya?ml")
FORK_DATA = {
    "cityscapes_det.yaml": (
        "convert the boxes with `python -m utils.datasets convert --from cityscapes --boxes` (docs/data.md), and name "
        "the data.yaml that it writes"
    ),
    "citys": "--data cityscapes-semantic.yaml describes its masks (docs/semantic.md)",
}


def replace_old_flags(argv: Sequence[str], table: Mapping[str, OldFlag]) -> list[str]:
    """A command line with the flags of older releases replaced.

    Raises:
        InputError: nothing replaces a flag; the message says what to use.
    """
    result: list[str] = []
    for argument in argv:
        flag, equals, value = argument.partition("=")
        if flag not in table:
            result.append(argument)
            continue
        result += get_replacement(flag, table)
        if equals:
            result.append(value)
    return result


def get_replacement(flag: str, table: Mapping[str, OldFlag]) -> tuple[str, ...]:
    """The flags that replace one of the table; InputError if there are none."""
    if table[flag].remedy:
        raise InputError(f"{flag}: not supported; {table[flag].remedy}")
    return table[flag].flags


def list_old_arguments(name: str, value: object, table: Mapping[str, OldFlag]) -> list[str]:
    """The command line of an old keyword argument, such as `adam=True`; empty if it is off."""
    if value is None or value is False:
        return []
    flags = get_replacement(to_flag(name), table)
    return [*flags] if value is True else [*flags, str(value)]


def find_old_names(names: Iterable[str], table: Mapping[str, OldFlag]) -> list[str]:
    """The keyword arguments that are flags of older releases."""
    return [name for name in names if to_flag(name) in table]


def to_flag(name: str) -> str:
    """The flag of a keyword argument, with hyphens."""
    return f"--{name.replace('_', '-')}"


def check_fork_files(cfg: object, data: object) -> None:
    """InputError for a model or data YAML that only Multi-YOLOv5 has; the message says what to use."""
    path = Path(str(cfg or ""))
    if (match := FORK_MODEL.fullmatch(path.name)) and not path.exists():
        size = match[1]
        raise InputError(
            f"--cfg {cfg}: a file of Multi-YOLOv5; use --cfg yolov5{size}-psp.yaml (or -base, -lab, -bise), which "
            "takes its numbers of classes from --data"
        )
    path = Path(str(data or ""))
    if path.name in FORK_DATA and not path.exists():
        raise InputError(f"--data {data}: a file of Multi-YOLOv5; {FORK_DATA[path.name]}")
