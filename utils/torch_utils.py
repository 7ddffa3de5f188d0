"""Public address of device, timing and model helpers, with their known signatures."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import pruning
from models.common import Classify, fuse_conv_bn
from models.summary import count_parameters
from models.yolo import rescale_images, set_norm_and_inplace
from utils.config.base import ROOT
from utils.core import device as devices
from utils.core.errors import InputError
from utils.core.hardware import parse_devices
from utils.core.lazy import OUTSIDE, lazy_exports
from utils.core.ranks import LOCAL_RANK, RANK, WORLD_SIZE
from utils.core.renamed import accept_renamed
from utils.general import (
    LOGGER,
    check_version,
    colorstr,
    date_modified,
    file_age,
    file_date,
    git_describe,
    init_seeds,
    intersect_dicts,
)
from utils.train import early_stopping, ema
from utils.train.optim import build_optimizer

__all__ = [
    "LOCAL_RANK", "LOGGER", "RANK", "WORLD_SIZE", "EarlyStopping", "F", "ModelEMA", "check_version", "colorstr",
    "copy_attr", "date_modified", "de_parallel", "device_count", "file_age", "file_date", "find_modules",
    "fuse_conv_and_bn", "git_describe", "init_torch_seeds", "initialize_weights", "intersect_dicts", "is_parallel",
    "load_classifier", "model_info", "nn", "profile", "prune", "reshape_classifier_output", "scale_img",
    "select_device", "smartCrossEntropyLoss", "smart_DDP", "smart_hub_load", "smart_inference_mode", "smart_optimizer",
    "smart_resume", "sparsity", "time_sync", "time_synchronized", "torch", "torch_distributed_zero_first",
]  # fmt: skip
MODULES = (  # which `import *` gave, too
    *("Path", "contextmanager", "deepcopy", "dist", "logging", "math", "os", "platform", "subprocess", "time"),
    *("torchvision", "warnings"),
)
__all__ += MODULES
__getattr__ = lazy_exports(__name__, {name: OUTSIDE[name] for name in ("DDP", *MODULES)})
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


# -- devices, ranks, time ---------------------------------------------------------------------------------------------


def device_count() -> int:
    """Number of CUDA devices."""
    return torch.cuda.device_count()


def select_device(
    device: str | int | torch.device | None = "", batch_size: int | None = 0, newline: bool = True
) -> torch.device:
    """The device of a `--device` value, such as "cpu", "0", "mps", "cuda:1"; logged with versions and hardware.

    Args:
        device: "" or None for CUDA if available, or else the CPU. Of several ("0,1") in a single process, the first
            one, for `nn.DataParallel`.
        batch_size: must be a multiple of the number of devices.
        newline: end the message with an empty line.

    Raises:
        InputError: a device is not available, or the batch size does not fit.
    """
    names = parse_devices("" if device is None else str(device).lower().replace("none", ""))
    if len(names) > 1 and batch_size and batch_size > 0 and batch_size % len(names):
        raise InputError(
            f"batch size {batch_size}: not a multiple of the {len(names)} devices; use another --batch-size"
        )
    if len(names) > 1 and WORLD_SIZE == 1:
        selected, *_ = [devices.select_device(name) for name in names]  # checks them all
    else:
        selected = devices.select_device(",".join(names))
    LOGGER.info(devices.describe_device(selected) + "\n" * newline)
    return selected


@contextmanager
def torch_distributed_zero_first(local_rank: int) -> Iterator[None]:
    """Run the block on local rank 0 first, then on the other processes; -1 is a single process."""
    if local_rank > 0:
        dist.barrier()
    yield
    if local_rank == 0:
        dist.barrier()


def time_sync() -> float:
    """Seconds since the epoch, after synchronizing CUDA."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.time()


time_synchronized = time_sync  # name in 5.0


