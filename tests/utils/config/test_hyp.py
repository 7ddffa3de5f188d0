from __future__ import annotations

from pathlib import Path

import pytest

from utils.config.base import ROOT
from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.search.genes import GENES


@pytest.mark.parametrize("file", sorted((ROOT / "data" / "hyps").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_files_load(file: Path) -> None:
    hyp = Hyperparameters.load(file)
    assert Hyperparameters.from_dict(hyp.to_dict(), source="round trip") == hyp


def test_low_is_the_default() -> None:
    assert Hyperparameters.load(ROOT / "data/hyps/hyp.scratch-low.yaml") == Hyperparameters()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr0: fast", "lr0: 'fast' is not a finite number"),
        ("mosaic: 1.5", "mosaic: 1.5 must be between 0 and 1"),
        ("lr: 0.1", "unknown hyperparameter 'lr'; known: albumentations, anchor_t"),
        ("box: -1", "box: -1 must not be negative"),
        ("anchor_t: 1.0", "must be above 1"),
        ("anchors: 0", "anchors: 0 must be at least 1; or omit the key"),
        ("anchors: 0.5", "anchors: 0.5 must be at least 1"),  # rounds to 0
        ("momentum: 1.0", r"momentum: 1.0 must be below 1 \(gradients would never decay"),
        ("warmup_momentum: 1", "warmup_momentum: 1 must be below 1"),
        ("scale: 1.5", r"scale: 1.5 must be below 1 \(the minimum zoom"),
        ("- 1", "expected `name: number` lines"),
        ("a: [", "not valid YAML"),
        ("box: .nan", "not a finite number"),
        ("1: 2", "unknown hyperparameter '1'"),
        ("null: 2", "unknown hyperparameter 'None'"),
        ("{b: 1, 1: 1, a: 1}", "unknown hyperparameter '1', 'a', 'b'"),
        ('"\\e[31m\\n": 1', r"unknown hyperparameter '\\x1b\[31m\\n'"),
        ("box: 1e308", "box: 1e\\+308 must be at most 1,000,000"),
        (f"box: {10**90}", f"box: {10**39} must be at most"),
        ("box: 1e999", "box: inf is not a finite number"),
        ("box: .inf", "box: inf is not a finite number"),
        (f"box: {'[' * 30}{']' * 30}", r"box: \[{30}\]{10} is not a finite number"),
        ("box: 2024-01-01", "box: datetime.date.* is not a finite number"),
        ("box: true", "box: True is not a finite number"),
        ("box:", "box: None is not a finite number"),
        ("anchors: 1e5", "anchors: 100,000 per level, the limit is 1,000; use --no-limits"),
        ("albumentations: [1]", "albumentations: expected a serialized pipeline .*, got list"),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "hyp.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        Hyperparameters.load(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("name", sorted(GENES))
def test_limits_of_an_evolution_are_usable_values(name: str) -> None:
    for value in (GENES[name].low, GENES[name].high):
        assert getattr(Hyperparameters.from_dict({name: value}, source="gene"), name) == value


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read"):
        Hyperparameters.load(tmp_path / "none.yaml")


def test_a_binary_file(tmp_path: Path) -> None:
    (tmp_path / "hyp.yaml").write_bytes(b"lr0: 1\nlrf: \xff")
    with pytest.raises(InputError, match=r"hyp\.yaml:2: byte 0xff is not UTF-8"):
        Hyperparameters.load(tmp_path / "hyp.yaml")


def test_powers_of_ten_without_a_decimal_point_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "hyp.yaml").write_text("lr0: 1e-3\nweight_decay: 5E-4")
    hyp = Hyperparameters.load(tmp_path / "hyp.yaml")
    assert (hyp.lr0, hyp.weight_decay) == (0.001, 0.0005)


def test_defaults_of_a_task(tmp_path: Path) -> None:
    file = tmp_path / "hyp.yaml"
    file.write_text("lr0: 0.002\n")
    assert Hyperparameters.load(file, defaults={"warmup_iterations": 800}).warmup_iterations == 800
    file.write_text("warmup_iterations: 20\n")
    assert Hyperparameters.load(file, defaults={"warmup_iterations": 800}).warmup_iterations == 20
