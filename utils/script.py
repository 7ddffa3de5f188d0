"""How every command starts and ends: errors of the user as one line, exit status, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from utils.errors import InputError
from utils.logging import setup_logging

EXIT_PROBLEM, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def run_script(main: Callable[[], int | None]) -> None:
    """Call `main` and leave the process: 0 or main's own status, 2 for an InputError, 130 for Ctrl-C."""
    setup_logging()
    try:
        status = main() or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = EXIT_INTERRUPTED
    sys.exit(status)
