"""Shared fixtures."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell ignores it for background jobs; tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# pytest-xdist runs one process per core; torch reads this on import
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `../shared` with reference values and small real data sets; skips without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("reference data (../shared) is not beside this checkout")
    return folder


@pytest.fixture
def allow_private_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow downloads from servers on loopback."""
    monkeypatch.setenv("YOLOv5_ALLOW_PRIVATE_URLS", "1")


@pytest.fixture(autouse=True)
def reset_log() -> None:
    """Start each test with an untouched logger: importing `utils.general` makes it print."""
    from utils.core.logging import LOGGER

    LOGGER.handlers, LOGGER.propagate = [], True
    LOGGER.setLevel(logging.NOTSET)


@pytest.fixture
def restore_log() -> Iterator[None]:
    """Restore handlers and level of the project's logger after the test."""
    from utils.core.logging import LOGGER

    handlers, level, propagate = list(LOGGER.handlers), LOGGER.level, LOGGER.propagate
    yield
    LOGGER.handlers, LOGGER.propagate = handlers, propagate
    LOGGER.setLevel(level)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data YAML with 12 training and 6 validation images (96x64) of bright squares and dark discs."""
    root = tmp_path_factory.mktemp("tiny data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        images, labels = root / "images" / split, root / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(count):
            frame, rows = draw_tiny_image(rng, objects=0 if number == 1 else 3)
            cv2.imwrite(str(images / f"{number:03d}.jpg"), frame)
            (labels / f"{number:03d}.txt").write_text("".join(rows))
    file = root / "tiny.yaml"
    file.write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: square, 1: disc}\n")
    return file


def draw_tiny_image(rng: np.random.Generator, *, objects: int) -> tuple[np.ndarray, list[str]]:
    """Draw a 96x64 image with `objects` shapes; the image and its label rows."""
    frame = rng.integers(90, 130, (64, 96, 3)).astype(np.uint8)
    rows = []
    for _ in range(objects):
        label, half = int(rng.integers(2)), int(rng.integers(6, 12))
        x, y = int(rng.integers(half, 96 - half)), int(rng.integers(half, 64 - half))
        if label == 0:
            cv2.rectangle(frame, (x - half, y - half), (x + half, y + half), (230, 240, 250), -1)
        else:
            cv2.circle(frame, (x, y), half, (20, 10, 30), -1)
        rows.append(f"{label} {x / 96:.6f} {y / 64:.6f} {2 * half / 96:.6f} {2 * half / 64:.6f}\n")
    return frame, rows


@pytest.fixture(scope="session")
def run_script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script of the project in a subprocess: `run_script("val.py", "--data", file, cwd=folder)`."""

    def run(*arguments: object, cwd: Path | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        script, *rest = arguments
        command = [sys.executable, str(ROOT / str(script)), *map(str, rest)]
        return subprocess.run(command, cwd=cwd or ROOT, capture_output=True, text=True, timeout=timeout, check=False)

    return run
