"""Options as a namespace; positional arguments."""

from __future__ import annotations

import copy
import logging
import runpy
from argparse import Namespace
from pathlib import Path

import pytest

from utils.commands.export import EXPORT_ORDER, ExportCommand
from utils.config.classify import ClassifyTrainConfig
from utils.config.detect import DetectConfig
from utils.config.export import ExportConfig
from utils.config.namespaces import name_positionals, parse_options, read_options
from utils.config.train import TrainConfig
from utils.core.errors import InputError
from utils.core.logging import LOGGER

ROOT = Path(__file__).resolve().parents[3]


def test_options_have_every_flag() -> None:
    options = parse_options(TrainConfig, ["--img", "320", "--adam"])
    assert options.imgsz == 320 and options.optimizer == "Adam" and options.epochs == 100
    assert vars(options).keys() == TrainConfig.flags().keys()
    assert parse_options(DetectConfig, []).imgsz == [640, 640]


def test_unknown_arguments_are_ignored_or_refused() -> None:
    assert parse_options(TrainConfig, ["--epochs", "3", "--mine", "1"], known=True).epochs == 3
    with pytest.raises(SystemExit):
        parse_options(TrainConfig, ["--mine"])


def test_changed_options_count_as_set() -> None:
    options = copy.copy(parse_options(TrainConfig, ["--epochs", "100", "--img", "64"]))
    options.batch_size, options.cache, options.evolve = 4, False, False
    config = read_options(TrainConfig, options)
    assert config.explicit == {"epochs", "imgsz", "batch_size"}
    assert (config.epochs, config.imgsz, config.batch_size, config.cache, config.evolve) == (100, 64, 4, None, None)


def test_default_size_stays_a_default() -> None:
    """So that a classifier may choose its own."""
    assert read_options(DetectConfig, parse_options(DetectConfig, [])).explicit == frozenset()
    assert read_options(DetectConfig, Namespace(imgsz=[640, 480])).imgsz == [640, 480]


def test_a_namespace_of_another_parser(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    with caplog.at_level(logging.WARNING, LOGGER.name):
        config = read_options(TrainConfig, Namespace(weights="", notest=True, mine=1, world_size=1, save_dir="x"))
    assert (config.weights, config.noval, config.epochs) == ("", True, 100)
    assert caplog.messages == ["WARNING unknown options are ignored: mine"]


def test_model_of_a_classifier() -> None:
    options = parse_options(ClassifyTrainConfig, ["--model", "yolov5n.yaml"])
    assert read_options(ClassifyTrainConfig, options).cfg == "yolov5n.yaml"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"cache": True}, ("cache", "ram")),
        ({"cache": False}, ("cache", None)),
        ({"evolve": True}, ("evolve", 300)),
        ({"evolve": False}, ("evolve", None)),
        ({"imgsz": [640]}, ("imgsz", 640)),
        ({"imgsz": (320, 320)}, ("imgsz", 320)),
        ({"device": 0}, ("device", "0")),
        ({"resume": False}, ("resume", False)),
    ],
)
def test_values_of_scripts(values: dict[str, object], expected: tuple[str, object]) -> None:
    name, value = expected
    assert getattr(TrainConfig.from_kwargs(**values), name) == value


def test_two_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="--imgsz 640 320: expected one value"):
        TrainConfig.from_kwargs(imgsz=[640, 320])
    with pytest.raises(InputError, match="--imgsz 640 320: expected one value"):
        TrainConfig.from_args(["--img", "640", "320"])
    assert TrainConfig.from_args(["--img-size", "640", "640", "--epochs", "2"]).imgsz == 640


def test_positional_arguments() -> None:
    names = ("data", "weights", "imgsz")
    assert name_positionals(("a", "b"), names, {"imgsz": 3}) == {"data": "a", "weights": "b", "imgsz": 3}
    with pytest.raises(InputError, match="given twice, by position and by name: weights"):
        name_positionals(("a", "b"), names, {"weights": "c"})
    with pytest.raises(InputError, match="4 positional arguments; there are 3: data, weights, imgsz"):
        name_positionals((1, 2, 3, 4), names, {})


def test_the_options_of_a_whole_parser_are_set_if_they_differ() -> None:
    """`export.run(**vars(opt))`: data/coco128.yaml must not count as a data set that the user named."""
    command = ExportCommand(ExportConfig, EXPORT_ORDER)
    options = {**vars(parse_options(ExportConfig, [])), "weights": "a.pt", "imgsz": 64, "include": ["torchscript"]}
    named = command.name_options((), options)
    assert named == {"weights": "a.pt", "imgsz": 64, "include": ["torchscript"]}
    assert command.name_options((), {"data": "data/coco128.yaml"}) == {"data": "data/coco128.yaml"}


def test_star_imports_give_the_functions_of_export() -> None:
    names = runpy.run_path(str(ROOT / "export.py"))["__all__"]
    assert {"run", "export_onnx", "export_torchscript", "export_formats", "try_export"} <= set(names)
