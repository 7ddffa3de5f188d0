"""The scripts as modules: `from yolov5 import train`, `parse_opt`, `main`, and the arguments of `run`."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_jobs import TINY_GRAPH, build_tiny_model

import benchmarks
import detect
import export
import hubconf
import test as old_test
import train
import val
from classify import predict as classify_predict
from classify import train as classify_train
from classify import val as classify_val
from models.checkpoint import save_checkpoint
from segment import predict as segment_predict
from segment import train as segment_train
from segment import val as segment_val
from utils.callbacks import Callbacks
from utils.core.errors import InputError
from utils.core.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    "train": train, "val": val, "detect": detect, "export": export, "benchmarks": benchmarks,
    "segment/train": segment_train, "segment/val": segment_val, "segment/predict": segment_predict,
    "classify/train": classify_train, "classify/val": classify_val, "classify/predict": classify_predict,
}  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A checkpoint with random weights for the tiny set."""
    model = build_tiny_model()
    content = {"task": "detect", "yaml": model.yaml, "names": {0: "square", 1: "disc"}, "model": model.state_dict()}
    save_checkpoint(tmp_path / "tiny.pt", content)
    return tmp_path / "tiny.pt"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model YAML of a tiny network."""
    file = tmp_path_factory.mktemp("graph") / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY_GRAPH))
    return file


@pytest.fixture
def quick(tiny_data: Path, graph: Path, tmp_path: Path) -> dict[str, Any]:
    """Options of a short training."""
    shape = {"imgsz": [64], "epochs": 1, "batch_size": 4, "workers": 0, "device": "cpu", "noplots": True}
    return {"data": str(tiny_data), "weights": "", "cfg": str(graph), "project": tmp_path / "runs", **shape}


# -- imports -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_names_of_a_script(name: str) -> None:
    script: Any = SCRIPTS[name]
    assert (ROOT / f"{name}.py", ROOT) == (script.FILE, script.ROOT)
    assert all(callable(getattr(script, function)) for function in ("run", "main", "parse_opt"))
    assert pickle.loads(pickle.dumps(script.run)) is script.run  # for a pool of processes


@pytest.mark.parametrize("script", [train, segment_train, classify_train])
def test_ranks_and_revision(script: Any) -> None:
    assert (script.LOCAL_RANK, script.RANK, script.WORLD_SIZE) == (-1, -1, 1)
    assert script.LOGGER.info
    assert script.GIT_INFO.keys() == {"remote", "branch", "commit"}


@pytest.fixture
def above(tmp_path: Path) -> Path:
    """A folder of another project that has the checkout as `libs/yolov5`."""
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs/yolov5").symlink_to(ROOT)
    return tmp_path


@pytest.mark.parametrize("name", [*SCRIPTS, "test", "hubconf"])
def test_import_from_the_folder_above(name: str, above: Path) -> None:
    """Each script by itself finds the packages, and does not import torch for that."""
    code = (
        "import sys; sys.path.insert(0, 'libs'); from importlib.util import find_spec; "
        f"import yolov5.{name.replace('/', '.')}; print(find_spec('models').origin, 'torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=above, capture_output=True, text=True, check=False)
    assert process.stdout.split() == [str(ROOT / "models/__init__.py"), "False"], process.stderr


def test_run_from_the_folder_above(above: Path, weights: Path) -> None:
    lines = (
        "import sys; sys.path.insert(0, 'libs')",
        "from yolov5 import detect, train",
        "from yolov5.val import process_batch",
        f"options = dict(source={str(ROOT / 'data/images')!r}, imgsz=64, nosave=True)",
        f"print(detect.run(weights={str(weights)!r}, **options).images > 0)",
        "print(train.parse_opt(known=True).epochs)",
    )
    process = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=above, capture_output=True, text=True, check=False
    )
    assert process.stdout.split() == ["True", "100"], process.stderr


@pytest.mark.parametrize("name", ["detect.py", "test.py", "segment/val.py"])
def test_script_in_another_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "yolov5").symlink_to(ROOT)
    process = subprocess.run(
        [sys.executable, f"yolov5/{name}", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0 and f"usage: {Path(name).name}" in process.stdout


# -- parse_opt and main ------------------------------------------------------------------------------------------------


def test_train_main_takes_the_options(quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [
        "--data",
        quick["data"],
        "--weights",
        "",
        "--cfg",
        quick["cfg"],
        "--img",
        "64",
        "--workers",
        "0",
        "--noplots",
    ]
    monkeypatch.setattr(
        sys, "argv", ["program", *flags, "--epochs", "1", "--batch", "8", "--device", "cpu", "--mine", "x"]
    )
    opt = train.parse_opt(known=True)
    assert (opt.batch_size, opt.optimizer, opt.cache, opt.freeze) == (8, "SGD", None, [0])
    opt.batch_size, opt.project, opt.name, opt.save_pickle = 4, str(tmp_path / "runs"), "changed", True
    epochs: list[tuple[int, float, float]] = []
    callbacks = Callbacks()
    callbacks.register_action("on_fit_epoch_end", callback=lambda values, *numbers: epochs.append(numbers))
    assert train.main(opt, callbacks) == 0
    ((epoch, best, fitness),) = epochs
    assert epoch == 0 and best == fitness >= 0
    assert opt.save_dir == str(tmp_path / "runs/changed")
    assert read_yaml(tmp_path / "runs/changed/opt.yaml")["batch_size"] == 4
    pickled = torch.load(tmp_path / "runs/changed/weights/best_pickle.pt", weights_only=False)
    assert type(pickled["model"]).__name__ == "DetectionModel" and pickled["ema"] is None
    assert {path.name for path in (tmp_path / "runs/changed/weights").iterdir()} == {
        "best.pt",
        "best_pickle.pt",
        "last.pt",
    }


def test_val_and_detect_main(weights: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--weights", str(weights), "--img", "64", "--project", str(tmp_path / "runs"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["val.py", *flags, "--data", str(tiny_data), "--workers", "0", "--save-json"])
    val.main(val.parse_opt())
    assert (tmp_path / "runs/exp/tiny_predictions.json").is_file()
    monkeypatch.setattr(
        sys, "argv", ["detect.py", *flags, "--source", str(tiny_data.parent / "images/val"), "--nosave"]
    )
    opt = detect.parse_opt()
    assert opt.imgsz == [64, 64]
    opt.save_csv = True
    assert detect.main(opt) == 0
    assert (tmp_path / "runs/exp2/predictions.csv").is_file()
    monkeypatch.setattr(sys, "argv", ["export.py", "--weights", str(weights), "--img", "64", "--include", "pickle"])
    assert export.main(export.parse_opt()) == 0
    assert weights.with_name("tiny_pickle.pt").is_file()


# -- run ---------------------------------------------------------------------------------------------------------------


def test_train_run_returns_the_options(quick: dict[str, Any], tmp_path: Path) -> None:
    run = train.run(**quick, cache=True, evolve=False, resume=False, adam=True)
    assert isinstance(run, Namespace)
    assert (run.cache, run.optimizer, run.imgsz, run.epochs, run.evolve) == ("ram", "Adam", 64, 1, None)
    assert Path(run.save_dir) == tmp_path / "runs/exp" and run.best.is_file() and run.last.is_file()
    assert run.result.epochs == 1 and run.metrics == run.result.metrics
    assert len(vars(train.run(**quick, cache=False, name="other")).keys() & {"cache", "metrics", "save_dir"}) == 3
    metrics = val.run(quick["data"], run.best, 4, 64, workers=0, plots=False, device="cpu")[0]
    assert metrics[:4] == pytest.approx(list(run.metrics.values()), abs=2e-3)  # best.pt is in FP16


def test_signatures_of_run() -> None:
    """Names and order of v7.0, then the options that came later."""
    parameters = inspect.signature(detect.run).parameters
    assert list(parameters)[:4] == ["weights", "source", "data", "imgsz"]
    assert parameters["imgsz"].default == (640, 640) and parameters["conf_thres"].default == 0.25
    assert parameters["save_csv"].kind is inspect.Parameter.KEYWORD_ONLY
    names = list(inspect.signature(val.run).parameters)
    assert names[:4] == ["data", "weights", "batch_size", "imgsz"] and names[26:28] == ["callbacks", "compute_loss"]
    assert inspect.signature(segment_val.run).parameters["mask_downsample_ratio"].default == 1
    halves = [inspect.signature(script.run).parameters["half"].default for script in (val, segment_val, classify_val)]
    assert halves == [True, True, False]
    parameters = inspect.signature(export.run).parameters
    assert list(parameters)[5:7] == ["include", "half"] and parameters["include"].default == ("torchscript", "onnx")
    assert val.run.__doc__.startswith("Validate with the options")


def test_unknown_keywords_are_named(quick: dict[str, Any]) -> None:
    for run in (train.run, val.run, detect.run, export.run, benchmarks.run, segment_val.run, classify_predict.run):
        with pytest.raises(InputError, match="unknown option batchsize; known: "):
            run(batchsize=3)


def test_train_function_with_callbacks(quick: dict[str, Any], tmp_path: Path) -> None:
    """Seven numbers of the last validation; hyperparameters as a dict; the run folder of the options."""
    calls: list[tuple[str, tuple[Any, ...]]] = []

    class Callbacks:
        stop_training = False

        def register_action(self, hook: str, name: str = "", callback: Any = None) -> None: ...

        def run(self, hook: str, *args: Any, **kwargs: Any) -> None:
            calls.append((hook, (*args, *kwargs.values())))
            self.stop_training |= hook == "on_fit_epoch_end"

    hyp = read_yaml(ROOT / "data/hyps/hyp.scratch-low.yaml") | {"mosaic": 0.0}
    opt = Namespace(**{**quick, "epochs": 5}, save_dir=str(tmp_path / "mine"))
    numbers = train.train(hyp, opt, torch.device("cpu"), Callbacks())
    assert len(numbers) == 7 and all(number >= 0 for number in numbers) and numbers[4] > 0
    assert read_yaml(tmp_path / "mine/hyp.yaml")["mosaic"] == 0
    hooks = [hook for hook, _ in calls]
    assert hooks.count("on_train_epoch_end") == 1  # stop_training ended the run
    assert hooks.count("on_train_batch_end") == 3 and hooks.count("on_val_image_end") == 6
    found = dict(calls)
    labels, names = found["on_pretrain_routine_end"]
    assert labels.shape == (33, 5) and names == {0: "square", 1: "disc"}
    _, iteration, images, targets, paths, losses = found["on_train_batch_end"]
    assert iteration == 2 and images.shape == (4, 3, 64, 64) and targets.shape[1] == 6 and len(paths) == 4
    assert len(losses) == 3
    values, epoch, best, fitness = found["on_fit_epoch_end"]
    assert len(values) == 13 and epoch == 0 and best == fitness
    last, _, is_final, *_ = found["on_model_save"]
    assert last == tmp_path / "mine/weights/last.pt" and not is_final
    *_, epoch, results = found["on_train_end"]
    assert epoch == 0 and results == list(numbers)


def test_train_function_of_classifiers(tmp_path: Path, tiny_data: Path) -> None:
    import shutil

    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / "set" / split / label).mkdir(parents=True)
            for number in range(2):
                source = tiny_data.parent / f"images/val/00{number}.jpg"
                shutil.copy(source, tmp_path / "set" / split / label / f"{number}.jpg")
    options = {"model": "yolov5n.yaml", "data": str(tmp_path / "set"), "imgsz": 32, "epochs": 1, "batch_size": 2}
    opt = Namespace(**options, workers=0, noplots=True, save_dir=str(tmp_path / "run"))
    numbers = classify_train.train(opt, torch.device("cpu"))
    assert len(numbers) == 3 and 0 <= numbers[0] <= numbers[1] <= 1 and numbers[2] > 0


def test_val_run_by_position(weights: Path, tiny_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"plots": False, "workers": 0}
    seven = val.run(str(tiny_data), str(weights), 4, 64, 0.001, 0.6, 300, "val", "cpu", **options)
    six = val.run(str(tiny_data), str(weights), 4, 64, 0.001, 0.6, "val", "cpu", **options)
    spec = {"train": str(tiny_data.parent / "images/train"), "val": str(tiny_data.parent / "images/val")}
    content = {**spec, "path": tiny_data.parent, "names": {0: "square", 1: "disc"}, "nc": 2}
    mapping = val.run(content, weights=str(weights), batch_size=4, imgsz=64, device="cpu", **options)
    five = old_test.test(
        str(tiny_data), str(weights), 4, 64, 0.001, 0.6, False, plots=False, half_precision=False, is_coco=False
    )
    assert seven[0] == six[0] == mapping[0] == pytest.approx(five[0])
    assert seven[1].tolist() == six[1].tolist()


def test_detect_run_by_position(weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    source = str(tiny_data.parent / "images/val")
    options = {
        "project": str(tmp_path / "runs"),
        "nosave": True,
        "save_txt": True,
        "device": "cpu",
        "line_thickness": 3,
    }
    for args in (
        (weights, source, tiny_data, (64, 64), 0.001),
        (weights, source, 64, 0.001),
        (weights, source, (64, 64), 0.001),
    ):
        assert detect.run(*args, **options).images == 6
    texts = [sorted((tmp_path / "runs").glob(f"{name}/labels/*.txt")) for name in ("exp", "exp2", "exp3")]
    assert len(texts[0]) > 0
    for other in texts[1:]:
        assert [path.read_text() for path in other] == [path.read_text() for path in texts[0]]


def test_hub_create(weights: Path) -> None:
    assert type(hubconf._create(str(weights), device="cpu")).__name__ == "AutoShape"
    network = hubconf._create("yolov5n", pretrained=False, classes=3, device="cpu")
    assert (network.nc, len(network.names)) == (3, 3)


# -- order of errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["nope.yaml", "broken.yaml"])
def test_data_is_checked_before_weights_are_fetched(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.yaml").write_text("train: images\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("utils.train.settings.find_weights", lambda name: pytest.fail("weights were looked for"))
    with pytest.raises(InputError, match=re.escape(data)):
        train.run(data=data, weights="yolov5s.pt", epochs=1, device="cpu")
    with pytest.raises(InputError, match=re.escape(data)):
        train.run(data=data, weights="yolov5s.pt", epochs=1, device="cpu", evolve=True)


def test_pickles_of_tasks_without_a_class_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--save-pickle: the original releases have no class for task 'semantic'"):
        train.run(
            data="shapes.yaml",
            weights="",
            cfg="yolov5n-sem.yaml",
            save_pickle=True,
            device="cpu",
            project=str(tmp_path),
        )
