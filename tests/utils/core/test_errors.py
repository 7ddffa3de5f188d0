"""utils/core/errors.py: messages are one line of bounded length."""

from __future__ import annotations

import pickle

import pytest

from utils.core.errors import MAX_MESSAGE, InputError


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("dïsc.pt: no such file", "dïsc.pt: no such file"),
        ("two\nlines", "two lines"),
        ("clear \x1b[2J, back \u202e, byte \udcff", r"clear \x1b[2J, back \u202e, byte \udcff"),
    ],
)
def test_messages_are_one_printable_line(message: str, expected: str) -> None:
    assert str(InputError(message)) == expected


def test_a_long_value_leaves_place_and_remedy() -> None:
    message = str(InputError(f"a.yaml: lr0: {'9' * 10**6} is too large; choose a smaller value"))
    assert message.startswith("a.yaml: lr0: 999")
    assert message.endswith("999 is too large; choose a smaller value")
    assert len(message) <= MAX_MESSAGE + 5


def test_an_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(InputError("a.yaml: no such file")))
    assert str(error) == "a.yaml: no such file"
