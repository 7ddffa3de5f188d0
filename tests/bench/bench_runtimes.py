"""Time of one picture in every runtime that is installed, and of the whole way from file to boxes in each.

    python tests/bench/bench_runtimes.py --weights yolov5n.pt --source photo.jpg [--data coco128.yaml] [--imgsz 640]

The model is exported to a temporary folder first (INT8 with pictures of `--data`). All runtimes are then asked in turn,
several calls each, round after round, so that a change of the machine's clock meets each of them and none meets the
threads of another, which spin for a while. Nothing else may run beside it.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfile
from statistics import median
from time import perf_counter
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import export
from models.checkpoint import load_model
from utils.backends.base import Backend
from utils.backends.registry import load_backend
from utils.config import ROOT
from utils.datasets.image_io import read_image
from utils.datasets.letterbox import letterbox
from utils.engine.predictor import DetectionPostprocess, Predictor
from utils.errors import InputError
from utils.logging import setup_logging

CPU = torch.device("cpu")
UNMEASURED, MEASURED = 4, 8  # calls in a round
EXPORTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("TorchScript, frozen", "torchscript", {}),
    ("ONNX Runtime", "onnx", {}),
    ("ONNX Runtime INT8", "onnx", {"int8": True}),
    ("OpenVINO FP32", "openvino", {}),
    ("OpenVINO INT8", "openvino", {"int8": True}),
)


@dataclass
class Entrant:
    """A way to run the network: what to call for the network alone and for the whole way, and the times measured."""

    name: str
    network: Callable[[], object]
    whole: Callable[[], object] | None = None
    network_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)

    def run(self) -> None:
        """A few calls of each, the first ones unmeasured."""
        for call, times in ((self.network, self.network_ms), (self.whole, self.whole_ms)):
            for number in range(UNMEASURED + MEASURED if call is not None else 0):
                start = perf_counter()
                call()
                if number >= UNMEASURED:
                    times.append(1000 * (perf_counter() - start))

    def line(self, plain: float) -> str:
        """A row of the table."""
        alone = median(self.network_ms)
        row = f"{self.name:<28}{alone:9.1f}{alone / plain:9.2f}"
        if self.whole_ms:
            whole = median(self.whole_ms)
            row += f"{whole:9.1f}{whole / alone - 1:+9.0%}"
        return row


def entrant_of(name: str, backend: Backend, source: Path, side: int) -> Entrant:
    """The network of a backend alone, and from the picture's file to its boxes."""
    images = torch.rand(1, 3, side, side).contiguous(memory_format=torch.channels_last).to(backend.dtype)
    predictor = Predictor(
        backend, DetectionPostprocess(), size_hw=(side, side), fit=lambda frame: letterbox(frame, (side, side))
    )
    return Entrant(name, lambda: backend.forward(images), lambda: predictor.predict([read_image(source)]))


def plain_entrant(weights: Path, side: int) -> Entrant:
    """The network as PyTorch runs it by itself."""
    model, images = load_model(weights), torch.rand(1, 3, side, side)
    return Entrant("PyTorch, plain", lambda: model(images))


def pytorch_entrants(weights: Path, source: Path, side: int) -> list[Entrant]:
    """Contiguous float32, ours, ours at half precision where the processor has it, and compiled."""
    model = load_model(weights)
    images = torch.rand(1, 3, side, side)
    entrants = [
        Entrant("PyTorch, freed memory kept", lambda: model(images)),
        entrant_of("PyTorch, channels_last", load_backend(weights, device=CPU), source, side),
    ]
    half = load_backend(weights, device=CPU, fp16=True)
    if half.dtype != torch.float32:
        entrants.append(entrant_of(f"PyTorch, {half.dtype}".replace("torch.", ""), half, source, side))
    compiled: Any = torch.compile(copy.deepcopy(model).to(memory_format=torch.channels_last))
    last = images.contiguous(memory_format=torch.channels_last)
    return [*entrants, Entrant("PyTorch, torch.compile", lambda: compiled(last))]


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
    parser = argparse.ArgumentParser(description="time one picture in every runtime")
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint")
    parser.add_argument("--source", type=Path, default=ROOT / "data" / "images" / "shapes_1.jpg", help="a picture file")
    parser.add_argument("--data", default="", help="data YAML to calibrate INT8 with")
    parser.add_argument("--imgsz", type=int, default=640, help="side of the network input")
    parser.add_argument("--rounds", type=int, default=4, help="rounds, of eight calls each")
    args = parser.parse_args()
    setup_logging()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        weights = Path(copyfile(args.weights, Path(folder) / args.weights.name))
        plain = plain_entrant(weights, args.imgsz)
        for _ in range(args.rounds):  # before a backend is loaded, which tells the C library to keep freed memory
            plain.run()
        entrants = pytorch_entrants(weights, args.source, args.imgsz)
        entrants += exported_entrants(weights, args.source, args.imgsz, args.data)
        for entrant in entrants * args.rounds:
            entrant.run()
    plain_ms = median(plain.network_ms)
    print(f"{args.weights.name}, {args.imgsz} px, batch 1, {torch.get_num_threads()} threads, medians in ms")
    print(f"{'':<28}{'network':>9}{'of plain':>9}{'to boxes':>9}{'more':>9}")
    for entrant in [plain, *entrants]:
        print(entrant.line(plain_ms))


if __name__ == "__main__":
    main()
