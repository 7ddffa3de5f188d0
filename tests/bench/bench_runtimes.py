"""Time of one image in every runtime that is installed, and of the whole way from file to boxes in each.

    python tests/bench/bench_runtimes.py --weights yolov5n.pt --source photo.jpg [--data coco128.yaml] [--imgsz 640]

The model is exported to a temporary folder first (INT8 with images of `--data`). All runtimes are then asked in turn,
several calls each, round after round, so that none meets the threads of another, which spin for a while. A share of the
plain forward's time is the median over rounds of the share within a round: machines change their speed from one minute
to the next. The plain forward runs in a process of its own, as a loaded backend makes the C library keep freed memory,
which the plain one then gains by. Nothing else may run beside it.
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
from utils.tasks.base import PREDICT_DEFAULTS
from utils.tasks.networks import load_model

CPU = torch.device("cpu")
UNMEASURED, MEASURED = 4, 8  # calls in a round
EXPORTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("TorchScript, frozen", "torchscript", {}),
    ("ONNX Runtime", "onnx", {}),
    ("ONNX Runtime INT8", "onnx", {"int8": True}),
    ("OpenVINO FP32", "openvino", {}),
    ("OpenVINO INT8", "openvino", {"int8": True}),
)


def timed(call: Callable[[], object]) -> float:
    """Median time in ms of a round's calls, the first ones unmeasured."""
    times = []
    for number in range(UNMEASURED + MEASURED):
        start = perf_counter()
        call()
        if number >= UNMEASURED:
            times.append(1000 * (perf_counter() - start))
    return median(times)


@dataclass
class Entrant:
    """A way to run the network: what times the network alone and the whole way, and the medians in ms of each round."""

    name: str
    network: Callable[[], float]
    whole: Callable[[], float] | None = None
    network_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)

    def run(self) -> None:
        """A round."""
        self.network_ms.append(self.network())
        if self.whole is not None:
            self.whole_ms.append(self.whole())

    def line(self, plain: Entrant) -> str:
        """A row of the table."""
        row = f"{self.name:<28}{median(self.network_ms):9.1f}{share(self.network_ms, plain.network_ms):9.2f}"
        if self.whole_ms:
            row += f"{median(self.whole_ms):9.1f}{share(self.whole_ms, self.network_ms) - 1:+9.0%}"
        return row


def share(times: list[float], of: list[float]) -> float:
    """Median over rounds of what a time is of another of the same round."""
    return median(own / other for own, other in zip(times, of, strict=True))


def entrant_of(name: str, backend: Backend, source: Path, side: int) -> Entrant:
    """The network of a backend alone, and from the image's file to its boxes."""
    layout = (
        torch.contiguous_format if backend.has_thread_pool else torch.channels_last
    )  # as each takes it without a copy
    images = torch.rand(1, 3, side, side).contiguous(memory_format=layout).to(backend.dtype)
    predictor = Predictor(backend, PREDICT_DEFAULTS, size_hw=(side, side), auto=False)
    return Entrant(
        name,
        lambda: timed(lambda: backend.forward(images)),
        lambda: timed(lambda: predictor.predict([read_image(source)])),
    )


def serve_plain(weights: Path, side: int, connection: Connection) -> None:
    """Answer each message but None with a round's time of the network as PyTorch runs it by itself."""
    model, images = load_model(weights), torch.rand(1, 3, side, side)
    with torch.inference_mode():
        while connection.recv() is not None:
            connection.send(timed(lambda: model(images)))


@contextmanager
def plain_entrant(weights: Path, side: int) -> Iterator[Entrant]:
    """The network as PyTorch runs it by itself, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    process = context.Process(target=serve_plain, args=(weights, side, other), daemon=True)
    process.start()

    def ask() -> float:
        own.send("round")
        answer: float = own.recv()
        return answer

    try:
        yield Entrant("PyTorch, plain", ask)
    finally:
        own.send(None)
        process.join()


def pytorch_entrants(weights: Path, source: Path, side: int) -> list[Entrant]:
    """Contiguous float32, ours, ours at half precision where the processor has it, and compiled."""
    model = load_model(weights)
    images = torch.rand(1, 3, side, side)
    entrants = [
        Entrant("PyTorch, freed memory kept", lambda: timed(lambda: model(images))),
        entrant_of("PyTorch, channels_last", load_backend(weights, device=CPU), source, side),
    ]
    half = load_backend(weights, device=CPU, fp16=True)
    if half.dtype != torch.float32:
        entrants.append(entrant_of(f"PyTorch, {half.dtype}".replace("torch.", ""), half, source, side))
    compiled: Any = torch.compile(copy.deepcopy(model).to(memory_format=torch.channels_last))
    last = images.contiguous(memory_format=torch.channels_last)
    return [*entrants, Entrant("PyTorch, torch.compile", lambda: timed(lambda: compiled(last)))]


def exported_entrants(weights: Path, source: Path, side: int, data: str) -> list[Entrant]:
    """One for each format that can be written and run here; the others are named."""
    entrants = []
    for name, include, options in EXPORTS:
        try:
            files = export.run(weights=str(weights), imgsz=[side, side], include=[include], data=data, **options)
            entrants.append(entrant_of(name, load_backend(files[0], device=CPU), source, side))
        except (InputError, IndexError) as error:
            print(f"{name}: not measured: {error}")
    return entrants


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="time one image in every runtime")
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint")
    parser.add_argument("--source", type=Path, default=ROOT / "data" / "images" / "shapes_1.jpg", help="an image file")
    parser.add_argument("--data", default="", help="data YAML to calibrate INT8 with")
    parser.add_argument("--imgsz", type=int, default=640, help="side of the network input")
    parser.add_argument("--rounds", type=int, default=4, help="rounds, of eight calls each")
    args = parser.parse_args()
    setup_logging()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        weights = Path(copyfile(args.weights, Path(folder) / args.weights.name))
        with plain_entrant(weights, args.imgsz) as plain:
            entrants = [plain, *pytorch_entrants(weights, args.source, args.imgsz)]
            entrants += exported_entrants(weights, args.source, args.imgsz, args.data)
            for entrant in entrants * args.rounds:
                entrant.run()
    print(f"{args.weights.name}, {args.imgsz} px, batch 1, {torch.get_num_threads()} threads, medians in ms")
    print(f"{'':<28}{'network':>9}{'of plain':>9}{'to boxes':>9}{'more':>9}")
    for entrant in entrants:
        print(entrant.line(plain))


if __name__ == "__main__":
    main()
