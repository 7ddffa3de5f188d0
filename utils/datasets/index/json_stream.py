"""JSON files whole, and files of any size entry by entry: millions of annotations do not fit into memory as objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from utils.core.errors import InputError

CHUNK = 1 << 20  # characters read at a time
NEAR_END = 64  # an error so close to the end of what was read may come from what was not read yet


def read_json(file: Path) -> Any:
    """What a JSON file holds; InputError with file and line where it is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"{file}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error


def stream_lists(file: Path) -> Iterator[tuple[str, Any]]:
    """The entries of all lists in the object that a file holds, each with the list's key; other values come whole.

    Raises:
        InputError: the file cannot be read, or is not a JSON object.
    """
    try:
        with file.open(encoding="utf-8-sig") as stream:
            yield from _entries(_Cursor(stream, file))
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error


class _Cursor:
    """A place in a text that is read as it is needed."""

    def __init__(self, stream: TextIO, file: Path) -> None:
        self.stream, self.file = stream, file
        self.text, self.at, self.passed = "", 0, 0
        self.decode = json.JSONDecoder().raw_decode

    def more(self) -> bool:
        """Read on, in ever larger pieces while a value is not complete; False at the end."""
        piece = self.stream.read(max(CHUNK, len(self.text) - self.at))
        self.passed += self.at
        self.text, self.at = self.text[self.at :] + piece, 0
        return bool(piece)

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at].isspace():
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, *expected: str) -> str:
        """The next character, which must be one of `expected`."""
        found = self.peek()
        if found not in expected or not found:
            raise self.error(f"expected {' or '.join(expected)}, found {found or 'the end'}")
        self.at += 1
        return found

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                value, end = self.decode(self.text, self.at)
            except json.JSONDecodeError as error:
                open_text = error.msg.startswith("Unterminated string")
                if (error.pos < len(self.text) - NEAR_END and not open_text) or not self.more():
                    raise self.error(error.msg) from error
                continue
            if end < len(self.text) or not self.more():  # a number may go on in what was not read yet
                self.at = end
                return value

    def error(self, reason: str) -> InputError:
        return InputError(f"{self.file}: not valid JSON near character {self.passed + self.at}: {reason}")


def _entries(cursor: _Cursor) -> Iterator[tuple[str, Any]]:
    cursor.take("{")
    if cursor.peek() == "}":
        return
    while True:
        key = cursor.value()
        cursor.take(":")
        if cursor.peek() == "[":
            yield from ((str(key), item) for item in _items(cursor))
        else:
            yield str(key), cursor.value()
        if cursor.take(",", "}") == "}":
            return


def _items(cursor: _Cursor) -> Iterator[Any]:
    cursor.take("[")
    if cursor.peek() == "]":
        cursor.take("]")
        return
    while True:
        yield cursor.value()
        if cursor.take(",", "]") == "]":
            return
