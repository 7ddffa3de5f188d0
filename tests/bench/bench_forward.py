"""Inference time of one image in both memory formats, and time from image file to boxes.

    python tests/bench/bench_forward.py [--cfg yolov5n.yaml] [--imgsz 640] [--threads 2]

Run it on an idle machine.
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
from utils.tasks.options import PREDICT_DEFAULTS


def measure_ms(work: Callable[[], object], *, repeats: int = 30) -> float:
    """Measure the median time of a call, after three warm-up calls."""
    times = []
    for _ in range(repeats + 3):
        start = perf_counter()
        work()
        times.append(1000 * (perf_counter() - start))
    return median(times[3:])


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description="time one image through a network")
    parser.add_argument("--cfg", default="yolov5n.yaml", help="model YAML")
    parser.add_argument("--imgsz", type=int, default=640, help="image size")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = DetectionModel(args.cfg).eval().fuse()
    images = torch.rand(1, 3, args.imgsz, args.imgsz)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        plain = measure_ms(lambda: model(images))
        keep_freed_memory()
        with_kept_memory = measure_ms(lambda: model(images))
        backend = PyTorchBackend(copy.deepcopy(model), device=torch.device("cpu"))
        channels_last_images = images.contiguous(memory_format=torch.channels_last)
        predictor = Predictor(backend, PREDICT_DEFAULTS, size_hw=(args.imgsz, args.imgsz))
        channels_last = measure_ms(lambda: backend.forward(channels_last_images))
        file = Path(folder) / "image.jpg"
        frame = np.random.default_rng(0).integers(0, 255, (args.imgsz // 8, args.imgsz // 8, 3), np.uint8)
        imwrite(file, np.kron(frame, np.ones((8, 8, 1), np.uint8)))
        file_to_boxes = measure_ms(lambda: predictor.predict([read_image(file)]))
    print(f"{args.cfg} at {args.imgsz}, {args.threads} threads, medians in ms")
    print(f"network, contiguous     {plain:7.1f}")
    print(f"freed memory kept       {with_kept_memory:7.1f}  ({with_kept_memory / plain:.2f})")
    print(f"and channels_last       {channels_last:7.1f}  ({channels_last / plain:.2f})")
    overhead = file_to_boxes / channels_last - 1
    print(f"file to boxes           {file_to_boxes:7.1f}  ({overhead:+.0%} over the network alone)")


if __name__ == "__main__":
    main()
