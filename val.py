"""Measure a YOLOv5 model: `python val.py --weights best.pt --data shapes.yaml --imgsz 320`.

From Python: `import val; val.run(weights="best.pt", data="shapes.yaml", imgsz=320)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from utils.config.base import ValConfig
from utils.core.script import run_script

if TYPE_CHECKING:
    import numpy as np

    Results = tuple[tuple[float, ...], np.ndarray, tuple[float, float, float]]


def run(kind: type[ValConfig] = ValConfig, /, **options: Any) -> Results:
    """Measure with the options of the command line, underscores for hyphens; FP16 on CUDA unless `half=False`.

    Args:
        kind: settings of another task's command.

    Returns:
        (P, R, mAP50, mAP50-95, box, obj and cls loss), mAP50-95 of each class, milliseconds an image of
        (preparing, forward, NMS). Of a segmenter four metrics of boxes, four of masks and four losses (box, seg, obj,
        cls), and the mean of both mAPs of each class.
    """
    config = kind.from_kwargs(**options)
    if "half" not in config.given:
        config = replace(config, half=True)
    from utils.evaluate.run import evaluate  # torch takes seconds to import: only once the flags are right

    result = evaluate(config)[-1]
    numbers = (*result.evaluation.metrics.values(), *result.losses.values())
    return numbers, result.evaluation.per_class, result.speed_ms


def main(argv: Sequence[str] | None = None, *, kind: type[ValConfig] = ValConfig) -> None:
    """Command line entry."""
    config = kind.from_args(argv)
    from utils.evaluate.run import evaluate

    evaluate(config)


if __name__ == "__main__":
    run_script(main)
