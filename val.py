"""Validate a YOLOv5 model: `python val.py --weights best.pt --data shapes.yaml --imgsz 320`.

From Python: `import val; val.run(weights="best.pt", data="shapes.yaml", imgsz=320)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from utils.config.val import ValConfig
from utils.core.script import run_script

if TYPE_CHECKING:
    import numpy as np

    Results = tuple[tuple[float, ...], np.ndarray, tuple[float, float, float]]


def run(kind: type[ValConfig] = ValConfig, /, **options: Any) -> Results:
    """Validate with the options of the command line, as keyword arguments with underscores.

    On CUDA it uses FP16 unless `half=False`.

    Args:
        kind: config class, of this command or of one in segment/ or classify/.

    Returns:
        (P, R, mAP50, mAP50-95, box, obj and cls loss); mAP50-95 of each class; milliseconds per image of (pre-process,
        inference, NMS). Instance segmentation: four metrics of boxes, four of masks and four losses (box, seg, obj,
        cls); the mean of box and mask mAP50-95 of each class.
    """
    config = kind.from_kwargs(**options)
    if "half" not in config.explicit:
        config = replace(config, half=True)
    from utils.evaluate.run import evaluate  # after the flags are parsed, because torch is slow to import

    result = evaluate(config)[-1]
    metrics = (*result.evaluation.metrics.values(), *result.losses.values())
    return metrics, result.evaluation.per_class, result.speed_ms


def main(argv: Sequence[str] | None = None, *, kind: type[ValConfig] = ValConfig) -> None:
    """Command-line entry point."""
    config = kind.from_args(argv)
    from utils.evaluate.run import evaluate

    evaluate(config)


if __name__ == "__main__":
    run_script(main)
