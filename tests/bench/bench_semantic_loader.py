"""Time of semantic masks on one core: a training sample, the counting of a 1024x2048 mask, resizing back.

    python tests/bench/bench_semantic_loader.py [--data ../shared/data/camvid/camvid.yaml] [--imgsz 480] [--samples 200]

Times are processor time of the thread, medians; the yardstick is that of bench_loader.py. Run it alone. Aims: a sample
of 480 px well under 10 ms, the counting a few ms.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_loader import measure, yardsticks

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

CLASSES, MAP_HW = 19, (1024, 2048)


def samples(data: str, imgsz: int) -> dict[str, Callable[[int], object]]:
    """Training and validation samples by what they are."""
    index = load_semantic_index(load_spec(data), "train")
    hyp = Hyperparameters.load(ROOT / "data/hyps/hyp.scratch-low.yaml")
    sets = {
        "sample": SemanticDataset(index, imgsz=imgsz, hyp=hyp, augment=True),
        "sample, RAM": SemanticDataset(index, imgsz=imgsz, hyp=hyp, augment=True, cache="ram"),
        "sample, mosaic": SemanticDataset(index, imgsz=imgsz, hyp=hyp, augment=True, mosaic=True),
        "validation sample": SemanticDataset(index, imgsz=imgsz, hyp=hyp, augment=False),
    }
    return {name: (lambda n, made=made: made[n // len(made), n % len(made)]) for name, made in sets.items()}  # type: ignore[misc]


def maps() -> dict[str, Callable[[int], object]]:
    """Work on one map of Cityscapes' size."""
    rng = torch.Generator().manual_seed(0)
    true = torch.randint(0, CLASSES, MAP_HW, generator=rng, dtype=torch.uint8)
    found = torch.randint(0, CLASSES, MAP_HW, generator=rng, dtype=torch.uint8)
    true[:100] = 255
    logits = torch.randn(CLASSES, MAP_HW[0] // 2, MAP_HW[1] // 2, generator=rng)
    batch = logits[None, :, :256, :512].clone().requires_grad_()

    def loss(kind: str) -> Callable[[int], object]:
        function, target = SemanticLoss(kind), true[None, 200:456, :512]
        return lambda n: function(batch, target).total.backward()  # type: ignore[no-untyped-call]

    return {
        "count 1024x2048": lambda n: count_confusion(found, true, CLASSES),
        "count, int64": lambda n: count_confusion(found.long(), true, CLASSES),
        "logits to 1024x2048": lambda n: resize_and_argmax(logits, MAP_HW),
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
    warps = {name: (lambda n, warp=warp: warp()) for name, warp in yardsticks().items()}
    small: dict[str, Callable[[int], object]] = {**samples(args.data, args.imgsz), **warps}  # type: ignore[dict-item]
    for jobs, rounds in ((small, args.samples), (maps(), max(1, args.samples // 10))):
        measure(jobs, 3)
        for name, median in measure(jobs, rounds).items():
            print(f"{name:22s} {np.round(median, 2):8.2f} ms")


if __name__ == "__main__":
    main()
