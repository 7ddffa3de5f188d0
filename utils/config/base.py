"""Typed, frozen settings of the commands, whose fields declare their flags.

Nothing here imports torch, so that `--help` and flag errors are fast.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from utils.config.legacy import OldFlag, check_fork_files, find_old_names, list_old_arguments, replace_old_flags
from utils.core.errors import InputError
from utils.core.limits import LiftLimits

ROOT = Path(__file__).resolve().parents[2]
IMG_FLAGS = ("--imgsz", "--img", "--img-size")
SEG_IMGSZ_HELP = "semantic: longer image side in pixels; training scales around it (default: as --imgsz)"
THREADS_HELP = "CPU threads of inference (default: chosen by a short trial, or OMP_NUM_THREADS)"
TRUST_HELP = "load an exported file even if it can do more than compute (see docs/exports.md)"
Config = TypeVar("Config", bound="BaseConfig")


def option(default: Any, *flags: str, help: str, **argparse_options: Any) -> Any:
    """A dataclass field that is set by command-line flags.

    Args:
        default: value without the flag; a list is copied for each instance.
        flags: spellings of the flag, the first for messages.
        help: one line for `--help`; the default is appended.
        argparse_options: passed to `add_argument` (type, nargs, const, choices, action).
    """
    metadata = {"flags": flags, "argparse": {"help": help, **argparse_options}}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def switch(*flags: str, help: str) -> Any:
    """A boolean field, False without its flag."""
    return option(False, *flags, help=help, action="store_true")


@dataclass(frozen=True)
class BaseConfig:
    """Settings from a command line, keyword arguments or a stored mapping.

    Attributes:
        explicit: names of the fields that the caller set.
        hidden: fields of a base class that have no flag in this one.
        old_flags: flags of older releases, which are replaced.
    """

    hidden: ClassVar[frozenset[str]] = frozenset()
    old_flags: ClassVar[Mapping[str, OldFlag]] = {}
    explicit: frozenset[str] = field(default=frozenset(), kw_only=True)

    @classmethod
    def flags(cls) -> dict[str, dataclasses.Field[Any]]:
        """The fields that have flags, by name."""
        return {f.name: f for f in fields(cls) if "flags" in f.metadata and f.name not in cls.hidden}

    @classmethod
    def parser(cls, prog: str | None = None) -> argparse.ArgumentParser:
        """The argparse parser of the command; it accepts unambiguous prefixes of flags."""
        parser = argparse.ArgumentParser(prog=prog, description=(cls.__doc__ or "").splitlines()[0])
        for name, f in cls.flags().items():
            options = dict(f.metadata["argparse"])
            if name == "imgsz":
                options.setdefault("nargs", "+")  # releases up to 5.0 took one size for training and one for validation
            default = get_default(f)
            options["help"] += "" if default in (None, False, "", []) else f" (default: {_format_value(default)})"
            parser.add_argument(*f.metadata["flags"], dest=name, default=argparse.SUPPRESS, **options)
        parser.add_argument(
            "--no-limits",
            action=LiftLimits,
            nargs=0,
            default=argparse.SUPPRESS,
            help="read files of any size; only for files that you trust",
        )
        return parser

    @classmethod
    def from_args(cls: type[Config], argv: Sequence[str] | None = None) -> Config:
        """Settings from a command line (default: sys.argv); argparse exits with status 2 on an error.

        Raises:
            InputError: a value is invalid, or a flag of an older release has no replacement.
        """
        return cls.from_kwargs(**cls.parse_args(argv))

    @classmethod
    def parse_args(cls, argv: Sequence[str] | None = None, *, known: bool = False) -> dict[str, Any]:
        """The values that a command line sets, by field name; with `known`, unknown arguments are ignored."""
        arguments = replace_old_flags(sys.argv[1:] if argv is None else argv, cls.old_flags)
        parser = cls.parser()
        return vars(parser.parse_known_args(arguments)[0] if known else parser.parse_args(arguments))

    @classmethod
    def from_kwargs(cls: type[Config], **values: Any) -> Config:
        """Settings by field name, as in `train.run(imgsz=320)`; `img` and `img_size` are aliases of `imgsz`.

        Raises:
            InputError: no such field, or a value that its flag rejects.
        """
        known = cls.flags()
        for alias in ("img", "img_size"):
            if alias in values and "imgsz" in known:
                values["imgsz"] = values.pop(alias)
        for name in find_old_names(values.keys() - known, cls.old_flags):
            if arguments := list_old_arguments(name, values.pop(name), cls.old_flags):
                values |= vars(cls.parser().parse_args(arguments))
        if unknown := sorted(values.keys() - known):
            raise InputError(f"unknown option {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        values = {name: check_value(known[name], value) for name, value in values.items()}
        check_fork_files(values.get("cfg"), values.get("data"))
        return cls(**values, explicit=frozenset(values))

    def adapt_to(self, kind: type[Config]) -> Config:
        """The explicit settings as a config of class `kind`, with its defaults for all others.

        Raises:
            InputError: `kind` does not have an explicit setting.
        """
        if type(self) is kind:
            return self
        if unsupported := self.explicit - kind.flags().keys():
            raise InputError(f"{format_flags(unsupported)}: not supported for this task; omit it")
        return kind.from_kwargs(**{name: getattr(self, name) for name in self.explicit})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for opt.yaml and checkpoints."""
        return {name: _to_plain(getattr(self, name)) for name in self.flags()}


