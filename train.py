"""Train a YOLOv5 model: `python train.py --data shapes.yaml --weights '' --cfg yolov5n.yaml --imgsz 320`.

From Python: `import train; train.run(data="shapes.yaml", weights="", cfg="yolov5n.yaml", imgsz=320)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from utils.config import TrainConfig
from utils.script import run_script

if TYPE_CHECKING:
    from utils.engine.evolve import EvolveResult
    from utils.engine.trainer import FitResult


def run(kind: type[TrainConfig] = TrainConfig, /, **options: Any) -> FitResult | EvolveResult:
    """Train with the options of the command line, underscores for hyphens; InputError for what cannot be used.

    Args:
        kind: settings of another task's command.
    """
    return train(kind.from_kwargs(**options))


def train(config: TrainConfig) -> FitResult | EvolveResult:
    """Build the run that `config` describes, train, and measure its best checkpoint; or search hyperparameters."""
    if config.evolve or config.resume_evolve:
        from utils.engine.evolve import evolve

        return evolve(config)
    from utils.engine.finish import finish  # torch takes seconds to import: only once the flags are known to be right
    from utils.engine.setup import build_trainer

    trainer = build_trainer(config)
    return finish(trainer, trainer.fit())


def main(argv: Sequence[str] | None = None, *, kind: type[TrainConfig] = TrainConfig) -> None:
    """Command line entry."""
    train(kind.from_args(argv))


if __name__ == "__main__":
    run_script(main)
