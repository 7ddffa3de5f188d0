"""The training step on a GPU: precision, host synchronization, memory format, compilation, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from utils.config.base import TrainConfig
from utils.losses.meter import LossMeter
from utils.train.autobatch import memory_of_step
from utils.train.out_of_memory import fit_within_memory
from utils.train.trainer import Trainer

Make = Callable[..., Trainer]
WAITING_CALLS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def loss_and_gradient(trainer: Trainer) -> tuple[float, torch.Tensor]:
    """Sum of the loss items, and all gradients in one vector, of the first batch; the weights stay."""
    meter = LossMeter(trainer.task.loss_names)
    trainer._backward(next(iter(trainer.loader)), 0, meter)
    trainer.scaler.unscale_(trainer.optimizer)
    gradients = [p.grad.float().flatten() for p in trainer.model.parameters() if p.grad is not None]
    return sum(meter.read().values()), torch.cat(gradients)


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_mixed_precision_agrees_with_float32(make_trainer: Make, amp: str) -> None:
    """Loss and gradients, with norms at rest: the batch statistics of random weights enlarge every rounding."""
    found = []
    for setting in ("off", amp):
        trainer = make_trainer(setting, amp=setting)
        assert (trainer.amp is None) == (setting == "off"), "the check of mixed precision is passed"
        for module in trainer.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        found.append(loss_and_gradient(trainer))
    (exact_loss, exact), (loss, gradient) = found
    assert loss == pytest.approx(exact_loss, rel=0.01)
    assert nn.functional.cosine_similarity(gradient, exact, dim=0) > 0.999


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_the_loss_of_a_training_step_agrees(make_trainer: Make, amp: str) -> None:
    losses = [loss_and_gradient(make_trainer(setting, amp=setting))[0] for setting in ("off", amp)]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def one_step(trainer: Trainer, batches: Any, meter: LossMeter) -> None:
    trainer._seed(0)
    trainer.schedule.apply(trainer.optimizer, 0)
    trainer._backward(batches, 0, meter)
    trainer._step()


@pytest.mark.parametrize("amp", ["off", "fp16", "bf16"])
@pytest.mark.parametrize("multi_scale", [False, True])
def test_a_step_never_waits_for_the_gpu(make_trainer: Make, amp: str, multi_scale: bool) -> None:
    trainer = make_trainer(amp=amp, multi_scale=multi_scale)
    batches, meter = next(iter(trainer.loader)), LossMeter(trainer.task.loss_names)
    for _ in range(3):  # kernels are chosen and states are made in the first ones
        one_step(trainer, batches, meter)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        one_step(trainer, batches, meter)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_profiler_sees_no_waiting_call(make_trainer: Make) -> None:
    trainer = make_trainer(amp="fp16")
    batches, meter = next(iter(trainer.loader)), LossMeter(trainer.task.loss_names)
    for _ in range(3):
        one_step(trainer, batches, meter)
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile, torch.profiler.record_function("steps"):
        for _ in range(2):
            one_step(trainer, batches, meter)
    steps = next(event for event in profile.events() if event.name == "steps")
    waiting = [
        event.name
        for event in profile.events()
        if event.name in WAITING_CALLS and event.time_range.end <= steps.time_range.end
    ]
    assert not waiting


def test_maps_stay_channels_last(make_trainer: Make) -> None:
    """The order of memory that tensor cores want, from the image to the head; results as in the usual order."""
    trainer = make_trainer(amp="off")
    formats: dict[str, bool] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_layer: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            formats[name] = output.is_contiguous(memory_format=torch.channels_last)

        return hook

    for name, module in trainer.model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note(name))
    images = torch.rand(2, 3, 128, 128, device=trainer.device)
    maps = trainer.model(images.to(memory_format=torch.channels_last))
    assert formats and all(formats.values()), [name for name, kept in formats.items() if not kept]
    usual = trainer.model.to(memory_format=torch.contiguous_format)(images)  # type: ignore[call-overload]
    for a, b in zip(maps, usual, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_a_compiled_step_agrees(make_trainer: Make) -> None:
    exact_loss, exact = loss_and_gradient(make_trainer("eager", amp="off"))
    trainer = make_trainer("compiled", amp="off", compile=True)
    keys = list(trainer.model.state_dict())
    loss, gradient = loss_and_gradient(trainer)
    assert trainer.model._compiled_call_impl is not None, "it was compiled, not given up"
    assert list(trainer.ema.model.state_dict()) == keys
    assert loss == pytest.approx(exact_loss, rel=1e-2)
    assert nn.functional.cosine_similarity(gradient, exact, dim=0) > 0.99


def test_recomputed_activations_take_less_memory(make_trainer: Make) -> None:
    peaks = []
    for saving in (False, True):
        trainer = make_trainer(str(saving), imgsz=640, checkpoint_activations=saving)
        torch.cuda.reset_peak_memory_stats()
        loss_and_gradient(trainer)
        peaks.append(torch.cuda.max_memory_allocated())
        del trainer
    assert peaks[1] < 0.7 * peaks[0]


def test_measured_memory_grows_with_the_batch(make_trainer: Make) -> None:
    trainer = make_trainer(imgsz=320)
    small, large = (
        memory_of_step(
            TrainConfig.from_kwargs(**{**trainer.config.to_dict(), "batch_size": size}),
            trainer.task,
            trainer.model,
            trainer.device,
        )
        for size in (2, 12)
    )
    assert small is not None and large is not None
    assert small < large < torch.cuda.get_device_properties(trainer.device).total_memory


def test_a_batch_that_does_not_fit_is_halved(make_trainer: Make, cuda: torch.device) -> None:
    """With 2 GiB to use, twelve images of 1280 px in float32 are too many."""
    config = make_trainer(imgsz=1280, amp="off").config
    total = torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(2 * 2**30 / total, 1.0), cuda)
    try:
        trainer, _ = fit_within_memory(config)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)
    assert trainer.config.batch_size in (1, 3, 6)


def test_the_largest_batch_is_found_and_trains(make_trainer: Make) -> None:
    """A set of twelve images: the search ends at 16, the power of two above it."""
    trainer = make_trainer(batch_size=-1)
    assert trainer.config.batch_size == 16
    assert trainer.fit().epochs == 1
