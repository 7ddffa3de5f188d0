from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from models.checkpoint import save_checkpoint
from models.graph import load_model_yaml
from models.public_pickle import save_pickle
from utils import general
from utils.core.logging import LOGGER
from utils.tasks.networks import build_model, load_checkpoint

RESULT_NAMES = ["metrics/precision", "metrics/recall", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95"]
RESULT_NAMES += ["val/box_loss", "val/obj_loss", "val/cls_loss"]


def test_init_seeds() -> None:
    draws = []
    for _ in range(2):
        general.init_seeds(7)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]
    general.init_seeds(8)
    assert random.random() != draws[0][0]


def test_init_seeds_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    try:
        general.init_seeds(1, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)


def test_intersect_dicts() -> None:
    ours = {"a": torch.ones(2), "b": torch.ones(3), "c.anchors": torch.ones(1), "d": torch.ones(1)}
    theirs = {"a": torch.zeros(2), "b": torch.zeros(4), "c.anchors": torch.zeros(1)}
    assert list(general.intersect_dicts(ours, theirs)) == ["a", "c.anchors"]
    selected = general.intersect_dicts(ours, theirs, exclude=["anchor"])
    assert list(selected) == ["a"]
    assert selected["a"] is ours["a"]


def test_get_default_args() -> None:
    def function(a: int, b: int = 2, *, c: str = "x") -> None: ...

    assert general.get_default_args(function) == {"b": 2, "c": "x"}


def test_one_cycle() -> None:
    """From 1 to 0.1 over 10 steps: at a quarter, (1 + cos(pi / 4)) / 2 of the way is left."""
    function = general.one_cycle(1.0, 0.1, 10)
    expected = [1.0, 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2, 0.55, 0.1]
    assert [function(x) for x in (0, 2.5, 5, 10)] == pytest.approx(expected)
    assert general.one_cycle()(100) == pytest.approx(1.0)


def test_one_cycle_against_the_reference(shared: Path) -> None:
    golden = json.loads((shared / "reference/golden/schedules.json").read_text())
    function = general.one_cycle(1, 0.01, 100)
    factors = golden["cosine_lr_factor_100_epochs_lrf_0_01"]
    assert [function(epoch) for epoch in range(len(factors))] == pytest.approx(factors)


def test_weights_of_classes_and_images() -> None:
    boxes = np.zeros((3, 4))
    labels = [np.column_stack([[0, 0, 1], boxes]), np.zeros((0, 5)), np.column_stack([[0, 2, 2], boxes])]
    weights = general.labels_to_class_weights(labels, nc=4)  # counts 3, 1, 2, 0 (counts as 1)
    inverse = np.array([1 / 3, 1, 1 / 2, 1])
    np.testing.assert_allclose(weights, inverse / inverse.sum(), rtol=1e-6)
    assert general.labels_to_class_weights([None]).numel() == 0
    images = general.labels_to_image_weights(labels, nc=4, class_weights=np.array([1.0, 10, 100, 1000]))
    assert images.tolist() == [12, 0, 201]
    assert general.labels_to_image_weights(labels).tolist() == [3, 0, 3]


def test_coco_numbers() -> None:
    numbers = general.coco80_to_coco91_class()
    assert len(numbers) == 80
    assert numbers[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]  # 12 (street sign) is not used
    assert numbers[-2:] == [89, 90]


def test_bar_format() -> None:
    from tqdm import tqdm

    text = tqdm.format_meter(5, 10, 1, ncols=60, bar_format=general.TQDM_BAR_FORMAT, prefix="epoch")
    assert text.startswith("epoch:  50%|")
    assert "5/10" in text


# -- checkpoints ------------------------------------------------------------------------------------------------------


def make_model() -> Any:
    return build_model({**load_model_yaml("yolov5n"), "width_multiple": 0.125, "nc": 1})


def test_strip_optimizer_of_an_own_checkpoint(tmp_path: Path) -> None:
    model = make_model()
    payload = {"task": "detect", "yaml": model.yaml, "names": {0: "a"}, "model": model.state_dict(), "optimizer": {}}
    save_checkpoint(tmp_path / "last.pt", payload)
    general.strip_optimizer(tmp_path / "last.pt", tmp_path / "small.pt")
    assert load_checkpoint(tmp_path / "small.pt").raw["optimizer"] is None
    assert load_checkpoint(tmp_path / "last.pt").raw["optimizer"] == {}
    general.strip_optimizer(tmp_path / "last.pt")
    assert load_checkpoint(tmp_path / "last.pt").raw["optimizer"] is None


