"""Value types of flags: accepted values and messages for others."""

import argparse
from collections.abc import Callable

import pytest

from utils.config.flag_types import (
    fraction,
    not_negative_float,
    not_negative_int,
    positive_float,
    positive_int,
    seed_value,
)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (positive_int, "1", 1),
        (not_negative_int, "0", 0),
        (seed_value, str(2**32 - 1), 2**32 - 1),
        (fraction, "1", 1.0),
        (not_negative_float, "0", 0.0),
        (positive_float, "0.5", 0.5),
    ],
)
def test_valid_values(parse: Callable[[str], float], text: str, value: float) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (positive_int, "0", "0 must be at least 1"),
        (not_negative_int, "-1", "-1 must be at least 0"),
        (seed_value, str(2**32), "must be between 0 and 4294967295"),
        (fraction, "1.01", "must be between 0 and 1"),
        (not_negative_float, "-0.1", "must be a finite number of at least 0"),
        (not_negative_float, "nan", "must be a finite number of at least 0"),
        (positive_float, "0", "must be a finite number above 0"),
        (positive_float, "inf", "must be a finite number above 0"),
    ],
)
def test_invalid_values(parse: Callable[[str], float], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        parse(text)


def test_text_is_reported_as_an_invalid_int() -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--batch", type=positive_int)
    with pytest.raises(argparse.ArgumentError, match="invalid int value: 'x'"):
        parser.parse_args(["--batch", "x"])
