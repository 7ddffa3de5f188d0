"""Time of SPP (three windows in parallel) and SPPF (one small window in series), which compute equal maps.

    python tests/bench/bench_spp.py [--repeats 50]

The maps are those of yolov5s at 640 px (512 channels, 20x20) and of a larger level of stride 16. Run it on an idle
machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from models.common import SPP, SPPF  # noqa: E402

SHAPES = ((1, 512, 20, 20), (1, 256, 40, 40), (16, 256, 20, 20))


def measure_best_ms(blocks: Sequence[nn.Module], x: Tensor, repeats: int) -> list[float]:
    """Measure the best time of each block; blocks alternate, after three warm-up rounds."""
    times: list[list[float]] = [[] for _ in blocks]
    for _ in range(repeats + 3):
        for block, block_times in zip(blocks, times, strict=True):
            started = perf_counter()
            block(x)
            block_times.append((perf_counter() - started) * 1000)
    return [min(block_times[3:]) for block_times in times]


def main(argv: Sequence[str] | None = None) -> None:
    """Print both times for each shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=50, help="timed calls per block (default: 50)")
    repeats = parser.parse_args(argv).repeats
    torch.set_num_threads(2)
    for shape in SHAPES:
        serial, parallel = SPPF(shape[1], shape[1]).eval(), SPP(shape[1], shape[1]).eval()
        parallel.load_state_dict(serial.state_dict())
        x = torch.rand(shape)
        with torch.inference_mode():
            if not torch.equal(serial(x), parallel(x)):
                raise SystemExit(f"{shape}: the maps differ")
            ours, plain = measure_best_ms([serial, parallel], x, repeats)
        size = "x".join(map(str, shape))
        print(f"{size:>14}: SPP {plain:7.2f} ms, SPPF {ours:7.2f} ms, {plain / ours:.2f} times as fast")


if __name__ == "__main__":
    main()
