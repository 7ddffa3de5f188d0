"""Training on a GPU: images a second with the loader and with images that lie ready, peak memory, what limits.

    python tests/bench/bench_gpu.py [--models yolov5n yolov5s yolov5m] [--batches 64 128] [--imgsz 640] [--workers 16]
        [--amp fp16] [--compile] [--data my.yaml] [--images 2048]

Every row is a number of real steps (forward, loss, backward, optimizer, EMA) of `utils.train.trainer.Trainer`:
"ready" with one batch that is copied to the GPU anew each time, "loader" with an epoch of augmented images, and
"loader alone" without a network. Without --data the images are JPEGs of 640x480 with 7 boxes each, like COCO's. It
prints the rows of a table for docs/benchmarks.md; nothing else may run beside it. Needs CUDA and PyTorch 2.11 or later.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from utils.config.train import TrainConfig  # noqa: E402
from utils.core.device import is_out_of_memory  # noqa: E402
from utils.core.logging import setup_logging  # noqa: E402
from utils.losses.meter import LossMeter  # noqa: E402
from utils.train.setup import build_trainer  # noqa: E402
from utils.train.trainer import Trainer  # noqa: E402

WARM_STEPS, STEPS = 10, 40
SIZE_HW, BOXES, JPEG_QUALITY = (480, 640), 7, 90
SMI = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200")
COLUMNS = ("network", "batch", "ready, images/s", "loader, images/s", "loader alone", "epoch, s", "memory, GiB")
COLUMNS += ("GPU use", "limit")


@dataclass
class Row:
    """Figures of one network and batch; rates in images a second."""

    ready: float
    loader: float
    loader_alone: float
    epoch_s: float
    peak_gib: float
    use: str

    @property
    def limit(self) -> str:
        """What an epoch waits for: the loader where it alone is hardly faster than with the network."""
        return "loader" if self.loader_alone < 1.1 * self.loader and self.loader < 0.9 * self.ready else "GPU"


def write_images(folder: Path, count: int) -> Path:
    """A data YAML with `count` training images of soft noise and boxes, and a few to validate."""
    rng = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 8)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(number):
            noise = rng.integers(0, 256, (SIZE_HW[0] // 4, SIZE_HW[1] // 4, 3), dtype=np.uint8)
            frame = cv2.resize(noise, SIZE_HW[::-1], interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / f"images/{split}/{i}.jpg"), frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            rows = np.column_stack([rng.uniform(0.3, 0.7, (BOXES, 2)), rng.uniform(0.05, 0.5, (BOXES, 2))])
            text = "".join(f"{rng.integers(80)} {' '.join(f'{v:.4f}' for v in row)}\n" for row in rows)
            (folder / f"labels/{split}/{i}.txt").write_text(text)
    names = ", ".join(f"{i}: c{i}" for i in range(80))
    file = folder / "noise.yaml"
    file.write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: {{{names}}}\n")
    return file


def make_trainer(model: str, batch: int, args: argparse.Namespace, *, data: Path, folder: Path, device: str) -> Trainer:
    """A run of that network from random weights, ready for its first step."""
    settings: dict[str, Any] = {"cfg": f"{model}.yaml", "weights": "", "data": str(data), "batch_size": batch}
    settings |= {"imgsz": args.imgsz, "workers": args.workers, "amp": args.amp, "compile": args.compile}
    settings |= {"project": str(folder), "device": device, "noplots": True, "noautoanchor": True, "epochs": 2}
    trainer = build_trainer(TrainConfig.from_kwargs(**settings))
    trainer.model.train()
    trainer.optimizer.zero_grad()
    return trainer


def wait(device: torch.device) -> None:
    """Until all work of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step(trainer: Trainer, batches: Any, iteration: int, meter: LossMeter) -> int:
    """One step, as the trainer takes it once its batch is the nominal one; images in it."""
    trainer.schedule.apply(trainer.optimizer, iteration)
    trainer._backward(batches, iteration, meter)
    trainer._step()
    return sum(len(batch) for batch in batches)


