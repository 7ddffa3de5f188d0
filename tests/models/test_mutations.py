"""Checkpoints and model YAMLs with one value replaced: each is read, or refused in one line."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.checkpoint import load_training_state, save_checkpoint, strip_checkpoint
from models.graph import load_model_yaml
from models.yolo import Detect, DetectionModel
from tests.slim_networks import SLIM
from tests.tiny_jobs import TINY_GRAPH, build_tiny_model
from utils.core.errors import InputError
from utils.tasks.networks import build_model, load_checkpoint, load_model

IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
ODD_VALUES: list[Any] = [
    *[None, True, 0, -1, 2**70, float("nan"), float("inf"), "", "x", "\x1b[31m\n" * 99, [], [1], [[1]], {}, {"a": 1}],
    *[torch.tensor(0.5), torch.arange(3), torch.zeros(0), torch.zeros(2, 2).half(), {1, 2}],
]
ODD_ARGUMENTS: list[Any] = [
    *[None, True, 0, -1, 0.5, 10**9, 2**70, float("nan"), 1e308, "", "x", "nc", "1/0", "\0", [], [1], [[1]], [0, 0]],
    *["nn.PReLU(2000000000)", "nn.ReLU()", "nn.Conv2d(8, 8, 99999)", "9" * 900, "Concat", "Detect", "nn.Flatten"],
]


def list_places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Keys and indices that lead to every value in nested mappings and lists; of long mappings the first and last."""
    if place:
        yield place
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys if len(keys) <= 30 else (keys[0], keys[-1]):
        yield from list_places(value[key], (*place, key))


def replace_value(content: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy of nested mappings and lists with one value replaced."""
    result = node = copy.copy(content)
    for key in place[:-1]:
        node[key] = copy.copy(node[key])
        node = node[key]
    node[place[-1]] = value
    return result


def try_all(actions: dict[str, Callable[[], Any]]) -> tuple[int, int]:
    """Run actions; numbers of those that succeed and that are refused in one readable line."""
    done = 0
    for name, action in actions.items():
        try:
            action()
            done += 1
        except InputError as error:
            assert str(error).isprintable(), name
            assert len(str(error)) < 600, name
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
    return done, len(actions) - done


def run_model(file: Path) -> None:
    model = load_model(file)
    with torch.no_grad():
        model(IMAGE)
    assert set(range(model.nc)) <= set(model.names)


def build_own_content(folder: Path) -> dict[str, Any]:
    """A checkpoint of an unfinished run, as train.py writes it."""
    model = DetectionModel(TINY_GRAPH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    weights = model.state_dict()
    payload = {
        **{"task": "detect", "yaml": model.yaml, "names": {0: "a", 1: "b"}, "model": weights, "ema": weights},
        **{"ema_updates": 1, "optimizer": optimizer.state_dict(), "scaler": {}, "amp": "off", "semantic": None},
        **{"early_stop": {"best_fitness": 0.5, "best_epoch": 0}, "task_state": {"loss": {}}, "epoch": 0},
        **{"image_weights": torch.ones(4), "position": {"batches": 1, "meter": ["[]"]}},
        **{"hyp": {"lr0": 0.01}, "opt": {"epochs": 3, "data": "coco128.yaml"}},
    }
    save_checkpoint(folder / "own.pt", payload)
    return torch.load(folder / "own.pt", weights_only=True)


def test_own_checkpoints(tmp_path: Path) -> None:
    content, file = build_own_content(tmp_path), tmp_path / "a.pt"

    def read(place: tuple[Any, ...], value: Any) -> None:
        torch.save(replace_value(content, place, value), file)
        for action in (load_checkpoint, load_training_state, lambda path: strip_checkpoint(path, tmp_path / "b.pt")):
            action(file)

    pairs = [(place, ODD_VALUES[3 * i % len(ODD_VALUES)]) for i, place in enumerate(list_places(content))]
    pairs += [((key,), value) for key in content for value in ODD_VALUES[::3]]
    done, refused = try_all({f"{place} {value!r:.20}": lambda p=place, v=value: read(p, v) for place, value in pairs})
    assert done > 20
    assert refused > 100


@pytest.mark.parametrize("task", ["detect", "segment", "classify"])
def test_official_checkpoints(tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes, parameters, buffers and layers of pickled networks."""
    monkeypatch.delattr(Detect, "__getstate__")  # expects valid attributes
    model, file = build_tiny_model(task), tmp_path / "a.pt"
    values = [*ODD_VALUES, torch.zeros(1).expand(30_000, 30_000), range(5), np.zeros(3)]
    modules = [name for name, _ in model.named_modules() if name.count(".") <= 1]

    def read(name: str, key: str, value: Any) -> None:
        changed = copy.deepcopy(model)
        module = changed.get_submodule(name)
        members = next((m for m in (module._parameters, module._buffers, module._modules) if key in m), module.__dict__)
        members[key] = value
        torch.save({"epoch": -1, "model": changed}, file)
        run_model(file)

    actions = {}
    for number, name in enumerate(modules):
        module = model.get_submodule(name)
        keys = [key for key in vars(module) if not key.startswith("_") or key in ("_parameters", "_modules")]
        keys += [*module._parameters, *module._buffers, *list(module._modules)[:1]]
        for index, key in enumerate(keys):
            value = values[(7 * number + 3 * index) % len(values)]
            actions[f"{name}.{key} {value!r:.20}"] = lambda n=name, k=key, v=value: read(n, k, v)
    done, refused = try_all(actions)
    assert done > 10
    assert refused > 10


@pytest.mark.parametrize("key", ["model", "ema", "epoch", "opt", "best_fitness"])
def test_content_of_official_checkpoints(tmp_path: Path, key: str) -> None:
    model, file = build_tiny_model(), tmp_path / "a.pt"
    content = {"epoch": -1, "best_fitness": None, "model": model, "ema": None, "opt": {}}

    def read(value: Any) -> None:
        torch.save({**content, key: value}, file)
        checkpoint = load_checkpoint(file)
        assert isinstance(checkpoint.epoch, int)
        assert isinstance(checkpoint.opt, dict)
        assert isinstance(checkpoint.hyp, dict)

    values = [*ODD_VALUES, (model, 3), {"a": model}, nn.Conv2d(1, 1, 1)]
    done, refused = try_all({f"{value!r:.20} {i}": lambda v=value: read(v) for i, value in enumerate(values)})
    assert done + refused == len(values)
    assert (refused == 0) == (key not in ("model", "ema"))


@pytest.mark.parametrize("name", ["yolov5n-seg", "yolov5s-v1", "yolov5s-psp", "yolov5s-sem"])
def test_model_yamls(name: str) -> None:
    graph = {**load_model_yaml(name), **SLIM, "nc": 3, "ch": 3, "activation": "nn.ReLU()", "channel_multiple": 8}

    def build(place: tuple[Any, ...], value: Any) -> None:
        model = build_model(replace_value(graph, place, value)).eval()
        with torch.no_grad():
            model(torch.zeros(1, model.yaml["ch"], 64, 64))

    pairs = [(place, ODD_ARGUMENTS[7 * i % len(ODD_ARGUMENTS)]) for i, place in enumerate(list_places(graph))]
    done, refused = try_all({f"{place} {value!r:.20}": lambda p=place, v=value: build(p, v) for place, value in pairs})
    assert done > 5
    assert refused > 50
