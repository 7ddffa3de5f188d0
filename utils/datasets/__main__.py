"""`python -m utils.datasets`: look at, divide, convert and cut up data sets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from utils.config.base import BaseConfig
from utils.config.datasets import CheckConfig, ConvertConfig, FetchConfig, SplitConfig
from utils.core.errors import InputError
from utils.core.script import run_script
from utils.datasets.tools.crops import CropsConfig

PROGRAM = "python -m utils.datasets"
# settings; module and function that do the work, imported once the flags are right
COMMANDS: dict[str, tuple[type[BaseConfig], str, str]] = {
    "check": (CheckConfig, "utils.datasets.tools.check", "run"),
    "split": (SplitConfig, "utils.datasets.tools.split", "run"),
    "convert": (ConvertConfig, "utils.datasets.tools.convert", "run"),
    "crops": (CropsConfig, "utils.datasets.tools.crops", "write_crops"),
    "fetch": (FetchConfig, "utils.datasets.tools.fetch", "run"),
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
