"""Tests of the checkout, run against the installed package: `pytest -m slow -n 0 tests/package`."""

from __future__ import annotations

import os
import pickletools
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from utils.tasks.networks import load_checkpoint

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
FILES = (  # command lines, hub, and values computed by the original
    *("cli/test_train.py", "cli/test_val.py", "cli/test_detect.py", "cli/test_export.py"),
    *("models/test_forward_golden.py", "models/test_pretrained.py", "test_hubconf.py"),
    *(f"utils/ops/test_{name}.py" for name in ("nms", "boxes", "masks", "prototypes")),
    *("utils/losses/test_detection_loss.py", "utils/losses/test_segmentation_loss.py", "utils/metrics/test_ap.py"),
    *("utils/predict/test_autoshape.py", "utils/predict/test_predictor.py", "utils/imaging/test_letterbox.py"),
)
CHECKOUT_ONLY = (  # they load hubconf.py of a checkout by its path
    *("test_custom_from_another_folder_with_relative_paths", "test_the_checkout_by_a_relative_path"),
    *("test_an_imported_package_of_the_same_name_is_an_error", "test_a_module_without_a_file"),
    *("test_a_package_earlier_on_the_path_is_an_error", "test_without_the_checkout_on_the_path"),
    *("test_a_later_module_and_a_folder_without_code_do_not_matter", "test_classifiers_and_segmenters_by_name"),
)
ADDRESSES = (  # forms that the package itself does not use
    (r'setattr\(\s*"(models|utils)\.', r'setattr("openyolov5.\1.'),
    (r"^import ((?:models|utils)[\w.]*)\.(\w+)(?=\s*(?:#|$))", r"from \1 import \2"),
)
SCRIPT = 'import runpy\n\nrunpy.run_module("openyolov5.{module}", run_name="__main__", alter_sys=True)\n'

pytestmark = pytest.mark.slow


def write_project(folder: Path, hook: ModuleType) -> None:
    """Write a folder like a checkout's, without its source code: tests, data, and scripts that run the package."""
    for file in sorted((ROOT / "tests").rglob("*.py")):
        name = file.relative_to(ROOT / "tests")
        if name.name.startswith("test_") and name.as_posix() not in FILES:
            continue
        if name.parts[0] in ("package", "fuzz", "bench", "gpu"):
            continue
        source = file.read_text(encoding="utf-8")
        for pattern, replacement in ADDRESSES:
            source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
        copy = folder / "tests" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(hook.rewrite(source, name.as_posix()), encoding="utf-8")
    for name in hook.SCRIPTS:
        (folder / f"{name}.py").write_text(SCRIPT.format(module=name), encoding="utf-8")
    for group in ("segment", "classify"):
        (folder / group).mkdir()
        for name in ("train", "val", "predict"):
            (folder / group / f"{name}.py").write_text(SCRIPT.format(module=f"{group}.{name}"), encoding="utf-8")
    shutil.copytree(ROOT / "data", folder / "data")
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\nmarkers = slow\n", encoding="utf-8")
    if (ROOT.parent / "shared").is_dir():
        (folder.parent / "shared").symlink_to(ROOT.parent / "shared")


def test_the_suite_passes(build_hook: ModuleType, run_installed: Run, tmp_path: Path) -> None:
    folder = tmp_path / "empty" / "project"
    write_project(folder, build_hook)
    count = str(min(2, os.cpu_count() or 1))
    flags = ("-q", "-n", count, "-m", "not slow", "-k", f"not ({' or '.join(CHECKOUT_ONLY)})", "-p", "no:cacheprovider")
    done = run_installed("python", "-m", "pytest", *flags, "tests", cwd=folder, timeout=2400)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 200


def test_processes_and_workers_train_and_the_pickle_has_public_addresses(
    run_installed: Run, tiny_data: Path, tmp_path: Path
) -> None:
    flags = ("--weights", "", "--cfg", "yolov5n.yaml", "--img", 64, "--batch", 4, "--epochs", 1, "--noplots")
    flags = ("--data", tiny_data, *flags, "--workers", 2, "--device", "cpu,cpu")
    done = run_installed("openyolov5", "train", *flags)
    assert done.returncode == 0, done.stderr
    command = "python -m torch.distributed.run --standalone --nproc_per_node=2 -m openyolov5 train ..."
    assert f"starting 2 processes, as `{command}` does" in done.stdout + done.stderr
    weights = tmp_path / "runs/train/exp/weights/best.pt"
    done = run_installed("openyolov5", "export", "--weights", weights, "--include", "pickle", "--img", 64)
    assert done.returncode == 0, done.stderr
    file = weights.with_name("best_pickle.pt")
    with zipfile.ZipFile(file) as archive:
        content = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    names = {str(arg) for code, arg, _ in pickletools.genops(content) if code.name == "GLOBAL"}
    assert {"models.yolo DetectionModel", "models.common Conv"} <= names
    assert not [name for name in names if name.startswith("openyolov5")]
    expected, model = load_checkpoint(weights).model.state_dict(), load_checkpoint(file).model
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key].half().to(value.dtype)) for key, value in model.state_dict().items())


def test_programs_that_use_the_package_are_type_checked(python: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import openyolov5\n"
        "reveal_type(openyolov5.load('best.pt', 'cpu'))\n"
        "reveal_type(openyolov5.load('best.pt', autoshape=False))\n"
        "reveal_type(openyolov5.load('best.pt').forward('image.jpg'))\n"
        "openyolov5.load(3.5)\n"
        "reveal_type(openyolov5.train.run)\n"
    )
    command = [sys.executable, "-m", "mypy", "--python-executable", str(python), "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run([*command, str(program)], cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("program.py")]
    texts = [line.partition(": ")[2] for line in lines]
    assert len([text for text in texts if text.startswith("error")]) == 1, done.stdout
    assert "openyolov5.utils.predict.autoshape.AutoShape" in texts[0]
    assert "openyolov5.utils.predict.multi_backend.DetectMultiBackend" in texts[1]
    assert "openyolov5.utils.predict.detections.Detections" in texts[2]
    assert "No overload variant" in texts[3]
