"""Train a YOLOv5 model: `python train.py --data shapes.yaml --weights '' --cfg yolov5n.yaml --imgsz 320`.

From Python: `import train; train.run(data="shapes.yaml", weights="", cfg="yolov5n.yaml", imgsz=320)`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from utils.config.train import TrainConfig
from utils.core.logging import RunLog
from utils.core.script import run_script
from utils.train.launch import launch, list_launch_devices
from utils.train.resume import prepare_resumed_launch
from utils.train.run_lock import run_locks

if TYPE_CHECKING:
    from utils.search.evolve import EvolveResult
    from utils.train.trainer import FitResult


def run(kind: type[TrainConfig] = TrainConfig, /, **options: Any) -> FitResult | EvolveResult:
    """Train with the options of the command line, as keyword arguments with underscores.

    Args:
        kind: config class, of this command or of one in segment/ or classify/.

    Raises:
        InputError: an option, file or value is invalid.
    """
    return train(kind.from_kwargs(**options))


def train(config: TrainConfig) -> FitResult | EvolveResult:
    """Train and validate the best checkpoint, or evolve hyperparameters."""
    if config.evolve or config.resume_evolve:
        from utils.search.evolve import evolve

        return evolve(config)
    from utils.core import distributed  # after the flags are parsed, because torch is slow to import
    from utils.train.finish import finish
    from utils.train.out_of_memory import fit_within_memory

    with run_locks(), RunLog():
        result = finish(*fit_within_memory(config))
    distributed.destroy_process_group()
    return result


def main(argv: Sequence[str] | None = None, *, kind: type[TrainConfig] = TrainConfig) -> int:
    """Command-line entry point."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    config = kind.from_args(arguments)
    device = config.device
    if config.resume and not (config.evolve or config.resume_evolve):
        device, arguments = prepare_resumed_launch(config, arguments)
    if devices := list_launch_devices(device):
        config.check()
        return launch(arguments, devices)
    train(config)
    return 0


if __name__ == "__main__":
    run_script(main)
