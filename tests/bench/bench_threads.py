"""Latency of inference on the CPU beside busy processes, with a fixed number of threads and with the chosen one.

    python tests/bench/bench_threads.py [--weights yolov5n.pt] [--imgsz 320] [--busy 0 1] [--images 100]

Without --weights it measures a yolov5n with random weights. Each case runs in a process of its own. Write down the load
of the machine: the first line shows it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that use one CPU each."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(weights: str, imgsz: int, images: int, threads: int | None) -> str:
    """Median and 90th percentile of the milliseconds of a hub call, and the number of threads at the end."""
    import torch

    from models.yolo import DetectionModel
    from utils.backends.pytorch import PyTorchBackend
    from utils.backends.registry import load_backend
    from utils.backends.threads import set_up_threads
    from utils.predict.autoshape import AutoShape

    device = torch.device("cpu")
    if weights:
        backend = load_backend(weights, device=device, threads=threads)
    else:
        torch.manual_seed(0)
        backend = PyTorchBackend(DetectionModel("yolov5n.yaml").eval().fuse(), device=device)
        backend.threads = set_up_threads(threads, device)
    model = AutoShape(backend, verbose=False)
    frame = np.random.default_rng(0).integers(0, 256, (imgsz, imgsz, 3), np.uint8)
    times = []
    for _ in range(images):
        start = perf_counter()
        model(frame, size=imgsz)
        times.append(1000 * (perf_counter() - start))
    tuner = getattr(backend, "threads", None)
    count = torch.get_num_threads() if tuner is None else tuner.count
    return f"{median(times):.1f} ms, 90 % within {np.percentile(times, 90):.1f} ms, {count} threads"


def main() -> None:
    """Print a line per number of busy processes and threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--case", type=int, help="measure in this process: a number of threads, 0 for the choice")
    args = parser.parse_args()
    if args.case is not None:
        print(measure(args.weights, args.imgsz, args.images, args.case or None))
        return
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs before the first case")
    flags = ["--weights", args.weights, "--imgsz", str(args.imgsz), "--images", str(args.images)]
    for busy in args.busy:
        for case in [*sorted({1, os.cpu_count() or 1}), 0]:
            command = [sys.executable, __file__, *flags, "--case", str(case)]
            with busy_processes(busy):
                result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            print(f"{busy} busy processes, threads {case or 'chosen'}: {result.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
