"""Training on a GPU: images per second with and without the loader, peak memory, bottleneck.

    python tests/bench/bench_gpu.py [--models yolov5n yolov5s yolov5m] [--batches 64 128] [--imgsz 640] [--workers 16]
        [--amp fp16] [--compile] [--data my.yaml] [--images 2048]

Measures real steps (forward, loss, backward, optimizer, EMA) of `utils.train.trainer.Trainer`: "ready" copies one batch
to the GPU in every step, "loader" is an epoch of augmented images, "loader alone" runs no network. Without --data the
images are 640x480 JPEGs with 7 boxes each, as in COCO. Prints the table of docs/benchmarks.md. Needs CUDA and PyTorch
2.11 or later. Run it on an idle machine.
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
    """Results of one network and batch size; rates in images per second."""

    ready: float
    loader: float
    loader_alone: float
    epoch_s: float
    peak_gib: float
    use: str

    @property
    def limit(self) -> str:
        """The bottleneck: the loader if it is hardly faster without the network."""
        return "loader" if self.loader_alone < 1.1 * self.loader and self.loader < 0.9 * self.ready else "GPU"


def write_images(folder: Path, count: int) -> Path:
    """Write a data set with `count` training images of blurred noise and boxes, and a few validation images."""
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


def build_bench_trainer(
    model: str, batch: int, args: argparse.Namespace, *, data: Path, folder: Path, device: str
) -> Trainer:
    """Build the trainer of a network with random weights, ready for the first step."""
    settings: dict[str, Any] = {"cfg": f"{model}.yaml", "weights": "", "data": str(data), "batch_size": batch}
    settings |= {"imgsz": args.imgsz, "workers": args.workers, "amp": args.amp, "compile": args.compile}
    settings |= {"project": str(folder), "device": device, "noplots": True, "noautoanchor": True, "epochs": 2}
    trainer = build_trainer(TrainConfig.from_kwargs(**settings))
    trainer.model.train()
    trainer.optimizer.zero_grad()
    return trainer


def synchronize(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run_step(trainer: Trainer, batches: Any, iteration: int, meter: LossMeter) -> int:
    """Run an optimizer step of the trainer and return its number of images."""
    trainer.schedule.apply(trainer.optimizer, iteration)
    for batch in batches:
        targets = batch.to(trainer.device, non_blocking=True)
        images = trainer._prepare_images(targets, iteration)
        with trainer._autocast():
            loss = trainer.task.losses(trainer.model(images), targets)
        assert loss is not None
        trainer.scaler.scale(loss.total).backward()
        meter.add(loss.items, batch.paths)
    trainer._optimizer_step()
    trainer.ema.update(trainer.model)
    return sum(len(batch) for batch in batches)


def measure_ready_rate(trainer: Trainer, *, warm: int = WARM_STEPS, steps: int = STEPS) -> float:
    """Measure images per second without the loader."""
    meter, batches = LossMeter(trainer.task.loss_names), next(iter(trainer.loader))
    for iteration in range(warm):
        run_step(trainer, batches, iteration, meter)
    synchronize(trainer.device)
    start = perf_counter()
    images = sum(run_step(trainer, batches, iteration, meter) for iteration in range(steps))
    synchronize(trainer.device)
    return images / (perf_counter() - start)


def measure_loader_rate(trainer: Trainer, epoch: int, *, network: bool) -> tuple[float, float]:
    """Measure images per second from the second batch of an epoch on, and the time of an epoch at this rate."""
    meter, images, start, total = LossMeter(trainer.task.loss_names), 0, perf_counter(), 0
    trainer.loader.set_epoch(epoch)
    for number, batches in enumerate(trainer.loader):
        size = run_step(trainer, batches, number, meter) if network else sum(len(batch) for batch in batches)
        total += size
        if number:
            images += size
        else:  # includes the start of the workers
            synchronize(trainer.device)
            start = perf_counter()
    synchronize(trainer.device)
    rate = images / (perf_counter() - start) if images else 0.0
    return rate, total / rate if rate else 0.0


@contextlib.contextmanager
def sample_utilization() -> Iterator[list[float]]:
    """GPU utilization in percent, sampled by nvidia-smi; empty without it."""
    samples: list[float] = []
    try:
        process = subprocess.Popen(SMI, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        yield samples
        return
    try:
        yield samples
    finally:
        process.terminate()
        text, _ = process.communicate()
        samples += [float(line) for line in text.splitlines() if line.strip().isdigit()]


def measure(trainer: Trainer) -> Row:
    """Measure one network and batch size."""
    ready = measure_ready_rate(trainer)
    with sample_utilization() as samples:
        loader, epoch_s = measure_loader_rate(trainer, 0, network=True)
    alone, _ = measure_loader_rate(trainer, 1, network=False)
    peak = torch.cuda.max_memory_reserved(trainer.device) / 2**30 if trainer.device.type == "cuda" else 0.0
    return Row(ready, loader, alone, epoch_s, peak, f"{mean(samples):.0f} %" if samples else "-")


def format_row(model: str, batch: int, row: Row | None) -> str:
    """Format a line of the table; `row` is None if memory ran out."""
    if row is None:
        return f"| {model} | {batch} | out of memory | | | | | | |"
    rates = f"{row.ready:.0f} | {row.loader:.0f} | {row.loader_alone:.0f} | {row.epoch_s:.1f}"
    return f"| {model} | {batch} | {rates} | {row.peak_gib:.1f} | {row.use} | {row.limit} |"


def bench(args: argparse.Namespace, folder: Path, device: str) -> Iterator[str]:
    """Yield the lines of the table."""
    data = Path(args.data) if args.data else write_images(folder / "noise", args.images)
    for model in args.models:
        for batch in args.batches:
            trainer, row = None, None
            try:
                trainer = build_bench_trainer(model, batch, args, data=data, folder=folder / "runs", device=device)
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
    """Build the parser of the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["yolov5n", "yolov5s", "yolov5m"])
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--amp", choices=("fp16", "bf16", "off"), default="fp16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--data", default="", help="data YAML; default: generated images")
    parser.add_argument("--images", type=int, default=2048, help="number of generated images")
    return parser


def main() -> None:
    """Measure and print; exit status 2 without a GPU."""
    args = build_parser().parse_args()
    if not torch.cuda.is_available():
        print("error: no CUDA GPU found; use bench_forward.py for CPUs", file=sys.stderr)
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
