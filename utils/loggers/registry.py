"""Which loggers a run has: those named by --loggers, else those that the environment asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from utils.config.base import TrainConfig
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.loggers.base import BatchDrawing, Tracker, TrackerListener
from utils.loggers.clearml import ClearMLTracker
from utils.loggers.comet import CometTracker
from utils.loggers.mlflow import MLflowTracker
from utils.loggers.tensorboard import TensorBoardTracker
from utils.loggers.wandb import WandbTracker


@dataclass(frozen=True)
class Service:
    """How a tracker is asked for.

    Attributes:
        module: what must be installed, by `pip install <package>`.
        variables: environment variables of which any one asks for it.
        uses: flags of train.py that mean something to it.
    """

    tracker: Callable[[], Tracker]
    module: str
    package: str
    variables: tuple[str, ...] = ()
    uses: tuple[str, ...] = ("upload_dataset", "artifact_alias", "bbox_interval")


SERVICES: dict[str, Service] = {
    "tensorboard": Service(TensorBoardTracker, "tensorboard", "tensorboard", uses=("bbox_interval",)),
    "mlflow": Service(MLflowTracker, "mlflow", "mlflow", ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")),
    "wandb": Service(
        WandbTracker,
        "wandb",
        "wandb",
        ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"),
        ("entity", "upload_dataset", "artifact_alias", "bbox_interval"),
    ),
    "clearml": Service(
        ClearMLTracker, "clearml", "clearml", ("CLEARML_API_ACCESS_KEY", "CLEARML_CONFIG_FILE", "CLEARML_OFFLINE_MODE")
    ),
    "comet": Service(
        CometTracker,
        "comet_ml",
        "comet_ml",
        ("COMET_API_KEY", "COMET_OFFLINE_DIRECTORY"),
        ("entity", "upload_dataset", "artifact_alias", "bbox_interval"),
    ),
}


def wanted_services(config: TrainConfig) -> list[str]:
    """Names of the services that a run is kept in.

    TensorBoard needs no asking. Without --loggers a service is wanted whose variables are set; one that is not
    installed is told once and left out.

    Raises:
        InputError: one that --loggers names is not installed.
    """
    chosen = [name for name in config.loggers or () if name != "none"]
    missing = [name for name in chosen if not is_installed(name)]
    if missing:
        packages = " ".join(SERVICES[name].package for name in missing)
        raise InputError(f"--loggers {' '.join(missing)}: not installed; pip install {packages}")
    if config.loggers is None:
        for name, service in SERVICES.items():
            asking = next((v for v in service.variables if os.getenv(v)), None)
            if asking == "WANDB_MODE" and os.environ[asking] == "disabled":
                continue
            if asking and not is_installed(name):
                LOGGER.warning(f"WARNING {asking} is set, but {name} is not installed; pip install {service.package}")
            elif asking or name == "tensorboard":
                chosen.append(name)
    warn_of_unused(config, chosen)
    return chosen


def warn_of_unused(config: TrainConfig, chosen: Sequence[str]) -> None:
    """Name the flags for loggers that none of the chosen ones heeds."""
    used = {flag for name in chosen for flag in SERVICES[name].uses}
    for flag in ("entity", "upload_dataset", "bbox_interval", "artifact_alias"):
        if flag in config.given and flag not in used:
            able = ", ".join(name for name, service in SERVICES.items() if flag in service.uses)
            LOGGER.warning(f"WARNING --{flag}: no effect, as no logger of this run heeds it; these do: {able}")


def is_installed(name: str) -> bool:
    """Whether a service's package can be imported."""
    return find_spec(SERVICES[name].module) is not None


def build_listeners(config: TrainConfig, chosen: Sequence[str]) -> list[TrackerListener]:
    """The listeners of the services named."""
    listeners, drawing = [], BatchDrawing()
    for name in chosen:
        if name != "tensorboard":
            listeners.append(TrackerListener(SERVICES[name].tracker(), drawing=drawing))
        elif is_installed(name):
            graph = "tensorboard" in (config.loggers or ())
            listeners.append(TrackerListener(TensorBoardTracker(graph=graph), threaded=False, drawing=drawing))
        else:
            LOGGER.info("No TensorBoard files: not installed. results.csv has the numbers; `pip install tensorboard`")
    return listeners
