from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_trainer import make_trainer

from utils.config.base import TrainConfig
from utils.config.classify import ClassifyTrainConfig
from utils.core.errors import InputError
from utils.train import autobatch
from utils.train.autobatch import automatic_batch, largest_batch, take_steps


@pytest.mark.parametrize("limit", [5, 10, 11, 35, 900, 1023, 1024, 5000])
@pytest.mark.parametrize("steps", [0, 7], ids=["straight", "in steps"])
def test_the_largest_batch_below_the_limit_is_found(limit: int, steps: int) -> None:
    calls = []

    def measure(batch: int) -> int:
        calls.append(batch)
        return 10 + batch + (batch // 16 * steps)

    expected = max((b for b in range(1, 1025) if 10 + b + b // 16 * steps <= limit), default=0)
    assert largest_batch(measure, limit) == expected
    assert len(calls) == len(set(calls)) <= 21


def test_memory_that_runs_out_counts_as_too_large() -> None:
    assert largest_batch(lambda batch: None if batch > 37 else batch, 1e9) == 37
    assert largest_batch(lambda batch: None, 1e9) == 0
    assert largest_batch(lambda batch: batch, 1e9, most=24) == 24


@pytest.mark.parametrize(("kind", "expected"), [(TrainConfig, 16), (ClassifyTrainConfig, 64)])
def test_a_processor_takes_the_default(
    kind: type[TrainConfig], expected: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autobatch.LOGGER, "propagate", True)
    caplog.set_level("INFO", "openyolov5")
    assert automatic_batch(kind(batch_size=-1), None, None, torch.device("cpu")) == expected  # type: ignore[arg-type]
    assert f"measured on CUDA only; batches of {expected} on this CPU" in caplog.text


def test_a_run_is_built_with_the_number_that_was_found(tiny_data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path, batch_size=-1)
    assert (trainer.config.batch_size, trainer.task.options.batch_size, trainer.schedule.batch_size) == (16, 16, 16)
    assert "batch_size: 16\n" in (tmp_path / "exp/opt.yaml").read_text()


def test_cuda_is_asked_for_the_free_memory(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mock of CUDA's memory: 100 bytes are free, a step takes 9 and 7 an image; 12 images fill 1..16."""
    trainer = make_trainer(tiny_data, tmp_path, autobalance=True)
    options, state = trainer.task.options, trainer.task.state_dict()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 200))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 40)
    monkeypatch.setattr(autobatch, "memory_of_step", lambda config, *_: 9 + 7 * config.batch_size)
    config, cuda = replace(trainer.config, batch_size=-1), torch.device("cuda")
    assert automatic_batch(config, trainer.task, trainer.model, cuda) == 10  # 79 of 85 bytes
    assert trainer.task.options == options
    assert trainer.task.state_dict().keys() == state.keys()
    monkeypatch.setattr(autobatch, "memory_of_step", lambda config, *_: 1)
    assert automatic_batch(config, trainer.task, trainer.model, cuda) == 16
    monkeypatch.setattr(autobatch, "memory_of_step", lambda config, *_: 90)
    with pytest.raises(InputError, match="one image of 64 px needs more than 85% of the"):
        automatic_batch(config, trainer.task, trainer.model, cuda)
    monkeypatch.setattr(autobatch.distributed, "world_size", lambda: 2)
    with pytest.raises(InputError, match="give a number"):
        automatic_batch(config, trainer.task, trainer.model, cuda)


def test_measured_steps_leave_the_network_and_the_folder_alone(tiny_data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path, multi_scale=True)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    files = sorted(tmp_path.rglob("*"))
    take_steps(trainer.config, trainer.task, trainer.model, trainer.device)
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.state_dict().items())
    assert sorted(tmp_path.rglob("*")) == files
