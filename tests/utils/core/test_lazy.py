"""Lazy exports of a module."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from utils.core.lazy import OUTSIDE, lazy_exports


def test_names_are_imported_on_access() -> None:
    get = lazy_exports("package", {"sqrt": "math", "missing": "math"})
    assert get("sqrt") is math.sqrt
    with pytest.raises(AttributeError, match="module 'package' has no attribute 'other'"):
        get("other")
    with pytest.raises(AttributeError, match="missing"):
        get("missing")


def test_names_of_other_packages() -> None:
    get = lazy_exports("package", {"np": OUTSIDE["np"], "Path": OUTSIDE["Path"]})
    assert (get("np"), get("Path")) == (np, Path)


@pytest.mark.parametrize("name", sorted(OUTSIDE))
def test_outside_names_exist(name: str) -> None:
    if name != "requests" or importlib.util.find_spec("requests"):  # no requirement of this project
        assert lazy_exports("package", OUTSIDE)(name) is not None
