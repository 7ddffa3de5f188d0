"""Time of semantic masks on one core: training samples, confusion counts, resized logits, losses.

    python tests/bench/bench_semantic_loader.py [--data ../shared/data/camvid/camvid.yaml] [--imgsz 480] [--samples 200]

Times are medians of CPU time; the reference is that of bench_loader.py. Run it on an idle machine. Targets: well under
10 ms for a sample of 480 px, a few ms for the counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_loader import build_references, measure

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from utils.config.hyp import Hyperparameters  # noqa: E402
from utils.datasets.index.data_yaml import load_spec  # noqa: E402
from utils.datasets.index.semantic_labels import load_semantic_index  # noqa: E402
from utils.datasets.loader import init_worker  # noqa: E402
from utils.datasets.semantic import SemanticDataset  # noqa: E402
from utils.losses.semantic import SemanticLoss  # noqa: E402
from utils.metrics.semantic import count_confusion  # noqa: E402
from utils.ops.semantic_masks import resize_and_argmax  # noqa: E402

CLASSES, MASK_HW = 19, (1024, 2048)


def build_sample_jobs(data: str, imgsz: int) -> dict[str, Callable[[int], object]]:
    """Build jobs that load training and validation samples."""
    index = load_semantic_index(load_spec(data), "train")
    hyp = Hyperparameters.load(ROOT / "data/hyps/hyp.scratch-low.yaml")
    sets = {
        "sample": SemanticDataset(index, imgsz=imgsz, hyp=hyp, augment=True),
        "sample, RAM": SemanticDataset(index, imgsz=imgsz, hyp=hyp, augment=True, cache="ram"),
        "sample, mosaic": SemanticDataset(index, imgsz=imgsz, hyp=hyp, augment=True, mosaic=True),
        "validation sample": SemanticDataset(index, imgsz=imgsz, hyp=hyp, augment=False),
    }
    return {
        name: (lambda n, samples=samples: samples[n // len(samples), n % len(samples)])
        for name, samples in sets.items()
    }  # type: ignore[misc]


def build_mask_jobs() -> dict[str, Callable[[int], object]]:
    """Build jobs on a mask of Cityscapes' size."""
    rng = torch.Generator().manual_seed(0)
    true = torch.randint(0, CLASSES, MASK_HW, generator=rng, dtype=torch.uint8)
    predicted = torch.randint(0, CLASSES, MASK_HW, generator=rng, dtype=torch.uint8)
    true[:100] = 255
    logits = torch.randn(CLASSES, MASK_HW[0] // 2, MASK_HW[1] // 2, generator=rng)
    batch = logits[None, :, :256, :512].clone().requires_grad_()

    def loss(kind: str) -> Callable[[int], object]:
        function, target = SemanticLoss(kind), true[None, 200:456, :512]
        return lambda n: function(batch, target).total.backward()  # type: ignore[no-untyped-call]

    return {
        "count 1024x2048": lambda n: count_confusion(predicted, true, CLASSES),
        "count, int64": lambda n: count_confusion(predicted.long(), true, CLASSES),
        "logits to 1024x2048": lambda n: resize_and_argmax(logits, MASK_HW),
        **{f"loss 256x512, {kind}": loss(kind) for kind in ("ce", "ohem", "focal")},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=str(ROOT.parent / "shared/data/camvid/camvid.yaml"))
    parser.add_argument("--imgsz", type=int, default=480)
    parser.add_argument("--samples", type=int, default=200)
    args = parser.parse_args()
    init_worker(0)
    warps = {name: (lambda n, warp=warp: warp()) for name, warp in build_references().items()}
    small: dict[str, Callable[[int], object]] = {**build_sample_jobs(args.data, args.imgsz), **warps}  # type: ignore[dict-item]
    for jobs, rounds in ((small, args.samples), (build_mask_jobs(), max(1, args.samples // 10))):
        measure(jobs, 3)
        for name, median in measure(jobs, rounds).items():
            print(f"{name:22s} {np.round(median, 2):8.2f} ms")


if __name__ == "__main__":
    main()
