"""The command behind `python models/yolo.py`: what a network is made of and how fast it is.

Only the settings are imported at the top; torch loads once the flags are known to be right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from utils.config.base import BaseConfig, option, switch
from utils.core.errors import InputError

if TYPE_CHECKING:
    import torch

SIDE = 640


@dataclass(frozen=True)
class InspectConfig(BaseConfig):
    """Print the layers, parameters and operations of a network."""

    cfg: str = option("yolov5s.yaml", "--cfg", help="model YAML, a path or a shipped name")
    batch_size: int = option(1, "--batch-size", type=int, help="images per pass when timing")
    device: str = option("", "--device", help="CUDA index, cpu or mps, for timing; '' takes CUDA where there is one")
    profile: bool = switch("--profile", help="time the forward and the backward pass")
    line_profile: bool = switch("--line-profile", help="time every layer")
    test: bool = switch("--test", help="build every shipped model YAML instead")
    verbose: bool = switch("--verbose", help="print the table of every parameter")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    return run(InspectConfig.from_args(argv))


def run(config: InspectConfig) -> int:
    """Print what `config` asks for; 1 if a shipped YAML does not build."""
    if config.test:
        return _test_all()
    from models.summary import format_layer_table, layer_table, model_summary
    from models.yolo import build_model

    if config.batch_size < 1:
        raise InputError(f"--batch-size {config.batch_size}: expected at least 1")
    model = build_model(config.cfg)
    print(format_layer_table(layer_table(model, (SIDE, SIDE))))
    print(model_summary(model, (SIDE, SIDE), verbose=config.verbose, name=config.cfg))
    if config.profile or config.line_profile:
        _time(model, config)
    return 0


def _test_all() -> int:
    """Build every shipped graph without storage, run it without data, and report."""
    import torch

    from models.graph import MODELS_DIR, shipped_yamls
    from models.summary import summary_line
    from models.yolo import build_model

    failures = 0
    for path in shipped_yamls():
        name = path.relative_to(MODELS_DIR).as_posix()
        try:
            with torch.device("meta"):
                model = build_model(path)
            print(summary_line(model, (SIDE, SIDE), name))
        except (InputError, ValueError) as error:
            failures += 1
            print(f"{name}: FAILED: {error}")
    return 1 if failures else 0


def _time(model: Any, config: InspectConfig) -> None:
    """Print milliseconds per pass, and per layer where asked for."""
    import torch

    from utils.core.device import select_device

    device = select_device(config.device)
    model = model.to(device)
    images = torch.rand(config.batch_size, model.yaml["ch"], SIDE, SIDE, device=device)
    if config.line_profile:
        model.eval()
        with torch.inference_mode():
            model(images)
            model(images, profile=True)
    if config.profile:
        model.eval()
        with torch.inference_mode():
            forward = _mean_ms(lambda: model(images), device)
        model.train()
        training = _mean_ms(lambda: _pass_with_gradient(model, images), device)
        print(f"{config.batch_size}x{SIDE}x{SIDE}: forward {forward:.1f} ms, forward and backward {training:.1f} ms")


def _pass_with_gradient(model: Any, images: torch.Tensor) -> None:
    """Forward and backward of a training step, with the sum of all outputs as its loss."""
    _sum_of(model(images)).backward()
    model.zero_grad(set_to_none=True)


def _sum_of(found: Any) -> Any:
    """The sum of the values of all tensors in nested outputs."""
    return sum(map(_sum_of, found)) if isinstance(found, list | tuple) else found.float().sum()


def _mean_ms(step: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Mean time of `step` in milliseconds, after one call to warm up."""
    import torch

    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = perf_counter()
    for _ in range(repeats):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (perf_counter() - started) / repeats * 1000
