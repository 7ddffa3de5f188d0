"""Arguments that earlier releases of YOLOv5 called otherwise."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


def accept_renamed(**names: str) -> Callable[[Function], Function]:
    """A decorator of a function that also takes keyword arguments by their former names.

    Args:
        names: former name to present name, as in `accept_renamed(img_size="imgsz")`.

    Raises:
        TypeError: by the function, if an argument is given under both names.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for former, present in names.items():
                if former in kwargs:
                    if present in kwargs:
                        raise TypeError(f"{function.__qualname__}: {former} is the former name of {present}; give one")
                    kwargs[present] = kwargs.pop(former)
            return function(*args, **kwargs)

        return cast(Function, call)

    return decorate
