"""train.py, segment/train.py and classify/train.py."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.commands.base import Command
from utils.config.namespaces import to_options
from utils.config.train import TrainConfig
from utils.core.logging import LOGGER, RunLog
from utils.train.launch import launch, list_launch_devices
from utils.train.resume import prepare_resumed_launch
from utils.train.run_lock import run_locks

if TYPE_CHECKING:
    from utils.search.evolve import EvolveResult
    from utils.train.trainer import FitResult

SCRIPT_NAMES = {  # further names of the training scripts, and where they are defined
    "GIT_INFO": "utils.commands.git_info",
    "LOGGER": "utils.core.logging",
    **dict.fromkeys(("LOCAL_RANK", "RANK", "WORLD_SIZE"), "utils.core.ranks"),
}


class TrainRun(Namespace):
    """The options of a run as attributes, and its outcome.

    Attributes:
        save_dir: the run folder.
        last, best: checkpoints; `best` is None with `nosave`.
        metrics: of the final validation, by their names in results.csv.
        result: the `FitResult`, with the number of epochs done; or the `EvolveResult`, whose values `csv`,
            `generations` and `fitness` are attributes too.
    """


class TrainCommand(Command[TrainConfig]):
    """Train a model, or evolve hyperparameters."""

    def run(self, **options: Any) -> TrainRun:
        """Train with the options of the command line, as keyword arguments with underscores.

        Returns:
            The options used, with the files and metrics of the run.

        Raises:
            InputError: an option, file or value is invalid.
        """
        config = self.kind.from_kwargs(**options)
        return build_run(config, fit(config))

    def train(
        self, hyp: str | Path | Mapping[str, Any] | None, opt: Namespace, device: Any, callbacks: Any = None
    ) -> tuple[float, ...]:
        """Train with the hyperparameters, options and device of a script.

        Args:
            hyp: YAML file or its content; None for that of the options.
            opt: as from `parse_opt`; `save_dir`, if there is one, is the run folder.
            device: name or torch.device.
            callbacks: of the class of `utils.callbacks`, or an object with methods named as hooks.

        Returns:
            Metrics and losses of the last validation: (P, R, mAP50, mAP50-95, box, obj, cls) for detection.
        """
        changes: dict[str, Any] = {"device": device} | ({} if hyp is None else {"hyp": hyp})
        if save_dir := getattr(opt, "save_dir", None):
            changes |= {"project": Path(save_dir).parent, "name": Path(save_dir).name, "exist_ok": True}
        result: Any = fit(with_settings(self.read_config(opt), **changes), [] if callbacks is None else [callbacks])
        return (*result.metrics.values(), *result.losses.values())

    def main(self, opt: Namespace | Sequence[str] | None = None, callbacks: Any = None) -> int:
        """Run a command line or the result of `parse_opt`, with several devices of a command line as many processes."""
        config = self.read_config(opt)
        extra = [] if callbacks is None else [callbacks]
        if isinstance(opt, Namespace):
            opt.save_dir = str(fit(config, extra).save_dir)
            return 0
        arguments, device = sys.argv[1:] if opt is None else list(opt), config.device
        if config.resume and not (config.evolve or config.resume_evolve):
            device, arguments = prepare_resumed_launch(config, arguments)
        if devices := list_launch_devices(device):
            config.check()
            return launch(arguments, devices)
        fit(config, extra)
        return 0


class ClassifyTrainCommand(TrainCommand):
    """Train a classifier."""

    def train(  # type: ignore[override]
        self, opt: Namespace, device: Any, callbacks: Any = None
    ) -> tuple[float, ...]:
        """Train with the options and device of a script.

        Returns:
            Metrics and loss of the last validation: (top-1 accuracy, top-5 accuracy, loss).
        """
        return super().train(None, opt, device, callbacks)


def fit(config: TrainConfig, callbacks: Sequence[Any] = ()) -> FitResult | EvolveResult:
    """Train and validate the best checkpoint, or evolve hyperparameters.

    Args:
        callbacks: further ones, as for `utils.train.setup.build_trainer`.
    """
    if config.evolve or config.resume_evolve:
        from utils.search.evolve import evolve

        if callbacks:
            LOGGER.warning("WARNING callbacks: ignored by --evolve, which runs many trainings")
        return evolve(config)
    from utils.core import distributed  # after the flags are parsed, because torch is slow to import
    from utils.train.finish import finish
    from utils.train.out_of_memory import fit_within_memory

    with run_locks(), RunLog():
        result = finish(*fit_within_memory(config, callbacks))
    distributed.destroy_process_group()
    return result


def build_run(config: TrainConfig, result: FitResult | EvolveResult) -> TrainRun:
    """The outcome of a run with its options; the number of epochs done is in `result`."""
    values = {name: value for name, value in asdict(result).items() if name not in ("epochs", "hyp")}
    return TrainRun(**vars(to_options(config)) | values, result=result)


def with_settings(config: TrainConfig, **changes: Any) -> TrainConfig:
    """The config with other settings, which count as set."""
    return type(config).from_kwargs(**{name: getattr(config, name) for name in config.explicit} | changes)
