"""Time of non-maximum suppression per image with the settings of val.py.

    python tests/bench/bench_nms.py [--weights ../shared/weights/yolov5n.pt] [--images ../shared/data/images]

bus.jpg and zidane.jpg, letterboxed to 640x640 and repeated eight times: a batch of 16 at confidence 0.001, IoU 0.6,
multi-label, at most 300 boxes. The original needed 6.65 ms per image on two threads of another machine, so plain
torchvision NMS over all candidates is measured for comparison. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
import torchvision
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from utils.imaging.letterbox import letterbox  # noqa: E402
from utils.imaging.read import read_image  # noqa: E402
from utils.ops.boxes import xywh_to_xyxy  # noqa: E402
from utils.ops.nms import non_max_suppression  # noqa: E402
from utils.tasks.networks import load_model  # noqa: E402

CONF, IOU, MAX_DET = 0.001, 0.6, 300


def compute_network_output(weights: Path, files: Sequence[Path], copies: int) -> Tensor:
    """Compute the decoded output (B, N, 85), each image `copies` times."""
    frames = [letterbox(read_image(file), (640, 640))[0] for file in files]
    images = torch.from_numpy(np.stack(frames)[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        decoded = load_model(weights)(images)[0]
    return decoded.repeat_interleave(copies, dim=0)


def run_plain_nms(decoded: Tensor) -> list[Tensor]:
    """Threshold each image and run torchvision NMS over all candidates."""
    detections = []
    for rows in decoded:
        rows = rows[rows[:, 4] > CONF]
        scores = rows[:, 5:] * rows[:, 4:5]
        row, label = (scores > CONF).nonzero(as_tuple=True)
        boxes, score = xywh_to_xyxy(rows[row, :4]), scores[row, label]
        indices = torchvision.ops.batched_nms(boxes.double(), score.double(), label, IOU)[:MAX_DET]
        detections.append(torch.cat((boxes[indices], score[indices, None], label[indices, None].float()), dim=1))
    return detections


def measure_ms(work: Callable[[], object], *, repeats: int) -> tuple[float, float]:
    """Measure the best and median time of a call, after three warm-up calls."""
    times = []
    for _ in range(repeats + 3):
        start = perf_counter()
        work()
        times.append(1000 * (perf_counter() - start))
    return min(times[3:]), median(times[3:])


def main() -> None:
    """Check that both implementations agree, then print their times per image."""
    parser = argparse.ArgumentParser(description="Time of non-maximum suppression per image.")
    parser.add_argument("--weights", type=Path, default=ROOT.parent / "shared/weights/yolov5n.pt")
    parser.add_argument("--images", type=Path, default=ROOT.parent / "shared/data/images")
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    decoded = compute_network_output(args.weights, [args.images / "bus.jpg", args.images / "zidane.jpg"], args.copies)

    def run_ours() -> list[Tensor]:
        return non_max_suppression(decoded, CONF, IOU, multi_label=True, max_det=MAX_DET)

    agree = all(torch.equal(a, b) for a, b in zip(run_ours(), run_plain_nms(decoded), strict=True))
    candidates = int(((decoded[..., 5:] * decoded[..., 4:5]) > CONF).sum()) / len(decoded)
    print(f"{len(decoded)} images, {candidates:.0f} candidates each, {args.threads} threads; same boxes: {agree}")
    for name, work in (("ours", run_ours), ("plain torchvision", lambda: run_plain_nms(decoded))):
        best, typical = measure_ms(work, repeats=args.repeats)
        print(f"{name:>18}: {best / len(decoded):.2f} ms per image (best), {typical / len(decoded):.2f} median")


if __name__ == "__main__":
    main()
