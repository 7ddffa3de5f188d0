"""detect.py in a subprocess, with an untrained network."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from models.checkpoint import save_checkpoint
from models.yolo import DetectionModel
from utils.config.base import ROOT

NUM_DETECTIONS = 3  # per image, of random weights with --conf-thres 0 and this --max-det
FLAGS = ("--img", "64", "--conf-thres", "0", "--max-det", str(NUM_DETECTIONS), "--device", "cpu")


def save_random_weights(file: Path) -> Path:
    """Save a checkpoint of an untrained network with two classes."""
    torch.manual_seed(0)
    model = DetectionModel("yolov5n.yaml", nc=2)
    save_checkpoint(
        file,
        {
            "task": "detect",
            "yaml": model.yaml,
            "names": {0: "cat", 1: "dog/wolf"},
            "model": model.state_dict(),
            "ema": model.state_dict(),
            "epoch": 3,
            "hyp": {},
            "opt": {},
        },
    )
    return file


class DetectProcess:
    """detect.py in a subprocess: waits for log lines and sends signals."""

    def __init__(self, *arguments: object, cwd: Path, **options: Any) -> None:
        command = [sys.executable, str(ROOT / "detect.py"), *map(str, arguments)]
        previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored if the tests run under nohup
        try:
            self.process = subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True, **options)
        finally:
            signal.signal(signal.SIGHUP, previous)
        self.log: list[str] = []

    def __enter__(self) -> DetectProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def wait_for(self, text: str, times: int = 1) -> None:
        """Read the log until `text` appears in `times` more lines."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            times -= text in line
            if not times:
                return
        pytest.fail(f"no {text!r} in:\n{''.join(self.log)}")

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal, by default Ctrl-C; the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Read the rest of the log; the exit status."""
        self.log.append(self.process.communicate(timeout=60)[1])
        return self.process.returncode