def format_flags(names: Iterable[str]) -> str:
    """The flags of fields, sorted, for messages."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in sorted(names))


def derive_config(kind: type[Config], description: str, **defaults: Any) -> type[Config]:
    """A subclass of a config with other defaults.

    Args:
        description: one line for `--help`.
        defaults: by field name.
    """
    changed_fields: list[Any] = [
        (f.name, f.type, option(defaults[f.name], *f.metadata["flags"], **f.metadata["argparse"]))
        for f in fields(kind)
        if f.name in defaults
    ]
    namespace = {"__doc__": description, "__module__": kind.__module__}
    derived = dataclasses.make_dataclass(kind.__name__, changed_fields, bases=(kind,), namespace=namespace, frozen=True)
    return cast("type[Config]", derived)


def get_default(f: dataclasses.Field[Any]) -> Any:
    """The default of a field."""
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def check_value(f: dataclasses.Field[Any], value: Any) -> Any:
    """Check and convert a value as its flag would; a single value may replace a list, and `[640]` the size 640.

    A flag with an optional value is on with True and off with False; one with any number of values is True without.
    """
    options, default = f.metadata["argparse"], get_default(f)
    nargs = options.get("nargs")
    if value is None or (value is False and nargs == "?" and not default):
        return default
    if value is True and nargs == "?":
        return options["const"]
    if f.name == "imgsz" and nargs is None and isinstance(value, list | tuple) and len(set(map(str, value))) == 1:
        value = value[0]
    if isinstance(value, list | tuple) and nargs is None and "type" in options:
        raise InputError(f"{f.metadata['flags'][0]} {_format_value(list(value))}: expected one value")
    if f.type == "str" and not isinstance(value, str | Path):
        value = str(value)  # a number or a torch.device
    if value in (default, options.get("const")):
        return value
    if nargs == "*" and value in (True, []):
        return True
    if nargs in ("+", "*") or isinstance(nargs, int):
        items = [_check_item(f, item) for item in (value if isinstance(value, list | tuple) else [value])]
        if isinstance(nargs, int) and len(items) != nargs:
            raise InputError(
                f"{f.metadata['flags'][0]} {_format_value(items)}: expected {nargs} values, got {len(items)}"
            )
        return items
    return _check_item(f, value)


def _check_item(f: dataclasses.Field[Any], value: Any) -> Any:
    """Check and convert one value as argparse would."""
    flag, options = f.metadata["flags"][0], f.metadata["argparse"]
    if value not in options.get("choices", (value,)):
        raise InputError(f"{flag} {value}: must be one of {', '.join(options['choices'])}")
    if options.get("action") == "store_true" and not isinstance(value, bool):
        raise InputError(f"{flag} {value}: must be True or False")
    if "type" not in options:
        return value
    try:
        return options["type"](str(value))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise InputError(f"{flag} {value}: {error}") from error


def _format_value(value: Any) -> str:
    """A value as on a command line."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _to_plain(value: Any) -> Any:
    """The value with paths as strings, for YAML files and checkpoints."""
    if isinstance(value, Path):
        return value.as_posix()
    return [_to_plain(v) for v in value] if isinstance(value, list | tuple) else value
