"""Command line of models/yolo.py: summary and timing of a network. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from utils.config.base import BaseConfig, option, switch
from utils.core.errors import InputError

if TYPE_CHECKING:
    import torch

IMAGE_SIZE = 640


@dataclass(frozen=True)
class SummaryConfig(BaseConfig):
    """Print the layers, parameters and GFLOPs of a network."""

    cfg: str = option("yolov5s.yaml", "--cfg", help="model YAML, path or shipped name")
    batch_size: int = option(1, "--batch-size", type=int, help="batch size for timing")
    device: str = option("", "--device", help="device for timing: CUDA index, cpu or mps; '' selects CUDA if available")
    profile: bool = switch("--profile", help="time the forward and backward pass")
    line_profile: bool = switch("--line-profile", help="time every layer")
    test: bool = switch("--test", help="build every shipped model YAML and exit")
    verbose: bool = switch("--verbose", help="print the table of every parameter")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the command."""
    return run(SummaryConfig.from_args(argv))


def run(config: SummaryConfig) -> int:
    """Print the summary; returns 1 if a shipped model YAML does not build."""
    if config.test:
        return _build_all()
    from models.summary import build_layer_table, format_layer_table, format_model_summary
    from utils.tasks.networks import build_model

    if config.batch_size < 1:
        raise InputError(f"--batch-size {config.batch_size}: must be at least 1")
    model = build_model(config.cfg)
    print(format_layer_table(build_layer_table(model, (IMAGE_SIZE, IMAGE_SIZE))))
    print(format_model_summary(model, (IMAGE_SIZE, IMAGE_SIZE), verbose=config.verbose, name=config.cfg))
    if config.profile or config.line_profile:
        _time_model(model, config)
    return 0


def _build_all() -> int:
    """Build and summarize every shipped model YAML on the meta device."""
    import torch

    from models.graph import MODELS_DIR, list_model_yamls
    from models.summary import summarize_model
    from utils.tasks.networks import build_model

    failures = 0
    for path in list_model_yamls():
        name = path.relative_to(MODELS_DIR).as_posix()
        try:
            with torch.device("meta"):
                model = build_model(path)
            print(summarize_model(model, (IMAGE_SIZE, IMAGE_SIZE), name))
        except (InputError, ValueError) as error:
            failures += 1
            print(f"{name}: FAILED: {error}")
    return 1 if failures else 0


def _time_model(model: Any, config: SummaryConfig) -> None:
    """Print milliseconds per pass and, with --line-profile, per layer."""
    import torch

    from utils.core.device import select_device

    device = select_device(config.device)
    model = model.to(device).eval()
    images = torch.rand(config.batch_size, model.yaml["ch"], IMAGE_SIZE, IMAGE_SIZE, device=device)
    if config.line_profile:
        with torch.inference_mode():
            model(images)
            model(images, profile=True)
    if config.profile:
        with torch.inference_mode():
            forward_ms = _measure_ms(lambda: model(images), device)
        model.train()
        train_ms = _measure_ms(lambda: _run_backward(model, images), device)
        shape = f"{config.batch_size}x{IMAGE_SIZE}x{IMAGE_SIZE}"
        print(f"{shape}: forward {forward_ms:.1f} ms, forward and backward {train_ms:.1f} ms")


def _run_backward(model: Any, images: torch.Tensor) -> None:
    """Forward and backward pass with the sum of all outputs as the loss."""
    from torch.autograd import backward

    from utils.backends.outputs import flatten_outputs

    backward([output.float().sum() for output in flatten_outputs(model(images))])
    model.zero_grad()


def _measure_ms(step: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Mean time of `step` in milliseconds, after one warm-up call."""
    from utils.core.device import Stopwatch

    step()
    watch = Stopwatch(device)
    with watch.measure():
        for _ in range(repeats):
            step()
    return watch.seconds / repeats * 1000
