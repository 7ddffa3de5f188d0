"""Settings of the classification commands: defaults, --model, unsupported flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.config.classify import ClassifyTrainConfig, ClassifyValConfig, parse_model_option
from utils.config.hyp import Hyperparameters
from utils.config.train import TrainConfig
from utils.config.val import ValConfig
from utils.core.errors import InputError
from utils.train.setup import load_hyp


def test_defaults() -> None:
    config = ClassifyTrainConfig.from_args([])
    assert (config.weights, config.data, config.epochs, config.batch_size, config.imgsz) == (
        "yolov5s-cls.pt",
        "imagenette160",
        10,
        64,
        224,
    )
    assert (config.optimizer, config.lr0, config.decay, load_hyp(config).label_smoothing) == ("Adam", 0.001, 5e-5, 0.1)
    assert (config.project, config.task, config.transfers_weights) == ("runs/train-cls", "classify", True)
    val = ClassifyValConfig.from_args([])
    assert (val.data, val.weights, val.batch_size, val.imgsz) == ("../datasets/mnist", ["yolov5s-cls.pt"], 128, 224)
    assert val.verbose
    assert not ClassifyValConfig.from_args(["--verbose", "False"]).verbose


@pytest.mark.parametrize(("flags", "smoothing"), [([], 0.3), (["--label-smoothing", "0"], 0.0)])
def test_label_smoothing_flag_overrides_the_hyp_file(flags: list[str], smoothing: float, tmp_path: Path) -> None:
    file = tmp_path / "hyp.yaml"
    file.write_text("label_smoothing: 0.3")
    for kind in (TrainConfig, ClassifyTrainConfig):
        assert load_hyp(kind.from_args(["--hyp", str(file), *flags])).label_smoothing == smoothing


def test_recipe() -> None:
    config = ClassifyTrainConfig.from_args(["--lr0", "0.01", "--label-smoothing", "0", "--batch", "16"])
    hyp = Hyperparameters.from_dict(dict(config.recipe), source="recipe")  # type: ignore[call-overload]
    assert (hyp.lr0, hyp.lrf, hyp.momentum, hyp.weight_decay) == (0.01, 0.01, 0.9, 5e-5)
    assert (hyp.warmup_epochs, hyp.warmup_iterations, hyp.nominal_batch, hyp.label_smoothing) == (0, 0, 16, 0)
    assert ClassifyTrainConfig.from_args(["--hyp", "a.yaml"]).recipe == "a.yaml"


@pytest.mark.parametrize(
    ("model", "weights", "cfg"),
    [
        ("yolov5n-cls.pt", "yolov5n-cls.pt", ""),
        ("yolov5n-cls", "yolov5n-cls.pt", ""),
        ("a/b/last.pt", "a/b/last.pt", ""),
        ("yolov5n.yaml", "", "yolov5n.yaml"),
        ("resnet18", "", "resnet18"),
    ],
)
def test_model_sets_weights_or_cfg(model: str, weights: str, cfg: str) -> None:
    assert parse_model_option(model) == {"weights": weights, "cfg": cfg}
    config = ClassifyTrainConfig.from_kwargs(model=model)
    assert (config.weights, config.cfg, config.model) == (weights, cfg, model)
    stored = config.to_dict()
    assert ClassifyTrainConfig.from_kwargs(**stored).to_dict() == stored


def test_pretrained_has_three_states() -> None:
    default, enabled, disabled = (
        ClassifyTrainConfig.from_args(argv) for argv in ([], ["--pretrained"], ["--pretrained", "False"])
    )
    assert (default.transfers_weights, default.uses_torchvision_weights) == (True, False)
    assert (enabled.transfers_weights, enabled.uses_torchvision_weights) == (True, True)
    assert (disabled.transfers_weights, disabled.uses_torchvision_weights) == (False, False)
    with pytest.raises(InputError, match="--pretrained perhaps: must be True or False"):
        ClassifyTrainConfig.from_kwargs(pretrained="perhaps")


def test_settings_of_train_and_val_are_converted() -> None:
    train_config = TrainConfig.from_args(["--task", "classify", "--weights", "a.pt", "--data", "x", "--epochs", "3"])
    config = train_config.adapt_to(ClassifyTrainConfig)
    assert (config.weights, config.model, config.data, config.epochs, config.imgsz) == ("a.pt", "a.pt", "x", 3, 224)
    assert config.adapt_to(ClassifyTrainConfig) is config
    with pytest.raises(InputError, match="--rect: not supported for this task; omit it"):
        TrainConfig.from_args(["--rect"]).adapt_to(ClassifyTrainConfig)
    with pytest.raises(InputError, match="--save-json: not supported for this task; omit it"):
        ValConfig.from_args(["--save-json"]).adapt_to(ClassifyValConfig)
