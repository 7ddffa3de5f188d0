"""Types of flags: what is taken, and what is said of the rest."""

import argparse
from collections.abc import Callable

import pytest

from utils.config.flag_types import (
    not_negative_float,
    not_negative_int,
    positive_float,
    positive_int,
    seed_number,
    share,
)


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (positive_int, "1", 1),
        (not_negative_int, "0", 0),
        (seed_number, str(2**32 - 1), 2**32 - 1),
        (share, "1", 1.0),
        (not_negative_float, "0", 0.0),
        (positive_float, "0.5", 0.5),
    ],
)
def test_what_is_taken(read: Callable[[str], float], text: str, value: float) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (positive_int, "0", "0 is not at least 1"),
        (not_negative_int, "-1", "-1 is not at least 0"),
        (seed_number, str(2**32), "outside 0-4294967295"),
        (share, "1.01", "outside 0-1"),
        (not_negative_float, "-0.1", "not a number of at least 0"),
        (not_negative_float, "nan", "not a number of at least 0"),
        (positive_float, "0", "not a number above 0"),
        (positive_float, "inf", "not a number above 0"),
    ],
)
def test_what_is_refused(read: Callable[[str], float], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        read(text)


def test_text_that_is_no_number_is_called_an_invalid_int() -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--batch", type=positive_int)
    with pytest.raises(argparse.ArgumentError, match="invalid int value: 'x'"):
        parser.parse_args(["--batch", "x"])