def test_strip_optimizer_of_pickled_modules(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What train.py of YOLOv5 7.0 writes: modules, of which those of the EMA count."""
    model, ema = make_model(), make_model()
    content = {
        "epoch": 3, "best_fitness": 0.5, "model": model.half(), "ema": ema.half(), "updates": 9,
        "optimizer": {"state": {}, "param_groups": []}, "opt": {"imgsz": 64}, "git": {"commit": "abc"}, "date": "today",
    }  # fmt: skip
    save_pickle(tmp_path / "last.pt", content)
    caplog.set_level("INFO", LOGGER.name)
    general.strip_optimizer(str(tmp_path / "last.pt"), str(tmp_path / "small.pt"))
    assert f"optimizer stripped, saved as {tmp_path / 'small.pt'}" in caplog.text
    stripped = load_checkpoint(tmp_path / "small.pt")
    assert stripped.official
    assert stripped.epoch == -1
    assert {key: stripped.raw[key] for key in ("optimizer", "best_fitness", "updates")} == dict.fromkeys(
        ("optimizer", "best_fitness", "updates")
    )
    assert stripped.raw["opt"] == {"imgsz": 64}
    assert (stripped.raw["git"], stripped.raw["date"]) == ({"commit": "abc"}, "today")
    weights = stripped.state_dict
    for key, value in ema.state_dict().items():
        torch.testing.assert_close(weights[key].float(), value.float(), msg=key)
    general.strip_optimizer(tmp_path / "last.pt")
    assert load_checkpoint(tmp_path / "last.pt").epoch == -1


# -- evolution --------------------------------------------------------------------------------------------------------


def make_results(map50: float) -> tuple[float, ...]:
    return 0.1, 0.2, map50, map50 / 2, 0.01, 0.02, 0.03


def read_csv(file: Path) -> tuple[list[str], np.ndarray]:
    header, *_ = file.read_text().splitlines()
    return [name.strip() for name in header.split(",")], np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)


def test_print_mutation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", LOGGER.name)
    for number, map50 in enumerate((0.3, 0.6, 0.5)):
        hyp = {"lr0": 0.01 * (number + 1), "momentum": 0.9}
        general.print_mutation(RESULT_NAMES, make_results(map50), hyp, tmp_path, "")
    names, rows = read_csv(tmp_path / "evolve.csv")
    assert names == [*RESULT_NAMES, "lr0", "momentum"]
    np.testing.assert_allclose(rows[:, 2], [0.3, 0.6, 0.5])
    np.testing.assert_allclose(rows[:, 7:], [[0.01, 0.9], [0.02, 0.9], [0.03, 0.9]])
    assert yaml.safe_load((tmp_path / "hyp_evolve.yaml").read_text()) == {"lr0": 0.02, "momentum": 0.9}
    assert "metrics/mAP_0.5: 0.6" in (tmp_path / "hyp_evolve.yaml").read_text()
    assert "3 generations: metrics/precision 0.1" in caplog.messages[-1]


def test_print_mutation_as_in_6_0(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    general.print_mutation(make_results(0.4), {"lr0": 0.01}, tmp_path, "gs://bucket")
    names, rows = read_csv(tmp_path / "evolve.csv")
    assert names == [*RESULT_NAMES, "lr0"]
    assert rows.shape == (1, 8)
    assert caplog.messages == ["WARNING gs://bucket: files are not copied to cloud storage; copy them yourself"]
    general.print_mutation(results=make_results(0.5), hyp={"lr0": 0.02}, save_dir=tmp_path, bucket="")
    assert read_csv(tmp_path / "evolve.csv")[1].shape == (2, 8)


def test_print_mutation_as_in_5_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, map50 in enumerate((0.3, 0.6, 0.5)):
        general.print_mutation({"lr0": 0.01 * (number + 1)}, make_results(map50), "hyp.yaml", "")
    rows = np.loadtxt("evolve.txt", ndmin=2)
    np.testing.assert_allclose(rows[:, 2], [0.6, 0.5, 0.3])  # the best one first
    assert yaml.safe_load(Path("hyp.yaml").read_text()) == {"lr0": 0.02}
