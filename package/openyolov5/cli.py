"""Command `openyolov5`: the scripts of the project as subcommands, with the same flags."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

PROGRAM = "openyolov5"
COMMANDS = {  # words: (module with a function main, one line of help)
    "train": ("train", "train a detection, segmentation or semantic model"),
    "val": ("val", "validate: precision, recall, mAP"),
    "detect": ("detect", "run on images, videos and streams"),
    "export": ("export", "export to ONNX, OpenVINO, TensorRT, ..."),
    "benchmark": ("benchmarks", "size, accuracy and speed of every format"),
    "segment train": ("segment.train", "train an instance segmentation model"),
    "segment val": ("segment.val", "validate an instance segmentation model"),
    "segment predict": ("segment.predict", "run an instance segmentation model"),
    "classify train": ("classify.train", "train a classifier"),
    "classify val": ("classify.val", "validate a classifier"),
    "classify predict": ("classify.predict", "run a classifier"),
    "data": ("utils.datasets.__main__", "check, split, convert, crops, fetch: tools for data sets"),
    "anchors": ("utils.datasets.tools.anchors", "fit anchors to a data set"),
    "prune": ("utils.prune", "prune a checkpoint and measure it"),
    "demo": ("utils.demo", "train, validate and detect on generated images; one HTML page"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status: 2 for an unknown command or invalid flags.

    Args:
        argv: words after the program's name (default: those of the process).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(format_usage())
        return
    if words[0] in ("-V", "--version"):
        print(f"{PROGRAM} {import_module('openyolov5').__version__}")
        return
    command, flags = split_command(words)
    if command not in COMMANDS:
        sys.exit(describe_unknown(command))
    sys.argv = [f"{PROGRAM} {command}", *flags]  # the name in usage texts; several GPUs: see utils/train/launch.py
    from openyolov5.utils.core.script import run_script

    run_script(import_module(f"openyolov5.{COMMANDS[command][0]}").main)


def split_command(words: Sequence[str]) -> tuple[str, list[str]]:
    """The command, of one or two words, and its flags."""
    groups = {command.split()[0] for command in COMMANDS if " " in command}
    count = 2 if words[0] in groups else 1
    return " ".join(words[:count]), list(words[count:])


def describe_unknown(command: str) -> int:
    """Print what is wrong with the command and its nearest one, or the commands of a group; the exit status."""
    group = [name for name in COMMANDS if name.startswith(f"{command.split()[0]} ")]
    if group and command.split()[1:] in ([], ["-h"], ["--help"]):
        print(format_usage(group))
        return 0 if command.split()[1:] else 2
    near = get_close_matches(command, group or COMMANDS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    print(f"error: {PROGRAM} {command}: no such command; {hint}known: {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


def format_usage(commands: Sequence[str] = tuple(COMMANDS)) -> str:
    """Usage text with one line per command."""
    lines = [f"  {command:<17}{COMMANDS[command][1]}" for command in commands]
    return "\n".join([f"usage: {PROGRAM} COMMAND [flags]    (COMMAND --help lists its flags)\n", *lines])


if __name__ == "__main__":
    main()
