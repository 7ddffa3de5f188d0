"""Time and memory of instance masks: post-processing of a 4K image with 300 objects, and the mask loss.

    python tests/bench/bench_masks.py [--objects 300] [--threads 2]

The image is 3840x2160, the network input 384x640 or 2176x3840; random objects measure 40 to 400 px. Post-processing is
NMS and decoding of masks at image size, with and without --retina-masks, followed by polygons, RLE and drawing. Target:
under 1 s for NMS and decoding. Memory is the peak resident set size. Run it on an idle machine.
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

from utils.config.hyp import Hyperparameters  # noqa: E402
from utils.core.types import Batch  # noqa: E402
from utils.imaging.draw import class_color_bgr, draw_masks  # noqa: E402
from utils.imaging.letterbox import letterbox  # noqa: E402
from utils.losses.detection import DetectionLoss  # noqa: E402
from utils.losses.segmentation import SegmentationLoss  # noqa: E402
from utils.tasks.detect import DetectionPostprocess  # noqa: E402
from utils.tasks.options import PREDICT_DEFAULTS  # noqa: E402

IMAGE_HW = (2160, 3840)
OBJECT_SIDES = (40, 400)  # pixels of the image
CLASSES, PROTOTYPES = 80, 32
ANCHORS = torch.tensor(
    [[[10.0, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]
) / torch.tensor([8.0, 16, 32]).view(3, 1, 1)


def measure_ms(work: Callable[[], object], *, repeats: int = 5) -> float:
    """Measure the median time of a call, after a warm-up call."""
    work()
    times = []
    for _ in range(repeats):
        started = perf_counter()
        work()
        times.append(1000 * (perf_counter() - started))
    return median(times)


def make_network_output(objects: int, size_hw: tuple[int, int], scale: float) -> tuple[Tensor, Tensor]:
    """Make decoded rows (1, N, 5 + classes + prototypes) with `objects` detections, and prototypes (1, C, h, w)."""
    rng = torch.Generator().manual_seed(0)
    height, width = size_hw
    count = sum(3 * (height // s) * (width // s) for s in (8, 16, 32))
    rows = torch.zeros(1, count, 5 + CLASSES + PROTOTYPES)
    indices = torch.randperm(count, generator=rng)[:objects]
    sides = (torch.rand(objects, 2, generator=rng) * (OBJECT_SIDES[1] - OBJECT_SIDES[0]) + OBJECT_SIDES[0]) * scale
    rows[0, indices, :2] = torch.rand(objects, 2, generator=rng) * torch.tensor([width, height])
    rows[0, indices, 2:4], rows[0, indices, 4] = sides, 0.9
    rows[0, indices, 5 + torch.randint(CLASSES, (objects,), generator=rng)] = 0.9
    rows[0, indices, 5 + CLASSES :] = torch.randn(objects, PROTOTYPES, generator=rng)
    coarse = torch.randn(1, PROTOTYPES, height // 32, width // 32, generator=rng)
    return rows, F.interpolate(coarse, (height // 4, width // 4), mode="bilinear")


def measure_image(objects: int, side: int) -> None:
    """Print the times of a 4K image at an image size."""
    frame = np.full((*IMAGE_HW, 3), 90, np.uint8)
    fitted, fit = letterbox(frame, (side, side), auto=True, stride=32)
    size_hw = fitted.shape[0], fitted.shape[1]
    colors = [class_color_bgr(number) for number in range(objects)]
    preds = make_network_output(objects, size_hw, fit.ratio_wh[0])
    batch = Batch(torch.zeros(1, 3, *size_hw, dtype=torch.uint8), torch.zeros(0, 6), ["a"], [fit])
    for fine in (False, True):
        postprocess = DetectionPostprocess(replace(PREDICT_DEFAULTS, iou_thres=0.99, retina_masks=fine))
        time = measure_ms(partial(postprocess, preds, batch))
        masks = postprocess(preds, batch)[0].bitmaps
        assert masks is not None and len(masks) == objects
        bitmap_mb = sum(bitmap.nbytes for bitmap in masks.bitmaps) / 1e6
        print(
            f"input {size_hw[0]}x{size_hw[1]}, {objects} objects, {'fine masks' if fine else 'plain masks'}: "
            f"NMS and decoding {time:.0f} ms, {bitmap_mb:.0f} MB of bitmaps; "
            f"outlines {measure_ms(masks.outlines):.0f} ms, RLE {measure_ms(masks.rles):.0f} ms, "
            f"drawing {measure_ms(partial(draw_masks, frame, masks, colors)):.0f} ms"
        )


def measure_loss(batch_size: int, per_image: int, side: int) -> None:
    """Print the time of loss and gradients with and without masks."""
    rng = torch.Generator().manual_seed(0)
    no = 5 + CLASSES + PROTOTYPES
    raw = [torch.randn(batch_size, 3, side // s, side // s, no, generator=rng, requires_grad=True) for s in (8, 16, 32)]
    prototypes = torch.randn(batch_size, PROTOTYPES, side // 4, side // 4, generator=rng, requires_grad=True)
    count = batch_size * per_image
    targets = torch.rand(count, 6, generator=rng) * torch.tensor([1, 1, 0.8, 0.8, 0.3, 0.3]) + 0.05
    targets[:, 0] = torch.arange(count) // per_image
    targets[:, 1] = 0
    masks = torch.randint(per_image + 1, (batch_size, side // 4, side // 4), generator=rng, dtype=torch.int16)
    detection = DetectionLoss(anchors=ANCHORS, strides=[8, 16, 32], num_classes=CLASSES, hyp=Hyperparameters())
    loss = SegmentationLoss(detection)
    plain = measure_ms(lambda: detection(raw, targets).total.backward(), repeats=3)
    both = measure_ms(lambda: loss(raw, prototypes, targets, masks).total.backward(), repeats=3)
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
    print(f"peak resident set size: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
