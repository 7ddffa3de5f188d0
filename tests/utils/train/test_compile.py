from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from test_trainer import make_trainer
from tiny_jobs import TINY_GRAPH
from torch import nn

from utils.train import compile as compiling
from utils.train.compile import compile_network


def test_failed_compilation_warns_and_trains_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(function: object) -> None:
        raise RuntimeError("no C++\ncompiler")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(compiling.LOGGER, "propagate", True)
    layer = nn.Linear(2, 2)
    assert not compile_network(layer, torch.device("cpu"))
    assert "--compile: torch.compile fails here (no C++ compiler): training without it" in caplog.text
    assert layer(torch.zeros(1, 2)).shape == (1, 2)


@pytest.mark.slow
def test_compiled_network_trains_the_same_with_the_same_keys(tiny_data: Path, tmp_path: Path) -> None:
    cfg = tmp_path / "tiny.yaml"
    cfg.write_text(yaml.safe_dump(TINY_GRAPH))
    options = {"hyp": {"warmup_iterations": 0, "warmup_epochs": 0, "lr0": 0.001}, "cfg": str(cfg)}
    runs = [make_trainer(tiny_data, tmp_path / str(flag), compile=flag, **options) for flag in (False, True)]
    states = [torch.load(trainer.fit().last, weights_only=True)["model"] for trainer in runs]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.allclose(value.float(), states[1][key].float(), atol=2e-3, rtol=1e-2), key