def rate_ready(trainer: Trainer, *, warm: int = WARM_STEPS, steps: int = STEPS) -> float:
    """Images a second where the loader costs nothing."""
    meter, batches = LossMeter(trainer.task.loss_names), next(iter(trainer.loader))
    for iteration in range(warm):
        step(trainer, batches, iteration, meter)
    wait(trainer.device)
    start = perf_counter()
    images = sum(step(trainer, batches, iteration, meter) for iteration in range(steps))
    wait(trainer.device)
    return images / (perf_counter() - start)


def rate_loader(trainer: Trainer, epoch: int, *, network: bool) -> tuple[float, float]:
    """Images a second over an epoch, from its second batch on, and seconds for all of them at that rate."""
    meter, images, start, in_all = LossMeter(trainer.task.loss_names), 0, perf_counter(), 0
    trainer.loader.set_epoch(epoch)
    for number, batches in enumerate(trainer.loader):
        size = step(trainer, batches, number, meter) if network else sum(len(batch) for batch in batches)
        in_all += size
        if number:
            images += size
        else:  # the workers had to start
            wait(trainer.device)
            start = perf_counter()
    wait(trainer.device)
    rate = images / (perf_counter() - start) if images else 0.0
    return rate, in_all / rate if rate else 0.0


@contextlib.contextmanager
def utilisation() -> Iterator[list[float]]:
    """Percent of the time in which the GPU worked, as nvidia-smi samples it; none where that is missing."""
    found: list[float] = []
    try:
        process = subprocess.Popen(SMI, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        yield found
        return
    try:
        yield found
    finally:
        process.terminate()
        text, _ = process.communicate()
        found += [float(line) for line in text.splitlines() if line.strip().isdigit()]


def measure(trainer: Trainer) -> Row:
    """All figures of one network and batch."""
    ready = rate_ready(trainer)
    with utilisation() as samples:
        loader, epoch_s = rate_loader(trainer, 0, network=True)
    alone, _ = rate_loader(trainer, 1, network=False)
    peak = torch.cuda.max_memory_reserved(trainer.device) / 2**30 if trainer.device.type == "cuda" else 0.0
    return Row(ready, loader, alone, epoch_s, peak, f"{mean(samples):.0f} %" if samples else "-")


def format_row(model: str, batch: int, row: Row | None) -> str:
    """A line of the table; without figures where memory ran out."""
    if row is None:
        return f"| {model} | {batch} | out of memory | | | | | | |"
    rates = f"{row.ready:.0f} | {row.loader:.0f} | {row.loader_alone:.0f} | {row.epoch_s:.1f}"
    return f"| {model} | {batch} | {rates} | {row.peak_gib:.1f} | {row.use} | {row.limit} |"


def bench(args: argparse.Namespace, folder: Path, device: str) -> Iterator[str]:
    """The rows of the table, one after the other."""
    data = Path(args.data) if args.data else write_images(folder / "noise", args.images)
    for model in args.models:
        for batch in args.batches:
            trainer, row = None, None
            try:
                trainer = make_trainer(model, batch, args, data=data, folder=folder / "runs", device=device)
                row = measure(trainer)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            yield format_row(model, batch, row)
            del trainer
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()


def build_parser() -> argparse.ArgumentParser:
    """Flags of the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["yolov5n", "yolov5s", "yolov5m"])
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--amp", choices=("fp16", "bf16", "off"), default="fp16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--data", default="", help="data YAML; none: images made for the purpose")
    parser.add_argument("--images", type=int, default=2048, help="how many of those")
    return parser


def main() -> None:
    """Measure and print; status 2 where there is no GPU."""
    args = build_parser().parse_args()
    if not torch.cuda.is_available():
        print(
            "error: this measures a CUDA GPU and PyTorch sees none; bench_forward.py is for processors", file=sys.stderr
        )
        sys.exit(2)
    setup_logging(verbose=False)
    properties = torch.cuda.get_device_properties(0)
    memory = properties.total_memory / 2**30
    print(f"{properties.name}, {memory:.0f} GiB, torch {torch.__version__}, {os.cpu_count()} cores")
    print(f"{args.amp}, {args.imgsz} px{', compiled' if args.compile else ''}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    with tempfile.TemporaryDirectory() as folder:
        for line in bench(args, Path(folder), "0"):
            print(line, flush=True)


if __name__ == "__main__":
    main()
