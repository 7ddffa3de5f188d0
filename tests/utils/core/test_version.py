from __future__ import annotations

import tomllib

from utils.config.base import ROOT
from utils.core.version import VERSION


def test_the_package_has_the_same_version() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"] == VERSION
