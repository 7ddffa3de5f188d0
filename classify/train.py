"""Train a classifier: `python classify/train.py --model yolov5n-cls.pt --data imagenette160 --imgsz 224`.

From Python: `from classify import train; train.run(model="yolov5n-cls.pt", data="imagenette160")`.
"""

from __future__ import annotations

if __name__ == "__main__":  # as a script the project's own folder comes first
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from train import train
from utils.config_classify import ClassifyTrainConfig
from utils.script import run_script

if TYPE_CHECKING:
    from utils.engine.evolve import EvolveResult
    from utils.engine.trainer import FitResult


def run(**options: Any) -> FitResult | EvolveResult:
    """Train with the options of the command line, underscores for hyphens; InputError for what cannot be used."""
    return train(ClassifyTrainConfig.from_kwargs(**options))


def main(argv: Sequence[str] | None = None) -> None:
    """Command line entry."""
    train(ClassifyTrainConfig.from_args(argv))


if __name__ == "__main__":
    run_script(main)
