"""Inference time of one image in every installed runtime, and time from image file to boxes.

    python tests/bench/bench_runtimes.py --weights yolov5n.pt --source photo.jpg [--data coco128.yaml] [--imgsz 640]

Exports the model to a temporary folder (INT8 with images of `--data`). In each round, every runtime runs several times
in turn, since idle threads of a runtime keep spinning for a while. Times relative to plain PyTorch are medians of the
ratios within a round, as the speed of machines varies. Plain PyTorch runs in a separate process: a loaded backend makes
the C library keep freed memory. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from shutil import copyfile
from statistics import median
from time import perf_counter
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import export
from utils.backends.base import Backend
from utils.backends.registry import load_backend
from utils.config.base import ROOT
from utils.core.errors import InputError
from utils.core.logging import setup_logging
from utils.imaging.read import read_image
from utils.predict.predictor import Predictor
from utils.tasks.networks import load_model
from utils.tasks.options import PREDICT_DEFAULTS

CPU = torch.device("cpu")
WARMUP_CALLS, CALLS = 4, 8  # per round
EXPORTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("TorchScript, frozen", "torchscript", {}),
    ("ONNX Runtime", "onnx", {}),
    ("ONNX Runtime INT8", "onnx", {"int8": True}),
    ("OpenVINO FP32", "openvino", {}),
    ("OpenVINO INT8", "openvino", {"int8": True}),
)


def measure_ms(call: Callable[[], object]) -> float:
    """Measure the median time of a round's calls, after warm-up calls."""
    times = []
    for number in range(WARMUP_CALLS + CALLS):
        start = perf_counter()
        call()
        if number >= WARMUP_CALLS:
            times.append(1000 * (perf_counter() - start))
    return median(times)


@dataclass
class Contestant:
    """A runtime with functions that measure the network and file to boxes, and their results in ms per round."""

    name: str
    network: Callable[[], float]
    file_to_boxes: Callable[[], float] | None = None
    network_ms: list[float] = field(default_factory=list)
    file_to_boxes_ms: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Run one round."""
        self.network_ms.append(self.network())
        if self.file_to_boxes is not None:
            self.file_to_boxes_ms.append(self.file_to_boxes())

    def format_row(self, plain: Contestant) -> str:
        """Format a row of the table."""
        row = f"{self.name:<28}{median(self.network_ms):9.1f}{compute_ratio(self.network_ms, plain.network_ms):9.2f}"
        if self.file_to_boxes_ms:
            row += (
                f"{median(self.file_to_boxes_ms):9.1f}{compute_ratio(self.file_to_boxes_ms, self.network_ms) - 1:+9.0%}"
            )
        return row


def compute_ratio(times: list[float], reference: list[float]) -> float:
    """Median over rounds of the ratio within a round."""
    return median(time / other for time, other in zip(times, reference, strict=True))


def build_contestant(name: str, backend: Backend, source: Path, side: int) -> Contestant:
    """Build the contestant of a backend."""
    layout = torch.contiguous_format if backend.has_thread_pool else torch.channels_last  # needs no copy
    images = torch.rand(1, 3, side, side).contiguous(memory_format=layout).to(backend.dtype)
    predictor = Predictor(backend, PREDICT_DEFAULTS, size_hw=(side, side), auto=False)
    return Contestant(
        name,
        lambda: measure_ms(lambda: backend.forward(images)),
        lambda: measure_ms(lambda: predictor.predict([read_image(source)])),
    )


def serve_plain(weights: Path, side: int, connection: Connection) -> None:
    """Measure plain PyTorch once per message, until the message is None."""
    model, images = load_model(weights), torch.rand(1, 3, side, side)
    with torch.inference_mode():
        while connection.recv() is not None:
            connection.send(measure_ms(lambda: model(images)))


@contextmanager
def run_plain_contestant(weights: Path, side: int) -> Iterator[Contestant]:
    """Yield plain PyTorch in a separate process."""
    context = multiprocessing.get_context("spawn")
    connection, child_connection = context.Pipe()
    process = context.Process(target=serve_plain, args=(weights, side, child_connection), daemon=True)
    process.start()

    def measure_round() -> float:
        connection.send("round")
        answer: float = connection.recv()
        return answer

    try:
        yield Contestant("PyTorch, plain", measure_round)
    finally:
        connection.send(None)
        process.join()


def build_pytorch_contestants(weights: Path, source: Path, side: int) -> list[Contestant]:
    """Build contiguous float32, channels_last, half precision if the CPU supports it, and compiled."""
    model = load_model(weights)
    images = torch.rand(1, 3, side, side)
    contestants = [
        Contestant("PyTorch, freed memory kept", lambda: measure_ms(lambda: model(images))),
        build_contestant("PyTorch, channels_last", load_backend(weights, device=CPU), source, side),
    ]
    half = load_backend(weights, device=CPU, fp16=True)
    if half.dtype != torch.float32:
        contestants.append(build_contestant(f"PyTorch, {half.dtype}".replace("torch.", ""), half, source, side))
    compiled: Any = torch.compile(copy.deepcopy(model).to(memory_format=torch.channels_last))
    channels_last = images.contiguous(memory_format=torch.channels_last)
    return [*contestants, Contestant("PyTorch, torch.compile", lambda: measure_ms(lambda: compiled(channels_last)))]


def build_exported_contestants(weights: Path, source: Path, side: int, data: str) -> list[Contestant]:
    """Build one for each format that this machine can export and run."""
    contestants = []
    for name, include, options in EXPORTS:
        try:
            files = export.run(weights=str(weights), imgsz=[side, side], include=[include], data=data, **options)
            contestants.append(build_contestant(name, load_backend(files[0], device=CPU), source, side))
        except (InputError, IndexError) as error:
            print(f"{name}: not measured: {error}")
    return contestants


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="time one image in every runtime")
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint")
    parser.add_argument("--source", type=Path, default=ROOT / "data" / "images" / "shapes_1.jpg", help="an image file")
    parser.add_argument("--data", default="", help="data YAML for INT8 calibration")
    parser.add_argument("--imgsz", type=int, default=640, help="image size")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of eight calls")
    args = parser.parse_args()
    setup_logging()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        weights = Path(copyfile(args.weights, Path(folder) / args.weights.name))
        with run_plain_contestant(weights, args.imgsz) as plain:
            contestants = [plain, *build_pytorch_contestants(weights, args.source, args.imgsz)]
            contestants += build_exported_contestants(weights, args.source, args.imgsz, args.data)
            for contestant in contestants * args.rounds:
                contestant.run()
    print(f"{args.weights.name}, {args.imgsz} px, batch 1, {torch.get_num_threads()} threads, medians in ms")
    print(f"{'':<28}{'network':>9}{'of plain':>9}{'to boxes':>9}{'more':>9}")
    for contestant in contestants:
        print(contestant.format_row(plain))


if __name__ == "__main__":
    main()
