"""Time of non-maximum suppression per image, on the output of a real network with validation's settings.

    python tests/bench/bench_nms.py [--weights ../shared/weights/yolov5n.pt] [--images ../shared/data/images]

bus.jpg and zidane.jpg are letterboxed to 640x640, eight times each: a batch of 16 at confidence 0.001, IoU 0.6,
multi-label, at most 300 boxes. The original needs 6.65 ms per image on two threads of the machine it was measured on;
next to our time stands that of plain torchvision NMS over all candidates, as a yardstick. Run it alone.
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


def network_output(weights: Path, pictures: Sequence[Path], copies: int) -> Tensor:
    """(B, N, 85) decoded output of each image, `copies` times."""
    frames = [letterbox(read_image(file), (640, 640))[0] for file in pictures]
    images = torch.from_numpy(np.stack(frames)[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        decoded = load_model(weights)(images)[0]
    return decoded.repeat_interleave(copies, dim=0)


def plain_nms(decoded: Tensor) -> list[Tensor]:
    """What torchvision gives when each image is thresholded and suppressed whole."""
    found = []
    for rows in decoded:
        rows = rows[rows[:, 4] > CONF]
        scores = rows[:, 5:] * rows[:, 4:5]
        row, label = (scores > CONF).nonzero(as_tuple=True)
        boxes, score = xywh_to_xyxy(rows[row, :4]), scores[row, label]
        kept = torchvision.ops.batched_nms(boxes.double(), score.double(), label, IOU)[:MAX_DET]
        found.append(torch.cat((boxes[kept], score[kept, None], label[kept, None].float()), dim=1))
    return found


def milliseconds(work: Callable[[], object], *, repeats: int) -> tuple[float, float]:
    """Best and median time of a call, after three unmeasured ones."""
    times = []
    for _ in range(repeats + 3):
        start = perf_counter()
        work()
        times.append(1000 * (perf_counter() - start))
    return min(times[3:]), median(times[3:])


def main() -> None:
    """Check that both ways agree, then print their times per image."""
    parser = argparse.ArgumentParser(description="Time of non-maximum suppression per image.")
    parser.add_argument("--weights", type=Path, default=ROOT.parent / "shared/weights/yolov5n.pt")
    parser.add_argument("--images", type=Path, default=ROOT.parent / "shared/data/images")
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    decoded = network_output(args.weights, [args.images / "bus.jpg", args.images / "zidane.jpg"], args.copies)

    def ours() -> list[Tensor]:
        return non_max_suppression(decoded, CONF, IOU, multi_label=True, max_det=MAX_DET)

    agree = all(torch.equal(a, b) for a, b in zip(ours(), plain_nms(decoded), strict=True))
    candidates = int(((decoded[..., 5:] * decoded[..., 4:5]) > CONF).sum()) / len(decoded)
    print(f"{len(decoded)} images, {candidates:.0f} candidates each, {args.threads} threads; same boxes: {agree}")
    for name, work in (("ours", ours), ("plain torchvision", lambda: plain_nms(decoded))):
        best, typical = milliseconds(work, repeats=args.repeats)
        print(f"{name:>18}: {best / len(decoded):.2f} ms per image at best, {typical / len(decoded):.2f} median")


if __name__ == "__main__":
    main()
