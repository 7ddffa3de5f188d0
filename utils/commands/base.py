"""What all commands have: settings from a command line, a namespace, or keyword and positional arguments."""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from utils.config.base import BaseConfig
from utils.config.namespaces import is_default, name_positionals, parse_options, read_options, to_options

SCRIPT_DEFAULTS: Mapping[str, Any] = {  # of the arguments of `run` that are no flags
    **dict.fromkeys(("model", "dataloader", "callbacks", "compute_loss", "criterion", "pbar")),
    **{"save_dir": Path(), "plots": True, "overlap": False, "mask_downsample_ratio": 1},
}
Kind = TypeVar("Kind", bound=BaseConfig)


class Command(Generic[Kind]):
    """A command with settings of one kind.

    Args:
        kind: its config class.
        positionals: names of the positional arguments of `run`, in the order of YOLOv5 v7.0.

    Attributes:
        run_defaults: defaults of `run` that differ from those of the command line.
    """

    run_defaults: ClassVar[Mapping[str, Any]] = {}

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

    def sign(self, run: Callable[..., Any], module: str) -> Callable[..., Any]:
        """`run` as a function of a module, which other processes find by its name, with a signature for editors."""

        @functools.wraps(run)
        def call(*args: Any, **options: Any) -> Any:
            return run(*args, **options)

        call.__module__, call.__qualname__ = module, call.__name__
        call.__signature__ = self.build_signature()  # type: ignore[attr-defined]
        return call

    def build_signature(self) -> Signature:
        """The positional arguments of `run`, then all other options as keywords."""
        defaults = {**vars(to_options(self.kind())), **SCRIPT_DEFAULTS, **self.run_defaults}
        names = (*self.positionals, *(name for name in self.kind.flags() if name not in self.positionals))
        return Signature(
            [
                Parameter(
                    name,
                    Parameter.POSITIONAL_OR_KEYWORD if name in self.positionals else Parameter.KEYWORD_ONLY,
                    default=tuple(value) if isinstance(value := defaults[name], list) else value,
                )
                for name in names
            ]
        )

    def name_options(self, args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of `run` by name.

        With a value for each positional argument they are those of a whole `parse_opt()`, as in `run(**vars(opt))`:
        values that equal the defaults do not count as set.
        """
        named = name_positionals(args, self.positionals, options)
        if not self.positionals or not set(self.positionals) <= named.keys():
            return named
        flags = self.kind.flags().keys() - self.run_defaults.keys()
        return {
            name: value
            for name, value in named.items()
            if name not in flags or not is_default(self.kind.flags()[name], value)
        }
