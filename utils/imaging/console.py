"""What C libraries write to standard error while they decode images; their messages name no file."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2  # file descriptor
LOG_PREFIX = re.compile(r"\[ *([A-Z]+):[^\]]*\] global \S+ ")  # of OpenCV: level, place in its source

_redirection: list[int] = []  # descriptors of the null device and of standard error, if decoders are silenced


@contextmanager
def capture_stderr() -> Iterator[list[str]]:
    """Collect what the process writes to standard error within the block, in a list that is filled at its end.

    Warnings of OpenCV, such as unknown tags of a GeoTIFF, are left out, and the prefix of its errors.
    """
    lines: list[str] = []
    try:
        original, file = os.dup(STDERR), tempfile.TemporaryFile()  # noqa: SIM115
    except OSError:  # there is no standard error, or no folder for the file
        yield lines
        return
    with file:
        os.dup2(file.fileno(), STDERR)
        try:
            yield lines
        finally:
            os.dup2(original, STDERR)
            os.close(original)
            file.seek(0)
            lines += _parse_lines(file.read().decode(errors="replace"))


def silence_decoders() -> None:
    """Discard what decoders write to standard error from now on; for a process that decodes in one thread only."""
    if not _redirection:
        _redirection.extend((os.open(os.devnull, os.O_WRONLY), os.dup(STDERR)))


@contextmanager
def decoder_output() -> Iterator[None]:
    """Within the block, standard error is that of decoders, which may be silenced."""
    if not _redirection:
        yield
        return
    null, original = _redirection
    os.dup2(null, STDERR)
    try:
        yield
    finally:
        os.dup2(original, STDERR)


def _parse_lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        match = LOG_PREFIX.match(line)
        if match is None:
            yield line
        elif match[1] in ("ERROR", "FATAL"):
            yield line[match.end() :]
