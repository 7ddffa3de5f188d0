"""Fixtures that several test folders share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference values and small real data beside the checkout; a user's clone has none."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("reference data (../shared) is not beside this checkout")
    return folder
