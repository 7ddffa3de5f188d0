"""OpenYOLOv5 without the networks: data, losses, metrics, tasks, training and inference.

The functions here are a public address; nothing inside uses them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shutil
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["TryExcept", "emojis", "join_threads", "notebook_init", "threaded"]


def emojis(str: str = "") -> str:
    """The text, on Windows without characters other than ASCII."""
    return str.encode().decode("ascii", "ignore") if platform.system() == "Windows" else str


class TryExcept(contextlib.ContextDecorator):
    """Prints an exception of a block or a decorated function, after `msg`, and continues."""

    def __init__(self, msg: str = "") -> None:
        self.msg = msg

    def __enter__(self) -> None:
        pass

    def __exit__(self, exc_type: Any, value: Any, traceback: Any) -> bool:
        if isinstance(value, Exception):
            print(emojis(f"{self.msg}{': ' if self.msg else ''}{value}"))
        return value is None or isinstance(value, Exception)


def threaded(func: Callable[..., Any]) -> Callable[..., threading.Thread]:
    """A decorator: calls run in a thread of their own, which is returned."""

    @functools.wraps(func)
    def start(*args: Any, **kwargs: Any) -> threading.Thread:
        call = functools.partial(func, *args, **kwargs)
        worker = threading.Thread(name=getattr(func, "__name__", None), target=call, daemon=True)
        worker.start()
        return worker

    return start


def join_threads(verbose: bool = False) -> None:
    """Wait for all threads but the calling and the main one; `verbose` prints their names."""
    for thread in threading.enumerate():
        if thread not in (threading.current_thread(), threading.main_thread()):
            if verbose:
                print(f"Joining thread {thread.name}")
            thread.join()


def notebook_init(verbose: bool = True) -> Any:
    """Print versions and hardware for a notebook; returns `IPython.display`, or None without IPython.

    Args:
        verbose: also print the numbers of CPUs, of GB of memory and of GB on the disk.
    """
    import torch  # takes seconds, and the functions above need none

    from utils.core.device import describe_device

    print(describe_device(torch.device("cuda:0" if torch.cuda.is_available() else "cpu")))
    if verbose:
        disk = shutil.disk_usage("/")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0.0
        print(
            f"{os.cpu_count()} CPUs, {memory:.1f} GB RAM, {(disk.total - disk.free) / 2**30:.1f}/"
            f"{disk.total / 2**30:.1f} GB disk"
        )
    try:
        from IPython import display
    except ImportError:
        return None
    return display
