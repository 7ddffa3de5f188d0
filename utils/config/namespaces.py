"""Options of a command as an `argparse.Namespace`, and positional arguments, as scripts for YOLOv5 pass them."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from utils.config.base import BaseConfig, Config, check_value, get_default
from utils.config.legacy import find_old_names
from utils.core.errors import InputError
from utils.core.logging import LOGGER

RUN_STATE = frozenset({"save_dir", "world_size", "total_batch_size", "global_rank", "data_dict"})  # set by train.py


class Options(Namespace):
    """Options of a command line; `vars()` has a value for every flag."""

    __slots__ = ("_explicit",)  # beside the options
    _explicit: frozenset[str]  # those that the command line set


def parse_options(kind: type[BaseConfig], argv: Sequence[str] | None = None, *, known: bool = False) -> Options:
    """The options of a command line (default: sys.argv).

    Args:
        known: ignore unknown arguments; otherwise argparse exits with status 2.

    Raises:
        InputError: as `BaseConfig.from_args`.
    """
    return to_options(kind.from_kwargs(**kind.parse_args(argv, known=known)))


def to_options(config: BaseConfig) -> Options:
    """The options of a config; image sizes of two sides have both."""
    options = Options(**{name: getattr(config, name) for name in config.flags()})
    if isinstance(sides := getattr(options, "imgsz", None), list) and len(sides) == 1:
        options.imgsz = sides * 2
    options._explicit = config.explicit
    return options


def read_options(kind: type[Config], options: Namespace) -> Config:
    """The config of a namespace, whose values other than the defaults count as set; others are ignored with a warning.

    Raises:
        InputError: a value is invalid.
    """
    known = kind.flags()
    explicit: frozenset[str] = getattr(options, "_explicit", frozenset())
    old = find_old_names(vars(options).keys() - known, kind.old_flags)
    values, unknown = {}, []
    for name, value in vars(options).items():
        if name in old:
            values[name] = value
        elif name not in known:
            unknown.append(name)
        elif name in explicit or not is_default(known[name], value):
            values[name] = value
    if unused := sorted(set(unknown) - RUN_STATE):
        LOGGER.warning(f"WARNING unknown options are ignored: {', '.join(unused)}")
    return kind.from_kwargs(**values)


def is_default(f: dataclasses.Field[Any], value: Any) -> bool:
    """Whether the value of a flag is its default, also in another form, such as a size of one number."""
    default, value = get_default(f), check_value(f, value)
    if isinstance(default, list) and isinstance(value, list) and len(set(value)) == len(default) == 1:
        return value[0] == default[0]  # one side of an image, or both
    return bool(value == default)


def name_positionals(args: Sequence[Any], names: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments with the positional ones added.

    Args:
        args: positional arguments. names: theirs, in order.
        options: keyword arguments.

    Raises:
        InputError: there are too many, or one is given twice.
    """
    if len(args) > len(names):
        raise InputError(f"{len(args)} positional arguments; there are {len(names)}: {', '.join(names)}")
    named = dict(zip(names, args, strict=False))
    if twice := sorted(named.keys() & options):
        raise InputError(f"given twice, by position and by name: {', '.join(twice)}; give it once")
    return named | dict(options)
