"""Fixtures for tests on a CUDA GPU: `pytest tests/gpu -n 0`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from utils.config.train import TrainConfig
from utils.train.setup import build_trainer
from utils.train.trainer import Trainer


@pytest.fixture
def cuda() -> torch.device:
    """The first GPU; skips without one."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU, PyTorch sees none")
    return torch.device("cuda:0")


@pytest.fixture
def make_trainer(cuda: torch.device, tiny_data: Path, tmp_path: Path) -> Callable[..., Trainer]:
    """`make_trainer(amp="off")`: a trainer of yolov5n on the GPU, ready for its first step."""

    def make(name: str = "run", **options: Any) -> Trainer:
        base: dict[str, Any] = {
            **{"data": str(tiny_data), "weights": "", "cfg": "yolov5n.yaml", "imgsz": 128, "batch_size": 12},
            **{"workers": 0, "epochs": 1, "noplots": True, "noautoanchor": True, "device": str(cuda.index or 0)},
        }
        config = TrainConfig.from_kwargs(**{**base, **options}, project=str(tmp_path), name=name)
        trainer = build_trainer(config)
        trainer.model.train()
        trainer.optimizer.zero_grad()
        return trainer

    return make
