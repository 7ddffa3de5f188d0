"""Log, system and timing: `LOGGER`, `print_args`, `Profile`, what kind of system runs this."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import platform
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from utils.core.logging import LOGGER, setup_logging
from utils.core.ranks import RANK
from utils.core.timing import Profile

__all__ = [
    "LOGGER", "LOGGING_NAME", "RANK", "VERBOSE", "Profile", "Timeout", "WorkingDirectory", "colorstr", "is_ascii",
    "is_chinese", "is_colab", "is_docker", "is_kaggle", "is_notebook", "is_pip", "is_writeable", "isdocker", "methods",
    "print_args", "set_logging",
]  # fmt: skip
LOGGING_NAME = "yolov5"  # `logging.getLogger` answers LOGGER to it, too
VERBOSE = os.getenv("YOLOv5_VERBOSE", "true").lower() == "true"
ANSI = dict(zip(("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"), range(30, 38), strict=True))
ANSI |= {f"bright_{name}": code + 60 for name, code in ANSI.items()} | {"end": 0, "bold": 1, "underline": 4}


# -- log --------------------------------------------------------------------------------------------------------------


class _RootHandlers(list[logging.Handler]):
    """Handlers of the root logger, with one that is made when the first of none is asked for.

    Scripts index `logging.getLogger().handlers[0]`, and `logging.basicConfig` only works as long as there is none.
    """

    def __getitem__(self, index: Any) -> Any:
        if index in (0, -1) and not len(self):
            self.append(logging.StreamHandler())
        return super().__getitem__(index)


def set_logging(name: str | int | None = LOGGING_NAME, verbose: bool = True) -> None:
    """Write plain lines to standard error: all of them on the main process, errors only on others.

    Args:
        name: of a logger; before release 6.1 the rank of the process was given in its place.
        verbose: False for warnings and errors only.
    """
    rank = name if isinstance(name, int) else RANK
    setup_logging(verbose=verbose)
    if rank > 0:
        LOGGER.setLevel(logging.ERROR)
    if isinstance(name, str) and name not in (LOGGING_NAME, LOGGER.name):
        other = logging.getLogger(name)
        other.handlers, other.propagate = list(LOGGER.handlers), False
        other.setLevel(LOGGER.level)


def prepare_import() -> None:
    """Make `LOGGER` print for a script that imports it, unless a command of this project has set it up."""
    if not LOGGER.handlers:
        set_logging()
    logging.Logger.manager.loggerDict[LOGGING_NAME] = LOGGER
    if type(logging.root.handlers) is list:
        logging.root.handlers = _RootHandlers(logging.root.handlers)


def colorstr(*input: Any) -> str:
    """Colored text for a terminal, as in `colorstr("red", "bold", "text")`; bold blue by default."""
    *styles, text = input
    codes = "".join(f"\033[{ANSI[style]}m" for style in styles or ("blue", "bold"))
    return f"{codes}{text}\033[{ANSI['end']}m"


def print_args(args: Any = None, show_file: Any = True, show_func: bool = False) -> None:
    """Log `name=value` for `args`, or for the arguments of the calling function.

    Args:
        args: mapping of names and values.
        show_file, show_func: begin with the name of the caller's file and function.

    In release 6.0 the arguments were a title and a namespace: `print_args(title, opt)`.
    """
    frame = inspect.currentframe()
    caller = frame.f_back if frame else None
    if isinstance(args, str):
        title, values = [args], show_file
    else:
        title, values = _describe_caller(caller, bool(show_file), show_func), args
        if values is None:
            values = inspect.getargvalues(caller)[3] if caller else {}
    values = values if isinstance(values, Mapping) else vars(values)
    LOGGER.info(": ".join([*title, ", ".join(f"{name}={value}" for name, value in values.items())]))


def _describe_caller(caller: FrameType | None, show_file: bool, show_func: bool) -> list[str]:
    code = caller.f_code if caller else None
    place = [Path(code.co_filename).stem] if code and show_file else []
    return place + ([code.co_name] if code and show_func else [])


def methods(instance: Any) -> list[str]:
    """Names of the methods of an object, without special ones."""
    return [name for name in dir(instance) if not name.startswith("__") and callable(getattr(instance, name))]


# -- system -----------------------------------------------------------------------------------------------------------


def is_ascii(s: Any = "") -> bool:
    """Whether the text of an object has ASCII characters only."""
    return str(s).isascii()


def is_chinese(s: Any = "人工智能") -> bool:
    """Whether the text of an object has a Chinese character (CJK Unified Ideographs)."""
    return re.search("[\u4e00-\u9fff]", str(s)) is not None


def is_colab() -> bool:
    """Whether this runs in Google Colab."""
    return "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ


def is_kaggle() -> bool:
    """Whether this runs in a Kaggle notebook."""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def is_notebook() -> bool:
    """Whether this runs in a Jupyter notebook: an IPython with a kernel."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return hasattr(get_shell(), "kernel")


def is_docker() -> bool:
    """Whether this runs in a Docker container."""
    groups = Path("/proc/self/cgroup")
    return Path("/.dockerenv").exists() or (groups.is_file() and "docker" in groups.read_text(errors="replace"))


isdocker = is_docker  # name in 5.0


def is_pip() -> bool:
    """Whether this project is installed as a package, not run from a checkout."""
    return "site-packages" in Path(__file__).resolve().parts


def is_writeable(dir: str | Path, test: bool = False) -> bool:
    """Whether files can be written to a folder, by its permissions; with `test` by writing one."""
    if not test:
        return os.access(dir, os.W_OK)
    try:
        tempfile.TemporaryFile(dir=dir).close()
    except OSError:
        return False
    return True


# -- contexts, also as decorators -------------------------------------------------------------------------------------


class Timeout(contextlib.ContextDecorator):
    """Ends a block after some seconds with a TimeoutError, which is suppressed by default.

    It uses the signal SIGALRM: on Windows, and in other threads than the main one, the block has no limit.

    Args:
        seconds: limit, greater than 0.
        timeout_msg: text of the error.
        suppress_timeout_errors: leave the block without an error.
    """

    def __init__(self, seconds: float, *, timeout_msg: str = "", suppress_timeout_errors: bool = True) -> None:
        self.seconds, self.timeout_message, self.suppress = float(seconds), timeout_msg, suppress_timeout_errors
        self._previous: Any = None

    def __enter__(self) -> Timeout:
        if platform.system() != "Windows" and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGALRM, self._stop)
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
        return self

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> bool:
        if self._previous is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._previous)
            self._previous = None
        return self.suppress and exc_type is TimeoutError

    def _stop(self, number: int, frame: FrameType | None) -> None:
        raise TimeoutError(self.timeout_message)


class WorkingDirectory(contextlib.ContextDecorator):
    """Runs a block in another working directory."""

    def __init__(self, new_dir: str | Path) -> None:
        self.dir, self.cwd = new_dir, Path.cwd().resolve()

    def __enter__(self) -> WorkingDirectory:
        self.cwd = Path.cwd().resolve()
        os.chdir(self.dir)
        return self

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        os.chdir(self.cwd)
