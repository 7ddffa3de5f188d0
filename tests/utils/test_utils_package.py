"""`utils` itself, which imports nothing heavy."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import utils

ROOT = Path(__file__).resolve().parents[2]


def test_the_package_needs_no_torch() -> None:
    code = (
        "import sys; from utils import TryExcept, emojis, join_threads, notebook_init, threaded; "
        "print(sorted({'torch', 'cv2', 'numpy', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(("system", "expected"), [("Linux", "done 🚀"), ("Windows", "done ")])
def test_emojis(system: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    assert utils.emojis("done 🚀") == expected


def test_try_except(capsys: pytest.CaptureFixture[str]) -> None:
    @utils.TryExcept("reading")
    def fail(value: int) -> int:
        if value:
            raise ValueError("bad value")
        return value

    assert fail(0) == 0
    assert fail(1) is None
    with utils.TryExcept():
        raise KeyError("k")
    assert capsys.readouterr().out == "reading: bad value\n'k'\n"
    with pytest.raises(KeyboardInterrupt), utils.TryExcept():
        raise KeyboardInterrupt


def test_threads(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    started, results = threading.Event(), []

    @utils.threaded
    def work(number: int, factor: int = 1) -> None:
        started.wait(10)
        results.append(number * factor)

    thread = work(3, factor=2)
    assert isinstance(thread, threading.Thread)
    assert not results
    started.set()
    thread.join(10)
    assert results == [6]
    started.clear()
    second = work(1)
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread(), second])  # without those of others
    started.set()
    utils.join_threads(verbose=True)
    assert not second.is_alive()
    assert results == [6, 1]
    assert capsys.readouterr().out == "Joining thread work\n"


def test_notebook_init(capsys: pytest.CaptureFixture[str]) -> None:
    display = utils.notebook_init()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("OpenYOLOv5, Python ")
    assert " GB RAM" in lines[1]
    assert display is None or display.__name__ == "IPython.display"
    utils.notebook_init(verbose=False)
    assert len(capsys.readouterr().out.splitlines()) == 1
