"""Classification from the command line and from Python, on tiny class folders."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import detect
import train
import val
from classify import predict as classify_predict
from classify import train as classify_train
from classify import val as classify_val
from models.classifiers import build_classifier
from models.graph import load_model_yaml
from tests.class_sets import CLASSES, write_class_set
from utils.core.errors import InputError
from utils.imaging.read import read_image
from utils.tasks.networks import load_checkpoint

Run = Callable[..., subprocess.CompletedProcess[str]]
QUICK = {"imgsz": 64, "batch_size": 4, "workers": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def class_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_set(tmp_path_factory.mktemp("class sets") / "ein Satz")


@pytest.fixture(scope="module")
def trained(class_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """best.pt of a classifier that separates dark from bright images."""
    project = str(tmp_path_factory.mktemp("trained"))
    options = {"data": str(class_set), "project": project, "epochs": 30, "lr0": 0.01, "cutoff": 4, "noplots": True}
    result = classify_train.run(model="yolov5n.yaml", **QUICK, **options)
    assert result.metrics["metrics/accuracy_top1"] == 1.0
    assert result.best is not None
    return result.best


def test_train_from_the_command_line(class_set: Path, tmp_path: Path, run_script: Run) -> None:
    flags = ["--model", "yolov5n.yaml", "--img", 64, "--batch", 4, "--workers", 0, "--device", "cpu", "--epochs", 1]
    result = run_script(Path("classify/train.py"), "--data", class_set, *flags, "--noplots", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs/train-cls/exp/weights/best.pt").is_file()
    error = run_script(Path("classify/train.py"), "--data", tmp_path, *flags, cwd=tmp_path)
    assert error.returncode == 2
    assert "no folder train, val or test" in error.stderr
    assert "Traceback" not in error.stderr


def test_both_val_scripts_agree(class_set: Path, trained: Path, tmp_path: Path) -> None:
    options = {"weights": str(trained), "data": str(class_set), "imgsz": 64, "workers": 0, "device": "cpu"}
    top1, top5, loss = classify_val.run(**options, project=str(tmp_path))
    assert (top1, top5) == (1.0, 1.0)
    assert 0 < loss < 0.7
    assert (tmp_path / "exp" / "test_images.jpg").is_file()
    assert (tmp_path / "exp" / "confusion_matrix.png").is_file()
    metrics, per_class, speed = val.run(**options, noplots=True, project=str(tmp_path))
    assert metrics == pytest.approx((top1, top5, loss), abs=1e-6)
    assert per_class.tolist() == [1.0, 1.0]
    assert len(speed) == 3
    with pytest.raises(InputError, match="--save-json: not supported for this task"):
        val.run(**options, save_json=True)
    other = write_class_set(tmp_path / "other")
    (other / "train" / "third").mkdir()
    with pytest.raises(InputError, match=r"has 2 classes, .*other names 3"):
        val.run(**{**options, "data": str(other)})


def test_verbose_controls_the_rows_per_class(
    class_set: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"weights": str(trained), "data": str(class_set), "imgsz": 64, "workers": 0, "device": "cpu"}
    for verbose in (True, False):
        caplog.clear()
        with caplog.at_level("INFO"):
            classify_val.run(**options, verbose=verbose, noplots=True, project=str(tmp_path))
        assert bool(re.search(rf"^ +{CLASSES[0]} ", caplog.text, re.MULTILINE)) == verbose


def test_train_py_accepts_classifiers(class_set: Path, trained: Path, tmp_path: Path) -> None:
    options = {**QUICK, "data": str(class_set), "project": str(tmp_path), "epochs": 1, "noplots": True}
    tuned = train.run(weights=str(trained), **options)  # the checkpoint decides the task
    assert len(load_checkpoint(tuned.last).model.model) == 4
    assert load_checkpoint(tuned.last).opt["optimizer"] == "Adam"
    truncated = train.run(weights="", cfg="yolov5n.yaml", task="classify", **options)
    assert load_checkpoint(truncated.last).task == "classify"


def test_pretrained_false_uses_only_the_architecture(class_set: Path, trained: Path, tmp_path: Path) -> None:
    options = {**QUICK, "data": str(class_set), "project": str(tmp_path), "noplots": True, "epochs": 1, "lr0": 0}
    weights = [
        load_checkpoint(classify_train.run(model=str(trained), pretrained=choice, **options).last).state_dict
        for choice in (True, False)
    ]
    original = load_checkpoint(trained).state_dict["model.0.conv.weight"]
    same = [torch.allclose(state["model.0.conv.weight"], original, atol=1e-3) for state in weights]
    assert same == [True, False]


def test_fine_tuning_an_official_classifier(class_set: Path, tmp_path: Path) -> None:
    """A constructed file: a pickled module without YAML, as the official releases."""
    model = build_classifier({**load_model_yaml("yolov5n.yaml"), "width_multiple": 0.125}, 5).half()
    del model.yaml, model.yaml_file
    file = tmp_path / "constructed-cls.pt"
    torch.save({"epoch": -1, "best_fitness": None, "model": model, "ema": None, "optimizer": None}, file)
    options = {**QUICK, "data": str(class_set), "project": str(tmp_path), "noplots": True, "epochs": 1, "lr0": 0}
    tuned = load_checkpoint(classify_train.run(model=str(file), **options).last)
    expected = load_checkpoint(file).state_dict["model.4.cv1.conv.weight"]
    assert torch.equal(tuned.state_dict["model.4.cv1.conv.weight"], expected)
    assert tuned.state_dict["model.9.linear.weight"].shape == (2, 1280)


def test_predictions_are_written_and_drawn(class_set: Path, trained: Path, tmp_path: Path) -> None:
    options = {"weights": str(trained), "imgsz": 64, "device": "cpu", "save_txt": True, "project": str(tmp_path)}
    bright = class_set / "val" / CLASSES[1]
    for number, run in enumerate((classify_predict.run, detect.run), start=1):
        summary = run(source=str(bright), save_csv=True, **options)
        assert summary.save_dir is not None
        assert (summary.images, summary.save_dir.name) == (4, "exp" if number == 1 else "exp2")
        lines = (summary.save_dir / "labels" / "0.txt").read_text(encoding="utf-8").splitlines()
        shares, names = zip(*(line.split(" ", 1) for line in lines), strict=True)
        assert names == (CLASSES[1], CLASSES[0])
        assert sum(map(float, shares)) == pytest.approx(1, abs=1e-4)
        rows = (summary.save_dir / "predictions.csv").read_text(encoding="utf-8").splitlines()
        assert rows[1].startswith(f"0.png,{CLASSES[1]},0.")
        drawn, plain = read_image(summary.save_dir / "0.png"), read_image(bright / "0.png")
        assert drawn.shape == plain.shape
        assert (drawn != plain).any()
    with pytest.raises(InputError, match="--conf-thres: not supported for this task"):
        detect.run(source=str(bright), conf_thres=0.5, **options)


def test_evolution_of_classifier_hyperparameters(class_set: Path, tmp_path: Path) -> None:
    options = {**QUICK, "epochs": 1, "noplots": True, "cutoff": 4}
    classify_train.run(data=str(class_set), model="yolov5n.yaml", evolve=2, project=str(tmp_path), **options)
    header, *rows = (tmp_path / "exp/evolve.csv").read_text().splitlines()
    columns = [cell.strip() for cell in header.split(",")]
    results = ["val/loss", "metrics/accuracy_top1", "metrics/accuracy_top5"]
    assert columns == [*results, "lr0", "lrf", "momentum", "weight_decay", "fitness", "generation"]
    assert float(rows[0].split(",")[3]) == 0.001  # from the recipe of the task
    assert len(rows) == 2
