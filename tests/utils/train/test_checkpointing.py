"""Training state of a checkpoint: restored exactly, or refused before the first step."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.tiny_jobs import TINY_GRAPH
from utils.config.train import TrainConfig
from utils.core.errors import InputError
from utils.train.checkpointing import collect_state, restore_state
from utils.train.setup import build_trainer
from utils.train.trainer import Trainer

METER = ['[[["box", "obj", "cls"], [0.5, 0.25, 0.125], 1]]']


def train_one_epoch(tiny_data: Path, folder: Path, optimizer: str = "SGD") -> Trainer:
    graph = folder / "net.yaml"
    graph.write_text(yaml.safe_dump(TINY_GRAPH))
    settings = {
        **{"data": str(tiny_data), "weights": "", "cfg": str(graph), "imgsz": 64, "batch_size": 4, "workers": 0},
        **{"epochs": 1, "project": str(folder), "noplots": True, "noautoanchor": True, "device": "cpu"},
        **{"image_weights": True, "optimizer": optimizer, "nosave": True, "noval": True},
    }
    trainer = build_trainer(TrainConfig.from_kwargs(**settings))
    trainer._train_epoch(0)
    return trainer


def read_state(trainer: Trainer) -> dict[str, Any]:
    """The content of a last.pt, apart from the trainer."""
    return copy.deepcopy(collect_state(trainer, epoch=0, metrics={}, position={"batches": 1, "meter": METER}))


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, dict[str, Any]]:
    """A trainer and its valid state."""
    trainer = train_one_epoch(tiny_data, tmp_path_factory.mktemp("run"))
    return trainer, read_state(trainer)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "Muon"])
def test_state_is_restored(tiny_data: Path, tmp_path: Path, optimizer: str) -> None:
    trainer = train_one_epoch(tiny_data, tmp_path, optimizer)
    state = read_state(trainer)
    moments = copy.deepcopy(trainer.optimizer.state_dict()["state"])
    trainer._train_epoch(0)
    restore_state(trainer, copy.deepcopy(state))
    restored = trainer.optimizer.state_dict()["state"]
    assert restored.keys() == moments.keys()
    for number, values in moments.items():
        assert all(torch.equal(restored[number][name], value) for name, value in values.items())
    assert all(torch.equal(value, state["model"][key]) for key, value in trainer.model.state_dict().items())
    assert (trainer.start_epoch, trainer.position) == (1, state["position"])
    trainer._train_epoch(0)


def change(state: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        state = state[key]
    state[path[-1]] = value


MOMENTUM = ("optimizer", "state", 1, "momentum_buffer")
GROUP = ("optimizer", "param_groups", 0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param(MOMENTUM, torch.tensor(0.5), "momentum_buffer of a parameter is Tensor of another", id="scalar"),
        pytest.param(MOMENTUM, torch.zeros(3), "momentum_buffer of a parameter is Tensor", id="shape"),
        pytest.param(MOMENTUM, None, "momentum_buffer of a parameter is NoneType", id="no momentum"),
        pytest.param(MOMENTUM[:3], {}, "parameters of a group with different states", id="momentum of some"),
        pytest.param(MOMENTUM[:3], {"exp_avg": torch.zeros(8)}, "different states", id="another optimizer"),
        pytest.param((*GROUP, "lr"), "fast", "lr of a parameter group is str", id="learning rate"),
        pytest.param((*GROUP, "nesterov"), 1, "nesterov of a parameter group is int", id="switch"),
        pytest.param((*GROUP, "momentum"), float("nan"), "momentum of a parameter group is float", id="not finite"),
        pytest.param((*GROUP, "params"), [0], "its training state does not fit the run", id="parameters"),
        pytest.param(("optimizer", "param_groups"), [], "its training state does not fit the run", id="groups"),
        pytest.param(("position", "batches"), 3, "3 of 3 batches are done", id="position"),
        pytest.param(("position", "meter"), ["["], "its training state does not fit the run", id="meter"),
        pytest.param(("position", "meter"), [METER[0].replace(", 0.125", "")], "losses box, obj", id="two losses"),
        pytest.param(("early_stop",), {}, "best_fitness", id="early stopping"),
        pytest.param(("image_weights",), torch.ones(5), "image_weights are not those of the images", id="images"),
        pytest.param(("image_weights",), torch.full((12,), -1.0), "image_weights are not", id="negative weights"),
        pytest.param(("image_weights",), None, "its training state does not fit the run", id="no weights"),
        pytest.param(("model", "model.0.conv.weight"), torch.zeros(1), "weights do not fit its own graph", id="model"),
        pytest.param(("ema",), {}, "weights do not fit its own graph", id="ema"),
    ],
)
def test_state_that_does_not_fit(
    run: tuple[Trainer, dict[str, Any]], path: tuple[Any, ...], value: Any, message: str
) -> None:
    trainer, state = run[0], copy.deepcopy(run[1])
    change(state, path, value)
    with pytest.raises(InputError, match=rf"last\.pt: .*{message}") as caught:
        restore_state(trainer, state)
    assert str(caught.value).isprintable()


def test_momentum_gets_the_memory_layout_of_its_parameter(run: tuple[Trainer, dict[str, Any]]) -> None:
    """A fused step reads and writes it as if it had; an expanded tensor has the memory of one number."""
    trainer, state = run[0], copy.deepcopy(run[1])
    shape = state["optimizer"]["state"][1]["momentum_buffer"].shape
    state["optimizer"]["state"][1]["momentum_buffer"] = torch.tensor(0.5).expand(shape)
    restore_state(trainer, state)
    for parameter, values in trainer.optimizer.state.items():
        assert values["momentum_buffer"].stride() == parameter.stride()
        assert values["momentum_buffer"].untyped_storage().nbytes() == 4 * parameter.numel()
    trainer._train_epoch(0)
