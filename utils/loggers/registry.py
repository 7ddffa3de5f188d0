"""Selection of experiment trackers by `--loggers` or environment variables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

from utils.config.train import TrainConfig
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.loggers.base import Tracker
from utils.loggers.callback import TrackerCallback
from utils.loggers.clearml import ClearMLTracker
from utils.loggers.comet import CometTracker
from utils.loggers.mlflow import MLflowTracker
from utils.loggers.tensorboard import TensorBoardTracker
from utils.loggers.wandb import WandbTracker

SERVICES: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "mlflow": MLflowTracker,
    "wandb": WandbTracker,
    "clearml": ClearMLTracker,
    "comet": CometTracker,
}


def choose_services(config: TrainConfig) -> list[str]:
    """Names of the services that record the run: those of `--loggers`, else TensorBoard and those with a variable set.

    Raises:
        InputError: a service of `--loggers` is not installed.
    """
    names = [name for name in config.loggers or () if name != "none"]
    missing = [name for name in names if not is_installed(name)]
    if missing:
        packages = " ".join(SERVICES[name].package for name in missing)
        raise InputError(f"--loggers {' '.join(missing)}: not installed; pip install {packages}")
    if config.loggers is None:
        for name, service in SERVICES.items():
            variable = next((v for v in service.variables if os.getenv(v)), None)
            if variable == "WANDB_MODE" and os.environ[variable] == "disabled":
                continue
            if variable and not is_installed(name):
                LOGGER.warning(f"WARNING {variable} is set, but {name} is not installed; pip install {service.package}")
            elif variable or name == "tensorboard":
                names.append(name)
    warn_of_ignored_flags(config, names)
    return names


def warn_of_ignored_flags(config: TrainConfig, names: Sequence[str]) -> None:
    """Warn of given flags that none of the named services supports."""
    supported = {flag for name in names for flag in SERVICES[name].flags}
    for flag in ("entity", "upload_dataset", "bbox_interval", "artifact_alias"):
        if flag in config.explicit and flag not in supported:
            services = ", ".join(name for name, service in SERVICES.items() if flag in service.flags)
            LOGGER.warning(f"WARNING --{flag} is ignored: no logger of this run supports it; these do: {services}")


def is_installed(name: str) -> bool:
    """Whether the package of a service is installed."""
    return find_spec(SERVICES[name].package) is not None


def build_tracker_callbacks(config: TrainConfig, names: Sequence[str]) -> list[TrackerCallback]:
    """The callback that reports a run to the named services; none without services."""
    trackers: list[Tracker] = []
    for name in names:
        if name != "tensorboard":
            trackers.append(SERVICES[name]())
        elif is_installed(name):
            trackers.append(TensorBoardTracker(graph="tensorboard" in (config.loggers or ())))
        else:
            LOGGER.info("TensorBoard is not installed: metrics are in results.csv only; pip install tensorboard")
    return [TrackerCallback(trackers)] if trackers else []
