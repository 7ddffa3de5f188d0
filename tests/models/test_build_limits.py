"""Limits on networks while they are built: nothing is allocated beyond them, and they end with their context."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

from models import build_limits
from models.build_limits import BuildLimits
from utils.core.errors import InputError
from utils.core.limits import NO_LIMITS


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: nn.PReLU(2 * 10**9), "2,000,000,000 parameters, the limit is 500,000,000", id="PReLU"),
        pytest.param(lambda: nn.BatchNorm2d(10**9), "1,000,000,000 parameters", id="norm"),
        pytest.param(lambda: nn.Linear(30_000, 30_000), "900,000,000 parameters", id="linear"),
        pytest.param(
            lambda: nn.Sequential(*(nn.Identity() for _ in range(25_000))), "20,001 modules and tensors", id="modules"
        ),
        pytest.param(lambda: nn.Linear(1, 1, device="meta"), "a parameter on device meta; remove", id="device"),
    ],
)
def test_constructors_stop_at_the_limit(build: Callable[[], nn.Module], message: str) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=rf"^net\.yaml: row 3: {message}"), BuildLimits("net.yaml: row 3"):
        build()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB; parameters would take gigabytes


def test_counts_add_up_over_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_limits, "MAX_PARAMETERS", 100)
    with BuildLimits("net") as limits:
        nn.Linear(9, 5)  # 50 parameters
        limits.place = "net: row 1"
        with pytest.raises(InputError, match=r"^net: row 1: 105 parameters"):
            nn.Linear(10, 5)
    nn.Linear(100, 100)


def test_other_threads_are_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_limits, "MAX_PARAMETERS", 100)
    built: list[nn.Module] = []
    with BuildLimits("net"):
        thread = threading.Thread(target=lambda: built.append(nn.Linear(100, 100)))
        thread.start()
        thread.join()
        nn.Linear(5, 5)
    assert len(built) == 1


def test_limits_can_be_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_limits, "MAX_PARAMETERS", 100)
    monkeypatch.setenv(NO_LIMITS, "1")
    with BuildLimits("net"):
        assert nn.Linear(100, 100).out_features == 100


def test_default_device_is_allowed() -> None:
    with torch.device("meta"), BuildLimits("net"):
        assert nn.Linear(10**4, 10**4).weight.is_meta
