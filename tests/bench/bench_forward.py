"""Time of one image through the network, plain and channels_last, and of the whole way from file to boxes.

    python tests/bench/bench_forward.py [--cfg yolov5n.yaml] [--imgsz 640] [--threads 2]

Nothing else may run beside it.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.yolo import DetectionModel
from utils.backends.pytorch import PyTorchBackend
from utils.core.device import keep_freed_memory
from utils.imaging.read import imwrite, read_image
from utils.predict.predictor import Predictor
from utils.tasks.base import PREDICT_DEFAULTS


def milliseconds(work: Callable[[], object], *, repeats: int = 30) -> float:
    """Median time of a call, after three unmeasured ones."""
    times = []
    for _ in range(repeats + 3):
        start = perf_counter()
        work()
        times.append(1000 * (perf_counter() - start))
    return median(times[3:])


def main() -> None:
    """Print the times of both memory orders, and of the whole way for an image file."""
    parser = argparse.ArgumentParser(description="time one image through a network")
    parser.add_argument("--cfg", default="yolov5n.yaml", help="model YAML")
    parser.add_argument("--imgsz", type=int, default=640, help="side of the image")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = DetectionModel(args.cfg).eval().fuse()
    images = torch.rand(1, 3, args.imgsz, args.imgsz)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        plain = milliseconds(lambda: model(images))
        keep_freed_memory()
        kept = milliseconds(lambda: model(images))
        backend = PyTorchBackend(copy.deepcopy(model), device=torch.device("cpu"))
        images_last = images.contiguous(memory_format=torch.channels_last)
        predictor = Predictor(backend, PREDICT_DEFAULTS, size_hw=(args.imgsz, args.imgsz))
        last = milliseconds(lambda: backend.forward(images_last))
        file = Path(folder) / "image.jpg"
        frame = np.random.default_rng(0).integers(0, 255, (args.imgsz // 8, args.imgsz // 8, 3), np.uint8)
        imwrite(file, np.kron(frame, np.ones((8, 8, 1), np.uint8)))
        whole = milliseconds(lambda: predictor.predict([read_image(file)]))
    print(f"{args.cfg} at {args.imgsz}, {args.threads} threads, medians in ms")
    print(f"network, contiguous     {plain:7.1f}")
    print(f"freed memory kept       {kept:7.1f}  ({kept / plain:.2f})")
    print(f"and channels_last       {last:7.1f}  ({last / plain:.2f})")
    print(f"file to boxes           {whole:7.1f}  ({whole / last - 1:+.0%} over the network alone)")


if __name__ == "__main__":
    main()
