from __future__ import annotations

from pathlib import Path

import pytest

from utils.config.train import TrainConfig
from utils.config.val import ValConfig
from utils.core.errors import InputError


def test_defaults() -> None:
    config = TrainConfig.from_args([])
    assert (config.weights, config.data, config.epochs, config.batch_size) == (
        "yolov5s.pt",
        "data/coco128.yaml",
        100,
        16,
    )
    assert (config.imgsz, config.patience, config.freeze, config.save_period) == (640, 100, [0], -1)
    assert config.explicit == frozenset()


def test_prefixes_and_aliases_of_flags() -> None:
    config = TrainConfig.from_args(["--batch", "8", "--img", "320", "--cache", "--resume", "--freeze", "10"])
    assert (config.batch_size, config.imgsz, config.cache, config.resume, config.freeze) == (8, 320, "ram", True, [10])
    assert config.explicit == {"batch_size", "imgsz", "cache", "resume", "freeze"}
    assert ValConfig.from_args(["--conf", "0.1", "--img-size", "96"]).imgsz == 96


@pytest.mark.parametrize("name", ["save_period", "bbox_interval"])
def test_periods_are_minus_one_or_more(name: str) -> None:
    assert getattr(TrainConfig.from_kwargs(**{name: -1}), name) == -1
    with pytest.raises(InputError, match="-5: -5 must be at least -1"):
        TrainConfig.from_kwargs(**{name: -5})


def test_keyword_arguments_name_fields() -> None:
    assert TrainConfig.from_kwargs(img_size=96, epochs=3).imgsz == 96
    with pytest.raises(InputError, match="unknown option batchsize"):
        TrainConfig.from_kwargs(batchsize=3)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--bucket", "gs://x"], "--bucket gs://x: cloud storage is not supported; omit the flag"),
        (["--batch-size", "-2"], "--batch-size -2: must be at least 1, or -1 for as many as fit in memory"),
        (["--compile", "--checkpoint-activations"], "--compile and --checkpoint-activations cannot be combined"),
        (["--image-weights", "--rect"], "--image-weights and --rect cannot be combined"),
    ],
)
def test_unsupported_settings_are_refused(argv: list[str], text: str) -> None:
    with pytest.raises(InputError, match=text):
        TrainConfig.from_args(argv).check()


@pytest.mark.parametrize(
    "argv",
    [["--epochs", "0"], ["--label-smoothing", "2"], ["--optimizer", "Lion"], ["--sed", "x"], ["--seed", f"{2**32}"]],
)
def test_a_wrong_value_exits_with_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        TrainConfig.from_args(argv)
    assert stopped.value.code == 2
    assert argv[0] in capsys.readouterr().err


def test_settings_survive_a_round_trip() -> None:
    config = TrainConfig.from_args(["--img", "128", "--freeze", "1", "2"])
    assert TrainConfig.from_kwargs(**config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"epochs": 0}, r"--epochs 0: 0 must be at least 1"),
        ({"imgsz": "large"}, r"--imgsz large"),
        ({"optimizer": "Lion"}, r"--optimizer Lion: must be one of SGD, Adam, AdamW, Muon"),
        ({"label_smoothing": 2}, r"--label-smoothing 2"),
        ({"rect": "yes"}, r"--rect yes: must be True or False"),
        ({"freeze": [1, -1]}, r"--freeze -1"),
    ],
)
def test_keyword_arguments_are_checked_like_flags(values: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        TrainConfig.from_kwargs(**values)


def test_keyword_arguments_are_converted() -> None:
    config = TrainConfig.from_kwargs(freeze=10, hyp={"lr0": 0.1}, cache=None, device=0, project=Path("a"), evolve=None)
    assert (config.freeze, config.hyp, config.cache, config.evolve) == ([10], {"lr0": 0.1}, None, None)
    assert ValConfig.from_kwargs(weights=Path("best.pt")).weights == [Path("best.pt")]


def test_flags_with_a_number_of_values() -> None:
    config = TrainConfig.from_args(["--task-weights", "0.5", "0.5", "--class-weights", "--aux-weights", "0.1", "0"])
    assert (config.task_weights, config.class_weights, config.aux_weights) == ([0.5, 0.5], True, [0.1, 0.0])
    assert TrainConfig.from_args(["--class-weights", "1", "2.5"]).class_weights == [1.0, 2.5]
    assert TrainConfig.from_kwargs(class_weights=True).class_weights is True
    assert TrainConfig.from_kwargs(**config.to_dict()).to_dict() == config.to_dict()
    with pytest.raises(InputError, match=r"--task-weights 0\.5: expected 2 values, got 1"):
        TrainConfig.from_kwargs(task_weights=[0.5])
    with pytest.raises(InputError, match="--balance middle: must be one of longest, shortest"):
        TrainConfig.from_kwargs(balance="middle")


@pytest.mark.parametrize(("flags", "expected"), [([], None), (["--close-mosaic", "10"], 90), (["--close", "200"], 0)])
def test_epochs_with_mosaics(flags: list[str], expected: int | None) -> None:
    assert TrainConfig.from_args(flags).check().mosaic_epochs == expected
