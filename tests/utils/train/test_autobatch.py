from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import make_trainer

from utils.config.classify import ClassifyTrainConfig
from utils.config.train import TrainConfig
from utils.core.errors import InputError
from utils.train import autobatch
from utils.train.autobatch import find_batch_size, run_steps, search_batch_size


@pytest.mark.parametrize("limit", [5, 10, 11, 35, 900, 1023, 1024, 5000])
@pytest.mark.parametrize("steps", [0, 7], ids=["straight", "in steps"])
def test_the_largest_batch_below_the_limit_is_found(limit: int, steps: int) -> None:
    calls = []

    def measure(batch: int) -> int:
        calls.append(batch)
        return 10 + batch + (batch // 16 * steps)

    expected = max((b for b in range(1, 1025) if 10 + b + b // 16 * steps <= limit), default=0)
    assert search_batch_size(measure, limit) == expected
    assert len(calls) == len(set(calls)) <= 21


def test_out_of_memory_counts_as_too_large() -> None:
    assert search_batch_size(lambda batch: None if batch > 37 else batch, 1e9) == 37
    assert search_batch_size(lambda batch: None, 1e9) == 0
    assert search_batch_size(lambda batch: batch, 1e9, most=24) == 24


@pytest.mark.parametrize(("kind", "expected"), [(TrainConfig, 16), (ClassifyTrainConfig, 64)])
def test_cpu_uses_the_default(
    kind: type[TrainConfig], expected: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autobatch.LOGGER, "propagate", True)
    caplog.set_level("INFO", "openyolov5")
    config, cpu = kind(batch_size=-1), torch.device("cpu")
    assert find_batch_size(config, None, imgsz=64, stride=32, device=cpu) == expected  # type: ignore[arg-type]
    assert f"measured on CUDA only; batches of {expected} on this CPU" in caplog.text


def test_run_uses_the_batch_size_found(tiny_data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path, batch_size=-1)
    assert (trainer.config.batch_size, trainer.task.options.data.batch_size, trainer.schedule.batch_size) == (
        16,
        16,
        16,
    )
    assert "batch_size: 16\n" in (tmp_path / "exp/opt.yaml").read_text()


def test_cuda_batch_size_follows_free_memory(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mock of CUDA's memory: 100 bytes are free, a step takes 9 and 7 per image; 12 images fit 1..16."""
    trainer = make_trainer(tiny_data, tmp_path)
    sizes = []

    def build(batch_size: int, imgsz: int) -> tuple[Any, Any]:
        sizes.append(imgsz)
        data = replace(trainer.task.options.data, batch_size=batch_size)
        return trainer.task.with_options(data=data), trainer.model

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 200))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 40)
    monkeypatch.setattr(autobatch, "measure_memory", lambda config, *_: 9 + 7 * config.batch_size)

    def find() -> int:
        config = replace(trainer.config, batch_size=-1)
        return find_batch_size(config, build, imgsz=64, stride=32, device=torch.device("cuda"))

    assert find() == 10  # 79 of 85 bytes
    assert sizes == [64]
    monkeypatch.setattr(autobatch, "measure_memory", lambda config, *_: 1)
    assert find() == 16
    monkeypatch.setattr(autobatch, "measure_memory", lambda config, *_: 90)
    with pytest.raises(InputError, match="one image of 64 px needs more than 85% of the"):
        find()
    monkeypatch.setattr(autobatch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(InputError, match="give a number"):
        find()


def test_multi_scale_is_measured_at_its_largest_size(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tiny_data, tmp_path, multi_scale=True)
    measured = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 200))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 40)
    monkeypatch.setattr(
        autobatch, "measure_memory", lambda config, build, imgsz, device: measured.append((imgsz, config.multi_scale))
    )
    with pytest.raises(InputError):
        find_batch_size(
            trainer.config,
            lambda batch_size, imgsz: (trainer.task, trainer.model),
            imgsz=64,
            stride=32,
            device=torch.device("cuda"),
        )
    assert set(measured) == {(96, False)}


def test_measured_steps_leave_the_folder_alone(tiny_data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path)
    files, before = sorted(tmp_path.rglob("*")), trainer.model.model[0].conv.weight.clone()
    run_steps(trainer.config, trainer.task, trainer.model, trainer.device)
    assert sorted(tmp_path.rglob("*")) == files
    assert not torch.equal(trainer.model.model[0].conv.weight, before)  # steps were taken
