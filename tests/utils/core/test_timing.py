from __future__ import annotations

import pytest

from utils.core.timing import Profile


def test_total_and_last_use(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.5, 20.0, 21.0])
    monkeypatch.setattr(Profile, "time", lambda self: next(clock))
    timer = Profile(t=1.0)
    with timer as entered:
        assert entered is timer
    assert (timer.t, timer.dt) == (3.5, 2.5)

    @timer
    def work() -> str:
        return "done"

    assert work() == "done"
    assert (timer.t, timer.dt) == (4.5, 1.0)


def test_a_known_duration_and_the_clock() -> None:
    timer = Profile.of(0.25)
    assert (timer.t, timer.dt) == (0.25, 0.25)
    assert Profile().time() <= Profile().time()