def smart_inference_mode(torch_1_9: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that runs a function in inference mode, or if not `torch_1_9` without gradients."""
    return torch.inference_mode() if torch_1_9 else torch.no_grad()


def init_torch_seeds(seed: int = 0) -> None:
    """Seed all generators, as `utils.general.init_seeds`."""
    init_seeds(seed)


def smart_DDP(model: nn.Module) -> nn.parallel.DistributedDataParallel:  # noqa: N802 (a public name)
    """The model for training on several ranks; each process must have selected its device."""
    device = next(model.parameters()).device
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids, static_graph=True)


def is_parallel(model: nn.Module) -> bool:
    """Whether a model is wrapped for several devices."""
    return isinstance(model, WRAPPERS)


def de_parallel(model: nn.Module) -> nn.Module:
    """The model inside a DataParallel wrapper, or the model itself."""
    return model.module if isinstance(model, WRAPPERS) else model


# -- networks ---------------------------------------------------------------------------------------------------------


def initialize_weights(model: nn.Module) -> None:
    """Set the batch-norm constants of the training recipe and make activations in-place; weights are unchanged."""
    set_norm_and_inplace(model)


def find_modules(model: Any, mclass: type[nn.Module] = nn.Conv2d) -> list[int]:
    """Indices of the layers of a class in `model.module_list`, or else in `model.model` or the model itself."""
    layers = getattr(model, "module_list", getattr(model, "model", model))
    return [index for index, layer in enumerate(layers.children()) if isinstance(layer, mclass)]


sparsity = pruning.compute_sparsity


def prune(model: nn.Module, amount: float = 0.3) -> None:
    """Set the fraction `amount` of smallest weights of each convolution to zero."""
    pruning.prune_convolutions(model, amount)


def fuse_conv_and_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """Fuse batch norm into a convolution."""
    return fuse_conv_bn(conv, bn)


@accept_renamed(img_size="imgsz")
def model_info(model: Any, verbose: bool = False, imgsz: int | Sequence[int] = 640) -> None:
    """Log the numbers of layers, parameters and gradients, of a network of this project also GFLOPs at `imgsz`."""
    if hasattr(model, "info"):
        model.info(verbose, imgsz)
        return
    if verbose:
        for name, parameter in model.named_parameters():
            LOGGER.info(f"{name:40s} {parameter.numel():10,d}  {tuple(parameter.shape)}")
    layers, parameters, gradients = (
        sum(1 for _ in model.modules()), count_parameters(model), count_parameters(model, trainable=True)
    )  # fmt: skip
    LOGGER.info(f"{type(model).__name__}: {layers} layers, {parameters:,} parameters, {gradients:,} gradients")


def scale_img(img: Tensor, ratio: float = 1.0, same_shape: bool = False, gs: int = 32) -> Tensor:
    """Resize images (B, C, H, W) by `ratio` and pad them right and below to multiples of `gs`.

    Args:
        same_shape: do not pad to multiples, as is needed for square images.
    """
    if not same_shape:
        return rescale_images(img, ratio, gs)
    height, width = img.shape[2:]
    return F.interpolate(img, (int(height * ratio), int(width * ratio)), mode="bilinear", align_corners=False)


def copy_attr(a: Any, b: Any, include: Collection[str] = (), exclude: Collection[str] = ()) -> None:
    """Copy attributes from `b` to `a`, without private ones: those of `include` if given, without `exclude`."""
    for name, value in vars(b).items():
        if not name.startswith("_") and name not in exclude and (not include or name in include):
            setattr(a, name, value)


def load_classifier(name: str = "resnet101", n: int = 2) -> nn.Module:
    """A classifier of torchvision with `n` outputs and random weights; the original's were pre-trained."""
    model: nn.Module = torchvision.models.get_model(name, weights=None)
    reshape_classifier_output(model, n)
    return model


def reshape_classifier_output(model: Any, n: int = 1000) -> None:
    """Replace the last layer of a classifier, of this project or torchvision, by one with `n` outputs."""
    name, layer = list((model.model if hasattr(model, "model") else model).named_children())[-1]
    owner: Any = model.model if hasattr(model, "model") else model
    if isinstance(layer, Classify):
        if layer.linear.out_features != n:
            layer.linear = nn.Linear(layer.linear.in_features, n)
    elif isinstance(layer, nn.Linear):
        if layer.out_features != n:
            setattr(owner, name, nn.Linear(layer.in_features, n))
    elif isinstance(layer, nn.Sequential):
        places = [index for index, part in enumerate(layer) if isinstance(part, nn.Linear | nn.Conv2d)]
        if places:
            layer[places[-1]] = _resize_output(layer[places[-1]], n)


def _resize_output(layer: nn.Module, n: int) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return layer if layer.out_features == n else nn.Linear(layer.in_features, n)
    conv: Any = layer
    if conv.out_channels == n:
        return layer
    return nn.Conv2d(conv.in_channels, n, conv.kernel_size, conv.stride, bias=conv.bias is not None)


def smart_hub_load(repo: str = "ultralytics/yolov5", model: str = "yolov5s", **kwargs: Any) -> Any:
    """A hub model of this checkout, whatever the repository on GitHub, or of a local folder."""
    folder = repo if os.path.isdir(repo) else str(ROOT)  # noqa: PTH112 (any text)
    return torch.hub.load(folder, model, source="local", **kwargs)


@accept_renamed(x="input")
def profile(
    input: Tensor | Sequence[Tensor], ops: nn.Module | Sequence[nn.Module], n: int = 10,
    device: str | torch.device | None = None,
) -> list[list[Any] | None]:  # fmt: skip
    """Time modules on inputs, forward and backward, and log a table.

    Args:
        input: one or several; ops: one or several, each run on each input.
        n: repetitions.
        device: None for CUDA if available, or else the CPU.

    Returns:
        For each pair: parameters, GFLOPs of the forward pass, GB of CUDA memory, milliseconds forward and backward,
        shapes of input and output. None if the module does not accept the input.
    """
    target = device if isinstance(device, torch.device) else devices.select_device(device or "")
    LOGGER.info(
        f"{'parameters':>12s}{'GFLOPs':>10s}{'GB':>8s}{'forward, ms':>14s}{'backward, ms':>14s}  input -> output"
    )
    results: list[list[Any] | None] = []
    for x in [input] if isinstance(input, Tensor) else input:
        x = x.detach().to(target).requires_grad_(x.is_floating_point())
        for op in ops if isinstance(ops, list | tuple) else [ops]:
            row: list[Any] | None = None
            try:
                row = _profile_one(op.to(target) if isinstance(op, nn.Module) else op, x, n)
                LOGGER.info(_format_profile(*row))
            except (RuntimeError, ValueError, TypeError) as error:
                LOGGER.warning(f"WARNING {type(op).__name__}: {str(error).splitlines()[0]}")
            results.append(row)
    return results


def _format_profile(
    parameters: int, flops: float, memory: float, forward: float, backward: float, shape_in: Any, shape_out: Any
) -> str:
    columns = f"{parameters:12,d}{flops:10.4g}{memory:8.3f}{forward:14.4g}{backward:14.4g}"
    return f"{columns}  {shape_in} -> {shape_out}"


def _profile_one(op: Any, x: Tensor, n: int) -> list[Any]:
    """A row of `profile`."""
    forward = backward = 0.0
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = op(x)
    for _ in range(n):
        start = time_sync()
        output = op(x)
        middle = time_sync()
        forward += middle - start
        tensors = output if isinstance(output, list | tuple) else [output]
        total = sum((t.sum() for t in tensors if isinstance(t, Tensor) and t.requires_grad), torch.zeros(()))
        if total.requires_grad:
            total.backward()
            backward += time_sync() - middle
    shape_out: Any = tuple(output.shape) if isinstance(output, Tensor) else "list"
    parameters = count_parameters(op) if isinstance(op, nn.Module) else 0
    memory = torch.cuda.memory_reserved() / 1e9 if torch.cuda.is_available() else 0.0
    return [
        parameters,
        counter.get_total_flops() / 1e9,
        memory,
        1000 * forward / n,
        1000 * backward / n,
        tuple(x.shape),
        shape_out,
    ]


# -- training ---------------------------------------------------------------------------------------------------------


def smartCrossEntropyLoss(label_smoothing: float = 0.0) -> nn.CrossEntropyLoss:  # noqa: N802 (a public name)
    """Cross entropy with label smoothing."""
    return nn.CrossEntropyLoss(label_smoothing=label_smoothing)


def smart_optimizer(
    model: nn.Module, name: str = "Adam", lr: float = 0.001, momentum: float = 0.9, decay: float = 1e-5
) -> torch.optim.Optimizer:
    """The optimizer `Adam`, `AdamW`, `RMSProp` or `SGD`: group 0 biases, 1 weights with decay, 2 norm weights.

    Raises:
        InputError: there is no optimizer of that name.
    """
    if name not in ("Adam", "AdamW", "RMSProp", "SGD", "Muon"):
        raise InputError(f"optimizer {name!r}: not supported; use Adam, AdamW, RMSProp or SGD")
    optimizer = build_optimizer(model, name, lr=lr, momentum=momentum, weight_decay=decay)
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    LOGGER.info(
        f"{colorstr('optimizer:')} {name}, lr {lr:g}: {sizes[1]} weights with decay {decay:g}, {sizes[2]} norm "
        f"weights, {sizes[0]} biases"
    )
    return optimizer


def smart_resume(
    ckpt: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    ema: Any = None,
    weights: str = "yolov5s.pt",
    epochs: int = 300,
    resume: bool = True,
) -> tuple[float, int, int]:
    """Restore optimizer and EMA from a checkpoint: the best fitness, the first epoch and the number of epochs.

    Without `resume`, a checkpoint of more epochs than `epochs` is trained for `epochs` more.

    Raises:
        InputError: with `resume`, if the training of the checkpoint has finished.
    """
    last_epoch: int = ckpt["epoch"]  # -1: finished
    if resume:
        if last_epoch < 0:
            raise InputError(f"{weights}: its training has finished; start a new one without --resume")
        LOGGER.info(f"Resuming training of {weights} from epoch {last_epoch + 1} to {epochs}")
    if epochs <= last_epoch:
        LOGGER.info(f"{weights} has been trained for {last_epoch} epochs, training for {epochs} more")
        epochs += last_epoch
    state, average = ckpt.get("optimizer"), ckpt.get("ema")
    if state is not None:
        optimizer.load_state_dict(state)
    if ema is not None and average is not None:
        ema.updates = ckpt["updates"]
        weights_of_average = average if isinstance(average, dict) else average.float().state_dict()
        ema.ema.load_state_dict(weights_of_average)
    return 0.0 if state is None else ckpt["best_fitness"], last_epoch + 1, epochs


class EarlyStopping:
    """Tells when the fitness has not increased for a number of epochs.

    An equal fitness does not prolong the training, as it does in the original, unless it is 0: nothing is learned yet.

    Attributes:
        best_fitness, best_epoch: highest fitness and its epoch.
        patience: epochs; 0 never stops.
        possible_stop: whether the next epoch may be the last.
    """

    def __init__(self, patience: int = 30) -> None:
        self._stopping = early_stopping.EarlyStopping(patience, best_fitness=0.0)
        self.patience = patience or float("inf")
        self.possible_stop = False

    @property
    def best_fitness(self) -> float:
        return self._stopping.best_fitness

    @best_fitness.setter
    def best_fitness(self, value: float) -> None:
        self._stopping.best_fitness = value

    @property
    def best_epoch(self) -> int:
        return self._stopping.best_epoch

    def __call__(self, epoch: int, fitness: float | np.ndarray) -> bool:
        """Whether to stop after this epoch, whose fitness is a number or an array of one."""
        self._stopping.update(epoch, float(np.asarray(fitness).item()))
        if self._stopping.best_fitness == 0:
            self._stopping.best_epoch = epoch
        self.possible_stop = epoch + 1 - self.best_epoch >= self.patience
        stop = self._stopping.should_stop(epoch)
        if stop:
            LOGGER.info(
                f"Training stopped: no better epoch than {self.best_epoch} in the last {self.patience} epochs "
                f"(--patience). Its weights are in best.pt"
            )
        return stop


class ModelEMA(ema.ModelEMA):
    """Exponential moving average of a model's weights and buffers (see `utils.train.ema`).

    Args:
        decay: highest decay.
        tau: updates over which the decay grows.
        updates: number of earlier updates.

    Attributes:
        ema: the averaged model, in evaluation mode.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, tau: float = 2000, updates: int = 0) -> None:
        super().__init__(de_parallel(model), updates, decay=decay, ramp=tau)
        self.ema = self.model

    def update(self, model: nn.Module) -> None:
        """Move the average towards the model; call it after each optimizer step."""
        self.model, self._source = self.ema, None  # validation in FP16 replaces the tensors of the average
        super().update(de_parallel(model))

    def update_attr(
        self, model: nn.Module, include: Collection[str] = (), exclude: Collection[str] = ("process_group", "reducer")
    ) -> None:
        """Copy attributes of the model to the average."""
        copy_attr(self.ema, model, include, exclude)
