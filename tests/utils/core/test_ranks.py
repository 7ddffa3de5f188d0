from __future__ import annotations

import importlib

import pytest

from utils.core import ranks


def test_ranks_of_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in (("RANK", "5"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(variable, value)
    importlib.reload(ranks)
    assert (ranks.RANK, ranks.LOCAL_RANK, ranks.WORLD_SIZE) == (5, 1, 8)
    for variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(variable)
    importlib.reload(ranks)
    assert (ranks.RANK, ranks.LOCAL_RANK, ranks.WORLD_SIZE) == (-1, -1, 1)
