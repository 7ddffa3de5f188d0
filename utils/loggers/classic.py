"""Loggers under the names and with the arguments that training scripts import from `utils.loggers`."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.ranks import RANK
from utils.loggers.base import RunInfo, decode_rgb
from utils.loggers.callback import FINAL_FILES, FINAL_IMAGES, find_files
from utils.loggers.run_folder import CSVLogger
from utils.loggers.services import Services
from utils.loggers.tensorboard import trace_network
from utils.plots.batches import plot_batch
from utils.plots.labels import plot_labels
from utils.plots.results import plot_results
from utils.torch_utils import de_parallel

__all__ = ["LOGGERS", "RANK", "GenericLogger", "Loggers", "log_tensorboard_graph", "web_project_name"]
LOGGERS = ("csv", "tb", "wandb", "clearml", "comet")  # what `include` may name
METRICS = ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")
LOSSES = ("box_loss", "obj_loss", "cls_loss")
MAX_TRAIN_PLOTS = 3  # training batches that are plotted
SEGMENT_WIDTH = 23  # characters per column of results.csv
Names = Mapping[int, str] | Sequence[str]
_NO_METADATA: Mapping[str, Any] = {}


class Loggers:
    """Writes results.csv, plots and a TensorBoard file into the folder of a detection run; reports to services.

    Each method is called at the hook of its name: `callbacks.register_action(name, callback=getattr(loggers, name))`
    for the names of `utils.general.methods(loggers)`. Therefore it has no other methods. Some hooks also accept the
    arguments that scripts of releases 6.0 to 6.2 pass.

    Args:
        save_dir: folder of the run.
        weights, opt, hyp: weights, options and hyperparameters of the run; read are `noplots`, `evolve`, `sync_bn`,
            `save_period`, `project`, `resume` and `entity` of `opt`, if set.
        logger: for messages; by default that of this project.
        include: loggers to use, of `LOGGERS`. A service is used if an environment variable enables it.

    Attributes:
        keys: names of the values that `on_fit_epoch_end` takes.
        best_keys: names of the values that describe the best epoch.
        csv: whether results.csv is written.
        tb: `SummaryWriter` of TensorBoard, or None.
        wandb, clearml, comet_logger: None; these services have no objects here.
    """

    def __init__(
        self,
        save_dir: str | Path | None = None,
        weights: Any = None,
        opt: Any = None,
        hyp: Mapping[str, Any] | None = None,
        logger: Any = None,
        include: Sequence[str] = LOGGERS,
    ) -> None:
        self.save_dir, self.weights, self.opt, self.hyp = Path(save_dir or "."), weights, opt, hyp
        self.logger, self.include = logger or LOGGER, tuple(include)
        self.plots = not getattr(opt, "noplots", False)
        self.keys = [
            *(f"train/{name}" for name in LOSSES),
            *(f"metrics/{name}" for name in METRICS),
            *(f"val/{name}" for name in LOSSES),
            *(f"x/lr{group}" for group in range(3)),
        ]
        self.best_keys = ["best/epoch", *(f"best/{name}" for name in METRICS)]
        self.csv = "csv" in self.include
        is_plain_run = not getattr(opt, "evolve", None)
        self.tb: Any = open_tensorboard(self.save_dir, self.logger) if "tb" in self.include and is_plain_run else None
        self.wandb = self.clearml = self.comet_logger = None
        self._names: Names = {}
        self._epoch = 0
        self._params = collect_params(opt, hyp)
        self._table = CSVLogger(self.save_dir / "results.csv")
        self._services = Services(self.include if is_plain_run else ())

    @property
    def remote_dataset(self) -> None:
        """Data set of a service; always None, as data sets are local."""
        return None

    def on_train_start(self) -> None:
        """Nothing to do."""

    def on_pretrain_routine_start(self) -> None:
        """Nothing to do."""

    def on_pretrain_routine_end(self, labels: np.ndarray | None = None, names: Names = ()) -> None:
        """Plot the labels (n, 5) of the training split, if given; open the run in the services."""
        self._names = names
        self._services.start(build_run_info(self.opt, self._params, self.save_dir))
        if self.plots and labels is not None:
            rows = np.asarray(labels).reshape(-1, 5)
            plot_labels(rows[:, 0], rows[:, 1:], to_dict(names), self.save_dir)
        self._services.log_images(find_files(self.save_dir, ["labels*.jpg"]), 0)

    def on_train_batch_end(
        self, model: Any, ni: Any, imgs: Tensor, targets: Tensor, paths: Sequence[str], vals: Any = (), *_: Any
    ) -> None:
        """Plot the first training batches; write the graph of the network at the first one.

        Args:
            model: the network.
            ni: number of the batch since the start of training; before release 7.0 it comes before the network.
            imgs, targets, paths: the batch; targets (n, 6) image index, class, x, y, w, h normalized.
            vals: mean losses so far, unused.
        """
        model, number = (ni, model) if isinstance(model, int) else (model, ni)
        if self.plots and number < MAX_TRAIN_PLOTS:
            file = self.save_dir / f"train_batch{number}.jpg"
            plot_batch(imgs, targets, [str(path) for path in paths], to_dict(self._names), file)
            self._services.log_images([file], 0)
        if self.tb and number == 0 and not getattr(self.opt, "sync_bn", False):
            log_tensorboard_graph(self.tb, model, imgsz=list(imgs.shape[2:]))

    def on_train_epoch_end(self, epoch: int) -> None:
        """Remember the epoch for the plots of its validation."""
        self._epoch = epoch

    def on_val_start(self) -> None:
        """Nothing to do."""

    def on_val_image_end(self, pred: Tensor, predn: Tensor, path: Any, names: Names, im: Tensor) -> None:
        """Nothing to do."""

    def on_val_batch_end(self, batch_i: int, im: Tensor, targets: Tensor, paths: Any, shapes: Any, out: Any) -> None:
        """Nothing to do."""

    def on_val_end(
        self, nt: Any = None, tp: Any = None, fp: Any = None, p: Any = None, r: Any = None, f1: Any = None,
        ap: Any = None, ap50: Any = None, ap_class: Any = None, confusion_matrix: Any = None,
    ) -> None:  # fmt: skip
        """Log the plots of validation; the arguments are its counts, metrics per class and confusion matrix."""
        self._services.log_images(find_files(self.save_dir, ["val*.jpg"]), self._epoch)

    def on_fit_epoch_end(self, vals: Sequence[float], epoch: int, best_fitness: Any, fi: Any) -> None:
        """Log the values of an epoch, in the order of `keys`."""
        metrics = {name: float(value) for name, value in zip(self.keys, vals, strict=False)}
        if self.csv:
            self._table.on_fit_epoch_end(epoch=epoch, metrics=metrics)
        log_scalars(self.tb, metrics, epoch)
        self._services.call("log_scalars", metrics, epoch)

    def on_model_save(self, last: Path, epoch: int, final_epoch: bool, best_fitness: Any, fi: Any) -> None:
        """Upload the checkpoint every `save_period` epochs."""
        period = getattr(self.opt, "save_period", -1)
        if period > 0 and (epoch + 1) % period == 0 and not final_epoch:
            self._services.log_files([Path(last)])

    def on_train_end(self, last: Path, best: Path, epoch: int, results: Any, *rest: Any) -> None:
        """Plot results.png; log plots and files of the run, and close it.

        Args:
            last, best: checkpoints, unused.
            epoch, results: number of the epoch, metrics and losses of the last validation; in 6.0 and 6.1 after a flag.
        """
        epoch, results = (results, rest[0]) if rest else (epoch, results)
        if self.plots and (self.save_dir / "results.csv").is_file():
            try_to_plot_results(self.save_dir / "results.csv")
        images = find_files(self.save_dir, FINAL_IMAGES)
        log_tensorboard_images(self.tb, images, epoch)
        self._services.log_images(images, epoch)
        self._services.log_files(find_files(self.save_dir, FINAL_FILES))
        metrics = zip(self.best_keys, [epoch, *results], strict=False)
        self._services.finish({name: float(value) for name, value in metrics})
        if self.tb:
            self.tb.flush()

    def on_params_update(self, params: Mapping[str, Any]) -> None:
        """Change settings of the run; services get those that are known when training starts."""
        self._params.update(params)


class GenericLogger:
    """Writes results.csv and a TensorBoard file into the folder of a run of any task; reports to services.

    Args:
        opt: options of the run with `save_dir`; `project`, `resume` and `entity` are read if set.
        console_logger: for messages.
        include: as for `Loggers`.

    Attributes:
        save_dir: folder of the run. csv: path of results.csv. tb: `SummaryWriter` or None. wandb: None.
    """

    def __init__(self, opt: Any, console_logger: Any, include: Sequence[str] = ("tb", "wandb")) -> None:
        self.opt, self.console_logger, self.include = opt, console_logger, tuple(include)
        self.save_dir = Path(opt.save_dir)
        self.csv = self.save_dir / "results.csv"
        self.tb: Any = open_tensorboard(self.save_dir, console_logger) if "tb" in include else None
        self.wandb = None
        self._params = collect_params(opt, getattr(opt, "hyp", None))
        self._table = CSVLogger(self.csv, width=SEGMENT_WIDTH)
        self._services = Services(self.include)
        self._is_started = False
        self._columns: set[str] = set()
        weakref.finalize(self, self._services.finish, {})  # at the latest when the script ends

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Log the values of an epoch: a row of results.csv, if the names are those of the first call.

        Others, such as the metrics of best.pt after the last epoch, would replace that epoch's row.
        """
        values = {name: float(value) for name, value in metrics.items()}
        self._columns = self._columns or set(values)
        if self._columns == set(values):
            self._table.on_fit_epoch_end(epoch=epoch, metrics=values)
        log_scalars(self.tb, values, epoch)
        self._start().call("log_scalars", values, epoch)

    def log_images(self, files: str | Path | Sequence[str | Path], name: str = "Images", epoch: int = 0) -> None:
        """Log one or several image files; those that do not exist are left out."""
        several = [files] if isinstance(files, str | Path) else files
        images = [file for file in map(Path, several) if file.is_file()]
        log_tensorboard_images(self.tb, images, epoch)
        self._start().log_images(images, epoch, f"{name}/")

    def log_graph(self, model: nn.Module, imgsz: Sequence[int] = (640, 640)) -> None:
        """Write the graph of the network for images of `imgsz` (h, w) to TensorBoard."""
        if self.tb:
            log_tensorboard_graph(self.tb, model, imgsz)

    def log_model(self, model_path: str | Path, epoch: int = 0, metadata: Mapping[str, Any] = _NO_METADATA) -> None:
        """Upload a checkpoint to the services; the other arguments are ignored."""
        self._start().log_files([Path(model_path)])

    def update_params(self, params: Mapping[str, Any]) -> None:
        """Change settings of the run; services get those that are known at the first other call."""
        self._params.update(params)

    def _start(self) -> Services:
        """The services, with the run open in each."""
        if not self._is_started:
            self._is_started = True
            self._services.start(build_run_info(self.opt, self._params, self.save_dir))
        return self._services


