"""The training step on a GPU: precision, host synchronization, memory format, compilation, memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
import torch
from torch import nn

from utils.train.autobatch import RepeatedStep, measure_memory
from utils.train.out_of_memory import fit_within_memory
from utils.train.trainer import Trainer

Make = Callable[..., Trainer]
WAITING_CALLS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
WARMUP_STEPS = 3  # they select kernels and allocate optimizer state


def freeze_norms(model: nn.Module) -> None:
    """Put batch norms in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def compute_loss_and_gradient(trainer: Trainer) -> tuple[float, torch.Tensor]:
    """Compute the summed loss and the flattened gradients of the first batch, without a step."""
    gradients: list[torch.Tensor] = []

    def collect_gradients() -> None:
        trainer.scaler.unscale_(trainer.optimizer)
        gradients.extend(p.grad.float().flatten() for p in trainer.model.parameters() if p.grad is not None)

    trainer._optimizer_step = collect_gradients  # type: ignore[method-assign]
    losses = trainer._train_epoch(0)
    return sum(losses.values()), torch.cat(gradients)


def run_steps(trainer: Trainer, guard: Callable[[], AbstractContextManager[Any]], steps: int) -> None:
    """Train on one batch; after the warm-up each step, loss to EMA, runs inside a new `guard`."""
    trainer.loader = RepeatedStep(trainer.loader, WARMUP_STEPS + steps)  # type: ignore[assignment]
    prepare_images = trainer._prepare_images
    trainer._prepare_images = lambda batch, _: prepare_images(batch, 0)  # type: ignore[method-assign]  # one size
    stack = ExitStack()

    def enter(*, number: int, **_: Any) -> None:
        if number >= WARMUP_STEPS:
            torch.cuda.synchronize()
            stack.enter_context(guard())

    trainer.callbacks.on("on_train_batch_start", enter)
    trainer.callbacks.on("on_optimizer_step_end", lambda **_: stack.close())
    trainer._train_epoch(0)


class SyncError(AbstractContextManager[None]):
    """Makes operations that wait for the GPU an error."""

    def __enter__(self) -> None:
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *_: object) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_mixed_precision_agrees_with_float32(make_trainer: Make, amp: str) -> None:
    """With frozen batch norms: the batch statistics of random weights amplify rounding errors."""
    results = []
    for setting in ("off", amp):
        trainer = make_trainer(setting, amp=setting)
        assert (trainer.amp is None) == (setting == "off"), "the AMP check passed"
        trainer.callbacks.on("on_train_epoch_start", lambda model=trainer.model, **_: freeze_norms(model))
        results.append(compute_loss_and_gradient(trainer))
    (exact_loss, exact), (loss, gradient) = results
    assert loss == pytest.approx(exact_loss, rel=0.01)
    assert nn.functional.cosine_similarity(gradient, exact, dim=0) > 0.999


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_training_loss_with_amp_agrees(make_trainer: Make, amp: str) -> None:
    losses = [compute_loss_and_gradient(make_trainer(setting, amp=setting))[0] for setting in ("off", amp)]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


@pytest.mark.parametrize("amp", ["off", "fp16", "bf16"])
@pytest.mark.parametrize("multi_scale", [False, True])
def test_step_never_synchronizes(make_trainer: Make, amp: str, multi_scale: bool) -> None:
    trainer = make_trainer(amp=amp, multi_scale=multi_scale)
    run_steps(trainer, SyncError, steps=1)


def test_profiler_shows_no_synchronization(make_trainer: Make) -> None:
    trainer = make_trainer(amp="fp16")
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run_steps(trainer, lambda: torch.profiler.record_function("step"), steps=2)
    events = profile.events()
    steps = [event.time_range for event in events if event.name == "step"]
    assert len(steps) >= 2
    waiting = [
        event.name
        for event in events
        if event.name in WAITING_CALLS
        and any(step.start <= event.time_range.start and event.time_range.end <= step.end for step in steps)
    ]
    assert not waiting


def test_feature_maps_stay_channels_last(make_trainer: Make) -> None:
    """Memory format from image to head; the outputs match contiguous tensors."""
    trainer = make_trainer(amp="off")
    formats: dict[str, bool] = {}

    def record_format(name: str) -> Callable[..., None]:
        def hook(_layer: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            formats[name] = output.is_contiguous(memory_format=torch.channels_last)

        return hook

    for name, module in trainer.model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(record_format(name))
    images = torch.rand(2, 3, 128, 128, device=trainer.device)
    maps = trainer.model(images.to(memory_format=torch.channels_last))
    assert formats and all(formats.values()), [name for name, channels_last in formats.items() if not channels_last]
    contiguous = trainer.model.to(memory_format=torch.contiguous_format)(images)  # type: ignore[call-overload]
    for a, b in zip(maps, contiguous, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_compiled_step_agrees(make_trainer: Make) -> None:
    exact_loss, exact = compute_loss_and_gradient(make_trainer("eager", amp="off"))
    trainer = make_trainer("compiled", amp="off", compile=True)
    keys = list(trainer.model.state_dict())
    loss, gradient = compute_loss_and_gradient(trainer)
    assert trainer.model._compiled_call_impl is not None, "torch.compile fell back to eager mode"
    assert list(trainer.ema.model.state_dict()) == keys
    assert loss == pytest.approx(exact_loss, rel=1e-2)
    assert nn.functional.cosine_similarity(gradient, exact, dim=0) > 0.99


def test_activation_checkpointing_saves_memory(make_trainer: Make) -> None:
    peaks = []
    for saving in (False, True):
        trainer = make_trainer(str(saving), imgsz=640, checkpoint_activations=saving)
        torch.cuda.reset_peak_memory_stats()
        compute_loss_and_gradient(trainer)
        peaks.append(torch.cuda.max_memory_allocated())
        del trainer
    assert peaks[1] < 0.7 * peaks[0]


def test_step_memory_grows_with_batch_size(make_trainer: Make) -> None:
    def measure(batch_size: int) -> int | None:
        trainer = make_trainer(str(batch_size), imgsz=320, batch_size=batch_size)
        return measure_memory(trainer.config, lambda *_: (trainer.task, trainer.model), 320, trainer.device)

    small, large = measure(2), measure(12)
    assert small is not None and large is not None
    assert small < large < torch.cuda.get_device_properties(0).total_memory


def test_batch_that_does_not_fit_is_halved(make_trainer: Make, cuda: torch.device) -> None:
    """Twelve images of 1280 px in float32 do not fit in 2 GiB."""
    config = make_trainer(imgsz=1280, amp="off").config
    total = torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(2 * 2**30 / total, 1.0), cuda)
    try:
        trainer, _ = fit_within_memory(config)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)
    assert trainer.config.batch_size in (1, 3, 6)


def test_autobatch_finds_a_batch_that_trains(make_trainer: Make) -> None:
    """With twelve images, the search ends at 16, the next power of two."""
    trainer = make_trainer(batch_size=-1)
    assert trainer.config.batch_size == 16
    assert trainer.fit().epochs == 1
