"""Data set commands: `python -m utils.datasets check|split|convert|crops|tile|fetch`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from utils.config.base import BaseConfig
from utils.config.datasets import CheckConfig, ConvertConfig, CropsConfig, FetchConfig, SplitConfig, TileConfig
from utils.core.errors import InputError
from utils.core.lazy import import_project_module
from utils.core.script import run_script

PROGRAM = "python -m utils.datasets"
COMMANDS: dict[str, type[BaseConfig]] = {
    "check": CheckConfig,
    "split": SplitConfig,
    "convert": ConvertConfig,
    "crops": CropsConfig,
    "tile": TileConfig,
    "fetch": FetchConfig,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its module is imported only once the flags are checked."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(format_usage())
        return 0
    command, *flags = args
    if command not in COMMANDS:
        raise InputError(f"{PROGRAM} {command}: no such command; choose from {', '.join(COMMANDS)}")
    config_class = COMMANDS[command]
    config = config_class.from_kwargs(**vars(config_class.parser(f"{PROGRAM} {command}").parse_args(flags)))
    result = import_project_module(f"utils.datasets.tools.{command}").run(config)
    return result if isinstance(result, int) else 0


def format_usage() -> str:
    """Usage text with one line per command."""
    lines = (f"  {name:9}{(config.__doc__ or '').splitlines()[0]}" for name, config in COMMANDS.items())
    return "\n".join([f"usage: {PROGRAM} COMMAND [flags]    (COMMAND --help lists its flags)\n", *lines])


if __name__ == "__main__":
    run_script(main)
