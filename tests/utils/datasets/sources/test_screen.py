"""Screen capture from a virtual screen (Xvfb), and errors without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from utils.core.errors import InputError
from utils.dataloaders import LoadScreenshots
from utils.datasets.sources import screen
from utils.datasets.sources.factory import open_source
from utils.datasets.sources.screen import ScreenSource, is_screen, parse_screen


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A virtual screen of 320x200 pixels; skips if unavailable."""
    pytest.importorskip("mss", reason="screen captures need the package mss")
    if (program := shutil.which("Xvfb")) is None:
        pytest.skip("the program Xvfb is not installed")
    reader, writer = os.pipe()
    command = [program, "-displayfd", str(writer), "-screen", "0", "320x200x24", "-noreset", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=(writer,), stderr=subprocess.DEVNULL)
    os.close(writer)
    with os.fdopen(reader) as numbers:
        number = numbers.readline().strip()  # printed once the screen is ready
    monkeypatch.setenv("DISPLAY", f":{number}")
    yield f":{number}"
    server.terminate()
    server.wait()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("screen", (0, None)),
        ("Screen 2", (2, None)),
        ("screen 10 20 300 40", (0, (10, 20, 300, 40))),
        ("screen 1 10 20 300 40", (1, (10, 20, 300, 40))),
    ],
)
def test_parse_screen(source: str, expected: object) -> None:
    assert is_screen(source)
    assert parse_screen(source) == expected


def test_folder_named_screenshots_is_not_a_screen() -> None:
    assert not is_screen("screenshots") and not is_screen("screen/a.png")


def test_load_screenshots(display: str) -> None:
    dataset = LoadScreenshots("screen 1", img_size=64)
    frames = iter(dataset)
    for number in range(2):
        path, im, im0, cap, s = next(frames)
        assert (path, im.shape, im0.shape, cap, dataset.frame) == ("screen1", (3, 64, 64), (200, 320, 3), None, number)
        assert s.endswith(" 320x200: ")
    assert (dataset.screen, dataset.left, dataset.top, dataset.width, dataset.height) == (1, 0, 0, 320, 200)
    dataset.close()
    with pytest.raises(InputError, match="expected screen"):
        LoadScreenshots("screen one")


def test_captures_of_the_screen_and_of_a_region(display: str) -> None:
    with closing(open_source("screen 1")) as source:
        batches = source.batches()
        (first,), (second,) = next(batches), next(batches)
        assert first.frame.shape == (200, 320, 3)
        assert not first.frame.any()  # an empty X screen is black
        assert first.live and first.fps == 30 and (second.number or 0) > (first.number or 0)
        assert (first.path, first.heading) == ("screen1", f"screen1 (frame {first.number}) 320x200")
    assert list(batches) == []
    with closing(open_source("screen 0 10 20 100 50")) as source:
        assert next(source.batches(channels=1))[0].frame.shape == (50, 100, 1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("screen 5", r"screen 5: choose a screen from 1 to 1, or 0 for all of them"),
        ("screen 1 300 0 100 50", r"the region exceeds the screen of 320x200 pixels"),
    ],
)
def test_screens_and_regions_that_do_not_exist(display: str, source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ScreenSource(source)


def test_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mss", reason="screen captures need the package mss")
    if not sys.platform.startswith("linux"):
        pytest.skip("only X11 can lack a display")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(InputError, match=r"--source screen: the screen cannot be captured \(.*DISPLAY"):
        ScreenSource("screen")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mss", None)
    with pytest.raises(InputError, match="screen captures need the package mss: pip install mss"):
        ScreenSource("screen")


def test_mock_screen_that_disappears_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    class ScreenShotError(Exception):
        pass

    class Screens:
        monitors = [{"left": 0, "top": 0, "width": 8, "height": 6}]  # noqa: RUF012

        def grab(self, area: dict[str, int]) -> None:
            raise ScreenShotError("gone")

        def close(self) -> None: ...

    module = type("mss", (), {"MSS": Screens, "exception": type("e", (), {"ScreenShotError": ScreenShotError})})
    monkeypatch.setattr(screen, "import_runtime", lambda *_, **__: module)
    with closing(ScreenSource("screen")) as source:
        assert list(source.batches()) == []
        assert source.problems == ["screen0: capture failed (gone)"]
