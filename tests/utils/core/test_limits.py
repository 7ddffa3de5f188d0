"""utils/core/limits.py: limits, and how they are lifted."""

from __future__ import annotations

import pytest

from utils.config.val import ValConfig
from utils.core.errors import InputError
from utils.core.limits import NO_LIMITS, are_limits_on, check_limit


def test_values_up_to_the_limit_pass() -> None:
    check_limit("a.png", "pixels", 100, 100)
    with pytest.raises(InputError, match=r"a\.png: 1,001 pixels, the limit is 1,000; use --no-limits"):
        check_limit("a.png", "pixels", 1001, 1000)


def test_the_flag_lifts_limits_and_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NO_LIMITS, "0")
    assert are_limits_on()
    config = ValConfig.from_args(["--no-limits"])
    assert not are_limits_on()
    assert "no_limits" not in config.to_dict()
    check_limit("a.png", "pixels", 1001, 1000)
