"""Time of one training sample on one core, compared with a reference operation.

    python tests/bench/bench_loader.py [--data ../shared/data/bccd/bccd.yaml] [--imgsz 640] [--samples 200]

The reference is `cv2.warpAffine` of a 1280x1280x3 image to 640x640, linear, one thread: with scale and shift only (a
fast path in OpenCV 5) and with a rotation of ten degrees. Times are CPU time of the thread; samples and references
alternate. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from utils.config.hyp import Hyperparameters  # noqa: E402
from utils.datasets.detection import DetectionDataset  # noqa: E402
from utils.datasets.index.data_yaml import load_spec  # noqa: E402
from utils.datasets.index.labels import load_index  # noqa: E402
from utils.datasets.loader import init_worker  # noqa: E402
from utils.imaging.read import read_image  # noqa: E402

REFERENCE_MS = 4.3  # reference time on the machine that the targets refer to
TARGETS_MS = {"uncached": 10.0, "cached in RAM": 5.0}


def measure_ms(work: Callable[[], object]) -> float:
    """Measure the CPU time of one call."""
    start = time.thread_time()
    work()
    return 1000 * (time.thread_time() - start)


def build_references() -> dict[str, Callable[[], object]]:
    """Build the two reference warps."""
    image = np.random.default_rng(0).integers(0, 256, (1280, 1280, 3), dtype=np.uint8)

    def warp(degrees: float) -> Callable[[], object]:
        matrix = cv2.getRotationMatrix2D((640, 640), degrees, 0.7)
        matrix[:, 2] -= 320
        return lambda: cv2.warpAffine(image, matrix, (640, 640), flags=cv2.INTER_LINEAR)

    return {"warp, straight": warp(0), "warp, rotated": warp(10)}


def measure(jobs: dict[str, Callable[[int], object]], rounds: int) -> dict[str, float]:
    """Measure the median time of each job in ms, over rounds in which every job runs once."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds):
        for name, job in jobs.items():
            times[name].append(measure_ms(lambda job=job, number=number: job(number)))  # type: ignore[misc]
    return {name: float(np.median(values)) for name, values in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=str(ROOT.parent / "shared/data/bccd/bccd.yaml"))
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--samples", type=int, default=200)
    args = parser.parse_args()
    init_worker(0)
    index = load_index(load_spec(args.data), "train")
    hyp = Hyperparameters.load(ROOT / "data/hyps/hyp.scratch-low.yaml")
    plain, cached = (
        DetectionDataset(index, imgsz=args.imgsz, hyp=hyp, augment=True, cache=cache) for cache in (None, "ram")
    )
    jobs: dict[str, Callable[[int], object]] = {
        "uncached": lambda n: plain[n // len(plain), n % len(plain)],
        "cached in RAM": lambda n: cached[n // len(cached), n % len(cached)],
        "read one image": lambda n: read_image(index.paths[n % len(index)]),
        **{name: (lambda n, warp=warp: warp()) for name, warp in build_references().items()},  # type: ignore[misc]
    }
    measure(jobs, 10)
    medians = measure(jobs, args.samples)
    for name, median in medians.items():
        print(f"{name:18s} {median:7.2f} ms")
    for name, target in TARGETS_MS.items():
        scaled = [medians[name] / medians[f"warp, {kind}"] * REFERENCE_MS for kind in ("straight", "rotated")]
        print(
            f"{name}: {scaled[0]:.1f} ms scaled to {REFERENCE_MS} ms of the straight warp, "
            f"{scaled[1]:.1f} ms scaled to the rotated one; target {target:.0f} ms"
        )


if __name__ == "__main__":
    main()
