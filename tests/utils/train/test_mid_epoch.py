"""Checkpoints within an epoch, and runs on several machines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from interruptions import assert_same_run, is_same
from process_pairs import ROOT, find_free_port, make_trainer, run_pair, write_data

from models.checkpoint import load_training_state
from utils.config.train import TrainConfig
from utils.core.errors import InputError
from utils.train.setup import build_trainer

RECIPE = {"nominal_batch": 4, "warmup_epochs": 0, "warmup_iterations": 0}
OPTIONS: dict[str, Any] = {"batch_size": 2, "hyp": RECIPE}  # 5 batches an epoch; steps after 2, 4 and 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_data(folder, "detect")
    return folder


@pytest.mark.parametrize(("iteration", "optimizer"), [(3, "SGD"), (8, "Muon")])
def test_run_resumed_within_an_epoch_equals_an_uninterrupted_one(
    data: Path, tmp_path: Path, iteration: int, optimizer: str
) -> None:
    options = {**OPTIONS, "optimizer": optimizer}
    make_trainer(data, tmp_path / "whole", "detect", **options).fit()
    trainer = make_trainer(data, tmp_path / "broken", "detect", save_every_steps=1, **options)

    def stop(*, iteration: int, **_: Any) -> None:
        if iteration == wanted:
            raise InputError("stopped for the test")

    wanted = iteration
    trainer.callbacks.on("on_train_batch_start", stop)
    with pytest.raises(InputError, match="for the test"):
        trainer.fit()
    last = tmp_path / "broken/exp/weights/last.pt"
    assert load_training_state(last)["position"]["batches"] == 2
    resumed = build_trainer(TrainConfig.from_kwargs(resume=str(last), save_every_steps=2))
    resumed.fit()
    assert_same_run(tmp_path / "whole/exp", tmp_path / "broken/exp")


def test_every_nth_step_is_saved(data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path, "detect", save_every_steps=2, epochs=1, **OPTIONS)
    kept = []
    write = trainer._save

    def listen(path: Path, **details: Any) -> None:
        kept.append((details["epoch"], (details.get("position") or {}).get("batches")))
        write(path, **details)

    trainer._save = listen  # type: ignore[method-assign]
    trainer.fit()
    assert kept == [(-1, None), (-1, 4), (0, None), (0, None)]  # at the start, within, best and last


@pytest.mark.slow
def test_two_machines_are_two_launchers(data: Path, tmp_path: Path) -> None:
    """Two agents of torchrun on loopback, with a process each, do what one agent with two does."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "nodes").mkdir()
    (pair, _) = run_pair("training", data, tmp_path / "whole", "detect")
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{find_free_port()}", "--rdzv-id=loopback"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", *meeting]
    script = [ROOT / "tests/process_pairs.py", "training", data, tmp_path / "nodes", "detect"]
    agents = [subprocess.Popen([*command, *map(str, script)], stderr=subprocess.DEVNULL) for _ in range(2)]
    try:
        assert [agent.wait(timeout=300) for agent in agents] == [0, 0]
    finally:
        for agent in agents:
            agent.kill()
    assert is_same(torch.load(tmp_path / "nodes/0.pt", weights_only=True), pair)
