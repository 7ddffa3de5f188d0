"""Running a command: logging, user errors as one line, exit status."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable

from utils.core.errors import WORKER_DIED, InputError, StoppedError
from utils.core.logging import setup_logging

USER_ERRNOS = frozenset(  # from disks and permissions, not from bugs
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG", "EFBIG")
    if hasattr(errno, name)
)
LOST_PEER = re.compile(r"Connection (closed|reset) by peer|remote process exited")  # from gloo and NCCL
EXIT_PROBLEM, EXIT_USAGE, EXIT_LOST, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 3, 130, 143


def run_script(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with the status that it returns (default 0), or with that of its error.

    2: InputError, disk or permission error, or a loader process killed by the system. 3: another rank of the training
    ended. 130: Ctrl-C. 143: clean shutdown on SIGTERM.
    """
    setup_logging()
    try:
        status = main() or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = EXIT_USAGE
    except OSError as error:
        if error.errno not in USER_ERRNOS:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}; free space or choose another path", file=sys.stderr)
        status = EXIT_USAGE
    except RuntimeError as error:
        if "LOCAL_RANK" in os.environ and LOST_PEER.search(str(error)):
            sys.exit(EXIT_LOST)  # the other rank has reported the reason
        if not str(error).startswith(WORKER_DIED):
            raise
        reason = str(error).splitlines()[0].rstrip(" .")
        print(f"error: {reason}. Memory may be short: use fewer --workers or a smaller image size", file=sys.stderr)
        status = EXIT_USAGE
    except StoppedError as error:
        print(error, file=sys.stderr)
        status = EXIT_TERMINATED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = EXIT_INTERRUPTED
    sys.exit(status)
