"""Frames per second of detect.py on a 720p video, compared with the network alone.

    python tests/bench/bench_detect.py [--weights yolov5n.pt] [--video FILE] [--frames 300] [--decode-threads 0]

Without --weights it measures a yolov5n with random weights. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.yolo import DetectionModel
from utils.backends.base import Backend
from utils.backends.pytorch import PyTorchBackend
from utils.backends.registry import load_backend
from utils.core.logging import LOGGER
from utils.datasets.sources.frames import SourceFrame
from utils.datasets.sources.media import MediaSource
from utils.predict.predictor import Predictor
from utils.predict.run import run_images
from utils.tasks.options import PREDICT_DEFAULTS

SIZE_HW = (720, 1280)


def write_video(file: Path, frames: int) -> None:
    """Write a video of a camera that pans over a blurred background with moving squares."""
    rng = np.random.default_rng(0)
    height, width = SIZE_HW
    spots = rng.integers(0, 255, (height // 16, (width + 4 * frames) // 16 + 1, 3), np.uint8)
    landscape = cv2.resize(spots, None, fx=16, fy=16, interpolation=cv2.INTER_CUBIC)
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 30, (width, height))
    for number in range(frames):
        frame = landscape[:height, 4 * number : 4 * number + width].copy()
        for square in range(8):
            x, y = (square * 150 + 7 * number) % (width - 60), 40 + 80 * square
            cv2.rectangle(frame, (x, y), (x + 60, y + 60), (20 * square, 200, 255 - 20 * square), -1)
        writer.write(frame)
    writer.release()


class FirstFrames(MediaSource):
    """Video source with a maximum number of frames."""

    def __init__(self, file: str, frames: int, decode_threads: int) -> None:
        super().__init__([file], decode_threads=decode_threads)
        self.frames = frames

    def batches(self, channels: int = 3) -> Iterator[list[SourceFrame]]:
        """As `MediaSource.batches`, up to the maximum."""
        for number, batch in enumerate(super().batches(channels), start=1):
            yield batch
            if number == self.frames:
                return


def measure_network_fps(backend: Backend, images: torch.Tensor, repeats: int) -> float:
    """Measure network calls per second."""
    with torch.inference_mode():
        for _ in range(5):
            backend.forward(images)
        start = perf_counter()
        for _ in range(repeats):
            backend.forward(images)
    return repeats / (perf_counter() - start)


def measure_run_fps(predictor: Predictor, video: str, frames: int, *, decode_threads: int, overlap: bool) -> float:
    """Measure frames per second of a run without saving."""
    source = FirstFrames(video, frames, decode_threads)
    start = perf_counter()
    num_frames = run_images(source, predictor, [], overlap=overlap)
    return num_frames / (perf_counter() - start)


def main() -> None:
    """Print the frame rates and their ratio."""
    parser = argparse.ArgumentParser(description="time a run over a video against the network alone")
    parser.add_argument("--weights", help="model file; default: yolov5n.yaml with random weights")
    parser.add_argument("--video", help="video file; default: a generated one")
    parser.add_argument("--frames", type=int, default=300, help="frames of the video")
    parser.add_argument("--imgsz", type=int, default=640, help="longest side of the network input")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--decode-threads", type=int, default=0, help="threads of the video decoder; 0: default")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    LOGGER.addHandler(logging.StreamHandler(io.StringIO()))  # format the log lines without showing them
    LOGGER.setLevel(logging.INFO)
    device = torch.device("cpu")
    if args.weights:
        backend = load_backend(args.weights, device=device)
    else:
        model = DetectionModel("yolov5n.yaml").eval().fuse()
        model.names = {i: f"class{i}" for i in range(80)}
        backend = PyTorchBackend(model, device=device)
    predictor = Predictor(backend, replace(PREDICT_DEFAULTS, round_boxes=True), size_hw=(args.imgsz, args.imgsz))
    with tempfile.TemporaryDirectory() as folder:
        video = args.video or str(Path(folder) / "video.mp4")
        if not args.video:
            write_video(Path(video), args.frames)
        first = next(MediaSource([video]).batches())[0].frame
        input_hw = predictor.predict([first])[1]
        images = torch.rand(1, 3, *input_hw).contiguous(memory_format=torch.channels_last)
        before = measure_network_fps(backend, images, args.frames)
        rates = {
            name: measure_run_fps(predictor, video, args.frames, decode_threads=args.decode_threads, overlap=overlap)
            for name, overlap in (("overlapped", True), ("sequential", False))
        }
        alone = (before + measure_network_fps(backend, images, args.frames)) / 2
    print(f"{args.weights or 'yolov5n.yaml'}, {first.shape[1]}x{first.shape[0]} video -> {input_hw[1]}x{input_hw[0]}")
    print(f"network alone:        {alone:6.1f} frames/s")
    for name, rate in rates.items():
        print(f"run {name + ':':<18}{rate:6.1f} frames/s = {rate / alone:.2f} of the network alone")


if __name__ == "__main__":
    main()
