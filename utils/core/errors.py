"""User errors, which scripts print as one line."""

from __future__ import annotations

import signal

WORKER_DIED = "DataLoader worker (pid"  # start of the PyTorch message about a killed loader process
MAX_MESSAGE, MESSAGE_END = 800, 200  # characters of a message, and of its end, where the remedy is


class InputError(ValueError):
    """A file, flag or value of the user cannot be used; the message names place, value and remedy.

    Values in the message may come from a hostile file: it is cut to a bounded length, without control characters.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(to_one_line(str(message)))


class StoppedError(Exception):
    """The run was ended by a signal, and what it had written is complete.

    Args:
        received: the signal.
        reason: end of the message.

    Attributes:
        status: exit status of the program.
    """

    def __init__(self, received: signal.Signals, reason: str = "") -> None:
        super().__init__(f"terminated ({received.name}){reason}")
        self.status = 128 + received


def to_one_line(text: str) -> str:
    """The text without line breaks, other control characters escaped, the middle of a long text left out."""
    if len(text) > MAX_MESSAGE:
        text = f"{text[: MAX_MESSAGE - MESSAGE_END]} ... {text[-MESSAGE_END:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else repr(c)[1:-1] for c in text)
