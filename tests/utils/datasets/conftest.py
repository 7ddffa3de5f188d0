"""What several tests of data sets use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import serve_folder


@pytest.fixture
def served(tmp_path: Path, allow_private_urls: None) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""
    with serve_folder(tmp_path / "served") as place:
        yield place
