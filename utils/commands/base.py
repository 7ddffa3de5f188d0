"""What all commands have: settings from a command line, a namespace, or keyword and positional arguments."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from utils.config.base import BaseConfig
from utils.config.namespaces import name_positionals, parse_options, read_options

Kind = TypeVar("Kind", bound=BaseConfig)


class Command(Generic[Kind]):
    """A command with settings of one kind.

    Args:
        kind: its config class.
        positionals: names of the positional arguments of `run`, in the order of YOLOv5 v7.0.
    """

    def __init__(self, kind: type[Kind], positionals: str = "") -> None:
        self.kind, self.positionals = kind, tuple(positionals.split())

    def parse_opt(self, known: bool = False) -> Namespace:
        """The options of `sys.argv`, with a value for every flag; `main` takes them, changed or not.

        Args:
            known: ignore unknown arguments.
        """
        return parse_options(self.kind, known=known)

    def read_config(self, opt: Namespace | Sequence[str] | None) -> Kind:
        """The settings of a namespace or of command-line arguments (None: those of the process)."""
        return read_options(self.kind, opt) if isinstance(opt, Namespace) else self.kind.from_args(opt)

    def name_options(self, args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of `run` by name."""
        return name_positionals(args, self.positionals, options)
