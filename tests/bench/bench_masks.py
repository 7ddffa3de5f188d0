"""Time and memory of masks: post-processing of a 4K image with 300 objects, and the mask loss of a training step.

    python tests/bench/bench_masks.py [--objects 300] [--threads 2]

The image is 3840x2160, the network input 384x640 or 2176x3840; objects lie at random and cover 40 to 400 px of the
image a side. Post-processing is everything between the network's output and results: NMS, decoding of masks into the
image's pixels (as --retina-masks does and as without), and after it outlines as polygons, COCO's run lengths and the
drawing. Aim: under 1 s for NMS and decoding. Memory is the largest resident set of the process. Run it alone.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from utils.core.types import Batch  # noqa: E402
from utils.imaging.draw import class_color_bgr, draw_masks  # noqa: E402
from utils.imaging.letterbox import letterbox  # noqa: E402
from utils.losses.detection import DetectionLoss, DetectionLossConfig  # noqa: E402
from utils.losses.segmentation import SegmentationLoss  # noqa: E402
from utils.tasks.base import PREDICT_DEFAULTS  # noqa: E402
from utils.tasks.detect import DetectionPostprocess  # noqa: E402

IMAGE_HW = (2160, 3840)
SIDES = (40, 400)  # pixels of the image
CLASSES, PROTOTYPES = 80, 32
ANCHORS = torch.tensor(
    [[[10.0, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]
) / torch.tensor([8.0, 16, 32]).view(3, 1, 1)


def milliseconds(work: Callable[[], object], *, repeats: int = 5) -> float:
    """Median time of a call, after an unmeasured one."""
    work()
    times = []
    for _ in range(repeats):
        started = perf_counter()
        work()
        times.append(1000 * (perf_counter() - started))
    return median(times)


def network_output(objects: int, size_hw: tuple[int, int], scale: float) -> tuple[Tensor, Tensor]:
    """Decoded rows (1, N, 5 + classes + prototypes), of which `objects` score, and prototypes (1, C, h, w)."""
    rng = torch.Generator().manual_seed(0)
    height, width = size_hw
    count = sum(3 * (height // s) * (width // s) for s in (8, 16, 32))
    rows = torch.zeros(1, count, 5 + CLASSES + PROTOTYPES)
    places = torch.randperm(count, generator=rng)[:objects]
    sides = (torch.rand(objects, 2, generator=rng) * (SIDES[1] - SIDES[0]) + SIDES[0]) * scale
    rows[0, places, :2] = torch.rand(objects, 2, generator=rng) * torch.tensor([width, height])
    rows[0, places, 2:4], rows[0, places, 4] = sides, 0.9
    rows[0, places, 5 + torch.randint(CLASSES, (objects,), generator=rng)] = 0.9
    rows[0, places, 5 + CLASSES :] = torch.randn(objects, PROTOTYPES, generator=rng)
    coarse = torch.randn(1, PROTOTYPES, height // 32, width // 32, generator=rng)
    return rows, F.interpolate(coarse, (height // 4, width // 4), mode="bilinear")


def measure_image(objects: int, side: int) -> None:
    """Print the times of a 4K image at a network input of this longer side."""
    frame = np.full((*IMAGE_HW, 3), 90, np.uint8)
    fitted, fit = letterbox(frame, (side, side), auto=True, stride=32)
    size_hw = fitted.shape[0], fitted.shape[1]
    colors = [class_color_bgr(number) for number in range(objects)]
    preds = network_output(objects, size_hw, fit.ratio_wh[0])
    batch = Batch(torch.zeros(1, 3, *size_hw, dtype=torch.uint8), torch.zeros(0, 6), ["a"], [fit])
    for fine in (False, True):
        postprocess = DetectionPostprocess(replace(PREDICT_DEFAULTS, iou_thres=0.99, retina_masks=fine))
        time = milliseconds(partial(postprocess, preds, batch))
        masks = postprocess(preds, batch)[0].bitmaps
        assert masks is not None and len(masks) == objects
        kept = sum(bitmap.nbytes for bitmap in masks.bitmaps) / 1e6
        print(
            f"input {size_hw[0]}x{size_hw[1]}, {objects} objects, {'fine masks' if fine else 'plain masks'}: "
            f"NMS and decoding {time:.0f} ms, {kept:.0f} MB of bitmaps; "
            f"outlines {milliseconds(masks.outlines):.0f} ms, run lengths {milliseconds(masks.rles):.0f} ms, "
            f"drawing {milliseconds(partial(draw_masks, frame, masks, colors)):.0f} ms"
        )


def measure_loss(batch_size: int, per_image: int, side: int) -> None:
    """Print the time of the mask loss with gradients beside that of detection alone."""
    rng = torch.Generator().manual_seed(0)
    no = 5 + CLASSES + PROTOTYPES
    raw = [torch.randn(batch_size, 3, side // s, side // s, no, generator=rng, requires_grad=True) for s in (8, 16, 32)]
    prototypes = torch.randn(batch_size, PROTOTYPES, side // 4, side // 4, generator=rng, requires_grad=True)
    count = batch_size * per_image
    targets = torch.rand(count, 6, generator=rng) * torch.tensor([1, 1, 0.8, 0.8, 0.3, 0.3]) + 0.05
    targets[:, 0] = torch.arange(count) // per_image
    targets[:, 1] = 0
    masks = torch.randint(per_image + 1, (batch_size, side // 4, side // 4), generator=rng, dtype=torch.int16)
    detection = DetectionLoss(anchors=ANCHORS, strides=[8, 16, 32], num_classes=CLASSES, hyp=DetectionLossConfig())
    loss = SegmentationLoss(detection)
    plain = milliseconds(lambda: detection(raw, targets).total.backward(), repeats=3)
    both = milliseconds(lambda: loss(raw, prototypes, targets, masks).total.backward(), repeats=3)
    print(
        f"loss of {batch_size} images of {side} px, {per_image} objects each: "
        f"boxes {plain:.0f} ms, with masks {both:.0f} ms"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    for side in (640, 3840):
        measure_image(args.objects, side)
    measure_loss(16, 8, 640)
    print(f"largest resident set: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
