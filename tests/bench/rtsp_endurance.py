"""Endurance test of detect.py on an RTSP stream with two interruptions: frames, reconnections, memory.

    python tests/bench/rtsp_endurance.py --weights yolov5n.pt [--seconds 300] [--save]

A camera on loopback sends 640x480 images at 25 FPS and disappears for ten seconds after one and two thirds of the time.
Finally detect.py gets Ctrl-C. Exit status 1 if it did not reconnect or memory grew.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.live_servers import RtspServer

ROOT = Path(__file__).resolve().parents[2]
CUT_S = 10.0
GROWTH_MB = 30.0  # allowed after the first minute, or the first sixth of the run


def memory_mb(pid: int) -> float:
    """Resident memory of a process (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


class Log:
    """Counts frames, losses and connections in the log of detect.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.frames = self.losses = self.connections = 0
        self.last_number = 0
        self.others: list[str] = []
        self.started = threading.Event()
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if match := re.match(r"RTSP stream 1/1 \(frame (\d+)\)", line):
                self.frames, self.last_number = self.frames + 1, int(match[1])
                self.started.set()
                continue
            self.losses += "lost after" in line or "no frame for" in line
            self.connections += bool(re.search(r"at [\d.]+ FPS$", line))
            self.others.append(line.rstrip())
        self.started.set()


def watch(log: Log, camera: RtspServer, seconds: float) -> list[float]:
    """Record memory once per second while interrupting the camera twice."""
    start, sizes = time.monotonic(), []
    cuts = [seconds / 3, 2 * seconds / 3]
    while (elapsed := time.monotonic() - start) < seconds and log.process.poll() is None:
        if cuts and elapsed >= cuts[0]:
            del cuts[0]
            camera.cut()
            threading.Timer(min(CUT_S, seconds / 10), camera.resume).start()
        sizes.append(memory_mb(log.process.pid))
        time.sleep(1)
    return sizes


def main() -> int:
    """Run and print the results."""
    parser = argparse.ArgumentParser(description="run detect.py on an RTSP stream that is interrupted twice")
    parser.add_argument("--weights", required=True, help="model file")
    parser.add_argument("--seconds", type=float, default=300, help="length of the run")
    parser.add_argument("--save", action="store_true", help="write video and text files too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, RtspServer(size_hw=(480, 640), fps=25) as camera:
        saving = ["--save-txt", "--project", folder] if args.save else ["--nosave"]
        command = [sys.executable, str(ROOT / "detect.py"), "--weights", args.weights, "--source", camera.url, *saving]
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of shells ignore it
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        log = Log(process)
        log.started.wait()
        sizes = watch(log, camera, args.seconds)
        process.send_signal(signal.SIGINT)
        status = process.wait()
        log.thread.join()
    print("\n".join(log.others))
    warm = sizes[min(60, len(sizes) // 6) :] or [0.0]
    print(f"status {status}; {log.frames} frames processed of {log.last_number} received in {args.seconds:.0f} s")
    print(f"connections {log.connections}, losses {log.losses}")
    print(f"memory after warm-up {warm[0]:.0f} MB, at most {max(warm):.0f} MB, at the end {warm[-1]:.0f} MB")
    good = status == 0 and log.connections >= 3 and max(warm) - warm[0] < GROWTH_MB
    print("good" if good else "NOT good")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
