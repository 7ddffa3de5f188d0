from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import train
from models.checkpoint import load_training_state
from utils.config.train import TrainConfig
from utils.core.device import is_out_of_memory
from utils.core.errors import InputError
from utils.train.out_of_memory import fit_within_memory
from utils.train.trainer import Trainer


def settings(tiny_data: Path, folder: Path, **options: object) -> dict[str, Any]:
    base = {
        **{"data": str(tiny_data), "weights": "", "cfg": "yolov5n.yaml", "imgsz": 64, "batch_size": 8, "workers": 0},
        **{"epochs": 2, "project": str(folder), "noplots": True, "device": "cpu", "noautoanchor": True},
    }
    return base | options


def short_of_memory(monkeypatch: pytest.MonkeyPatch, *, limit: int, epoch: int = 0) -> None:
    """Let larger batches run out of memory (injected), from the second iteration of an epoch on."""
    prepare = Trainer._prepare_images

    def fail_beyond_limit(self: Trainer, batch: Any, iteration: int) -> Any:
        if iteration > epoch * len(self.loader) and self.config.batch_size > limit:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return prepare(self, batch, iteration)

    monkeypatch.setattr(Trainer, "_prepare_images", fail_beyond_limit)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_memory_errors_are_recognized(error: type) -> None:
    assert is_out_of_memory(error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_halved_batch_trains_like_the_smaller_batch_size(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.run(**settings(tiny_data, tmp_path / "asked", batch_size=4))
    short_of_memory(monkeypatch, limit=4)
    result = train.run(**settings(tiny_data, tmp_path / "halved"))
    assert result.save_dir == tmp_path / "halved/exp"  # the same folder
    assert not (tmp_path / "halved/exp2").exists()
    wanted, state = load_training_state(tmp_path / "asked/exp/weights/last.pt"), load_training_state(result.last)  # type: ignore[union-attr]
    assert all(torch.equal(value, wanted["model"][key]) for key, value in state["model"].items())
    assert state["opt"]["batch_size"] == 4
    assert "batch_size: 4\n" in (result.save_dir / "opt.yaml").read_text()
    assert (tmp_path / "asked/exp/results.csv").read_text() == (result.save_dir / "results.csv").read_text()


def test_the_nominal_batch_stays(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(monkeypatch, limit=2)
    hyp = {"nominal_batch": 8, "warmup_iterations": 0, "warmup_epochs": 0}
    trainer, _ = fit_within_memory(TrainConfig.from_kwargs(**settings(tiny_data, tmp_path, hyp=hyp, epochs=1)))
    assert trainer.config.batch_size == 2
    assert trainer.schedule.accumulate(1) == 4


@pytest.mark.parametrize(
    ("options", "epoch"),
    [({"batch_size": 1}, 0), ({}, 1)],
    ids=["a single image", "later"],
)
def test_runs_that_cannot_restart_report_an_error(
    options: dict[str, object], epoch: int, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(monkeypatch, limit=0, epoch=epoch)
    with pytest.raises(InputError, match=r"out of memory with batches of \d at 64 px; give a smaller --batch-size"):
        train.run(**settings(tiny_data, tmp_path, **options))


def test_other_errors_pass(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> int:
        raise RuntimeError("of another kind")

    monkeypatch.setattr(Trainer, "_prepare_images", fail)
    with pytest.raises(RuntimeError, match="of another kind"):
        train.run(**settings(tiny_data, tmp_path))
