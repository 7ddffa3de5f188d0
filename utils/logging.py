"""One logger for all commands: plain lines on standard error."""

from __future__ import annotations

import logging
import os
import sys

LOGGER = logging.getLogger("openyolov5")


def setup_logging(*, verbose: bool = True) -> None:
    """Send LOGGER to standard error; called by main(), never on import. YOLOv5_VERBOSE=false leaves warnings only."""
    verbose = verbose and os.getenv("YOLOv5_VERBOSE", "true").lower() != "false"
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO if verbose else logging.WARNING)
    LOGGER.propagate = False