def collect_params(opt: Any, hyp: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options and hyperparameters of a run by name."""
    options = {} if opt is None else {name: value for name, value in vars(opt).items() if name != "hyp"}
    return {**options, **(hyp if isinstance(hyp, Mapping) else {})}


def build_run_info(opt: Any, params: Mapping[str, Any], save_dir: Path) -> RunInfo:
    """Description of a run for the services."""
    return RunInfo(
        folder=save_dir,
        project=web_project_name(str(getattr(opt, "project", None) or "runs/train")),
        params=dict(params),
        start_epoch=int(bool(getattr(opt, "resume", False))),  # a resumed run continues in the services
        entity=getattr(opt, "entity", None),
    )


def to_dict(names: Names) -> dict[int, str]:
    """Class names by number."""
    return dict(names.items() if isinstance(names, Mapping) else enumerate(names))


def open_tensorboard(folder: Path, logger: Any) -> Any:
    """A `SummaryWriter` for a run folder; None, with a message, if TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        logger.info("TensorBoard is not installed: metrics are in results.csv only; pip install tensorboard")
        return None
    from torch.utils.tensorboard import SummaryWriter

    logger.info(f"TensorBoard: tensorboard --logdir {folder.parent}, then open http://localhost:6006")
    return SummaryWriter(str(folder))


def log_scalars(tb: Any, values: Mapping[str, float], epoch: int) -> None:
    """Write values of an epoch to TensorBoard, if `tb` is set."""
    for name, value in values.items() if tb else ():
        tb.add_scalar(name, value, epoch)


def log_tensorboard_images(tb: Any, files: Sequence[Path], epoch: int) -> None:
    """Write image files to TensorBoard under their names, if `tb` is set."""
    for file in files if tb else ():
        tb.add_image(file.stem, np.asarray(decode_rgb(file.read_bytes())), epoch, dataformats="HWC")


def try_to_plot_results(csv: Path) -> None:
    """Plot results.png; a damaged results.csv is a warning."""
    try:
        plot_results(csv)
    except InputError as error:
        LOGGER.warning(f"WARNING results.png is not up to date: {error}")


def log_tensorboard_graph(tb: Any, model: nn.Module, imgsz: int | Sequence[int] = (640, 640)) -> None:
    """Write the graph of a network to TensorBoard; a network that cannot be traced is a warning.

    Args:
        tb: `SummaryWriter`.
        model: network, which stays as it is.
        imgsz: size of the images, a number or (h, w).
    """
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz[:2]
    try:
        network = copy.deepcopy(de_parallel(model)).float().cpu().train()  # raw outputs in training mode
        channels = next((m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d)), 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch, that tracing is out of date
            tb.add_graph(trace_network(network, torch.zeros(2, channels, height, width)), [])
    except Exception as error:  # layers of torch may raise any
        LOGGER.warning(f"WARNING TensorBoard: no graph of the network ({type(error).__name__}: {error})")


def web_project_name(project: str) -> str:
    """Name of a project in a service: that of the folder `--project`, and a common one for the default folders."""
    if not project.startswith("runs/train"):
        return project
    return "YOLOv5" + {"-cls": "-Classify", "-seg": "-Segment"}.get(project[-4:], "")
