"""Measure a classifier: `python classify/val.py --weights best.pt --data imagenette160 --imgsz 224`.

From Python: `from classify import val; top1, top5, loss = val.run(weights="best.pt", data="imagenette160")`.
"""

from __future__ import annotations

if __name__ == "__main__":  # as a script the project's own folder comes first
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Sequence
from typing import Any

from utils.config_classify import ClassifyValConfig
from utils.script import run_script


def run(**options: Any) -> tuple[float, float, float]:
    """Top-1 and top-5 accuracy and the loss, with the options of the command line, underscores for hyphens."""
    return measure(ClassifyValConfig.from_kwargs(**options))


def measure(config: ClassifyValConfig) -> tuple[float, float, float]:
    """Top-1 and top-5 accuracy and the cross-entropy that `config` asks for."""
    from utils.engine.evaluation import evaluate  # torch takes seconds to import: only once the flags are right

    result = evaluate(config)[-1]
    top1, top5 = result.evaluation.metrics.values()
    return top1, top5, result.losses["loss"]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line entry."""
    measure(ClassifyValConfig.from_args(argv))


if __name__ == "__main__":
    run_script(main)
