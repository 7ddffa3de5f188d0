"""Running a command: logging, user errors as one line, exit status."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress

from utils.core.errors import WORKER_DIED, InputError, StoppedError
from utils.core.logging import setup_logging

USER_ERRNOS = frozenset(  # from disks and permissions, not from bugs
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG", "EFBIG")
    if hasattr(errno, name)
)
LOST_PEER = re.compile(r"Connection (closed|reset) by peer|remote process exited")  # from gloo and NCCL
EXIT_PROBLEM, EXIT_USAGE, EXIT_LOST, EXIT_INTERRUPTED = 1, 2, 3, 130


def run_script(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with the status that it returns (default 0), or with that of its error.

    2: InputError, disk or permission error, or a loader process killed by the system. 3: another rank of the training
    ended. 130: Ctrl-C. 143 and 129: clean end on SIGTERM and SIGHUP.
    """
    setup_logging()
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # read when it is imported; its warnings name no file
    try:
        status = main() or 0
    except InputError as error:
        _print(f"error: {error}")
        status = EXIT_USAGE
    except OSError as error:
        if error.errno not in USER_ERRNOS:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _print(f"error: {place}{error.strerror}; free space or choose another path")
        status = EXIT_USAGE
    except RuntimeError as error:
        if "LOCAL_RANK" in os.environ and LOST_PEER.search(str(error)):
            sys.exit(EXIT_LOST)  # the other rank has reported the reason
        if not str(error).startswith(WORKER_DIED):
            raise
        reason = str(error).splitlines()[0].rstrip(" .")
        _print(f"error: {reason}. Memory may be short: use fewer --workers or a smaller image size")
        status = EXIT_USAGE
    except StoppedError as error:
        _print(str(error))
        status = error.status
    except KeyboardInterrupt:
        _print("interrupted")
        status = EXIT_INTERRUPTED
    sys.exit(status)


def _print(text: str) -> None:
    with suppress(OSError):  # the terminal may be closed
        print(text, file=sys.stderr)
