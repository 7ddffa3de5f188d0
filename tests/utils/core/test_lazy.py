"""Lazy exports of a module."""

from __future__ import annotations

import math

import pytest

from utils.core.lazy import lazy_exports


def test_names_are_imported_on_access() -> None:
    get = lazy_exports("package", {"sqrt": "math", "missing": "math"})
    assert get("sqrt") is math.sqrt
    with pytest.raises(AttributeError, match="module 'package' has no attribute 'other'"):
        get("other")
    with pytest.raises(AttributeError, match="missing"):
        get("missing")
