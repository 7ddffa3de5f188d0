"""How every command starts and ends: errors of the user as one line, exit status, no traceback."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable

from utils.core.errors import WORKER_DIED, InputError, StoppedError
from utils.core.logging import setup_logging

ENVIRONMENT = frozenset(  # what a disk or a folder's owner refuses, as against a mistake of ours
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG", "EFBIG")
    if hasattr(errno, name)
)
LOST_PEER = re.compile(r"Connection (closed|reset) by peer|remote process exited")  # gloo and NCCL of another's end
EXIT_PROBLEM, EXIT_USAGE, EXIT_LOST, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 3, 130, 143


def run_script(main: Callable[[], int | None]) -> None:
    """Call `main` and leave with 0 or main's own status, or with one that says what ended it.

    2: an InputError, a disk that refuses, or a loader process that the system ended. 3: of several training processes
    another one ended. 130: Ctrl-C. 143: a SIGTERM that `main` answered by ending in good order.
    """
    setup_logging()
    try:
        status = main() or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = EXIT_USAGE
    except OSError as error:
        if error.errno not in ENVIRONMENT:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}; free the place or name another", file=sys.stderr)
        status = EXIT_USAGE
    except RuntimeError as error:
        if "LOCAL_RANK" in os.environ and LOST_PEER.search(str(error)):
            sys.exit(EXIT_LOST)  # the other process has said why
        if not str(error).startswith(WORKER_DIED):
            raise
        reason = str(error).splitlines()[0].rstrip(" .")
        print(f"error: {reason}. Most often memory is short: give fewer --workers or a smaller size", file=sys.stderr)
        status = EXIT_USAGE
    except StoppedError as error:
        print(error, file=sys.stderr)
        status = EXIT_TERMINATED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = EXIT_INTERRUPTED
    sys.exit(status)
