"""`python -m utils.datasets`: look at, divide, convert and cut up data sets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from utils.config import BaseConfig
from utils.config_datasets import CheckConfig, ConvertConfig, FetchConfig, SplitConfig
from utils.datasets.crops import CropsConfig
from utils.errors import InputError
from utils.script import run_script

PROGRAM = "python -m utils.datasets"
# settings; module and function that do the work, imported once the flags are right
COMMANDS: dict[str, tuple[type[BaseConfig], str, str]] = {
    "check": (CheckConfig, "utils.datasets.check", "run"),
    "split": (SplitConfig, "utils.datasets.split", "run"),
    "convert": (ConvertConfig, "utils.datasets.convert", "run"),
    "crops": (CropsConfig, "utils.datasets.crops", "write_crops"),
    "fetch": (FetchConfig, "utils.datasets.fetch", "run"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry: the first word is the command, the rest its flags."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        print(usage())
        return 0
    if given[0] not in COMMANDS:
        raise InputError(f"{PROGRAM} {given[0]}: no such command; there are {', '.join(COMMANDS)}")
    kind, module, function = COMMANDS[given[0]]
    config = kind.from_kwargs(**vars(kind.parser(f"{PROGRAM} {given[0]}").parse_args(given[1:])))
    result = getattr(import_module(module), function)(config)
    return result if isinstance(result, int) else 0


def usage() -> str:
    """The commands, a line each."""
    lines = (f"  {name:9}{(kind.__doc__ or '').splitlines()[0]}" for name, (kind, *_) in COMMANDS.items())
    return "\n".join([f"usage: {PROGRAM} COMMAND [flags]    (COMMAND --help lists its flags)\n", *lines])


if __name__ == "__main__":
    run_script(main)
