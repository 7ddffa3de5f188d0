"""Entry points of torch.hub, called from other folders and in separate processes."""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from slim_networks import SLIM

import hubconf
import utils.metrics.detection  # noqa: F401 - not later, on the meta device of test_every_graph_is_built
from models.checkpoint import save_checkpoint
from models.graph import load_model_yaml
from models.yolo import ClassificationModel, DetectionModel
from utils.core.errors import InputError
from utils.predict.autoshape import AutoShape
from utils.predict.multi_backend import DetectMultiBackend
from utils.tasks.networks import build_model

ROOT = Path(__file__).resolve().parents[1]
SIZES = [f"yolov5{size}{kind}" for kind in ("", "6", "-seg", "-cls") for size in "nsmlx"]
BEFORE = "import sys, os\nREPO = sys.argv[1]\n"


pytestmark = pytest.mark.usefixtures("restore_log")  # loading a model sets the log up


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("weights") / "best.pt", "yolov5n", "detect")


def make_checkpoint(file: Path, graph: str, task: str, classes: int = 2) -> Path:
    torch.manual_seed(0)
    description = {**load_model_yaml(graph), **SLIM, "nc": classes}
    model = build_model(description)
    names = {i: f"thing {i}" for i in range(classes)}
    save_checkpoint(file, {"task": task, "yaml": model.yaml, "names": names, "model": model.state_dict()})
    return file


def run_program(code: str, *, cwd: Path, repo: str | Path = ROOT, arguments: list[str] | None = None) -> Any:
    command = [sys.executable, "-c", BEFORE + code, str(repo), *(arguments or [])]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def image(file: Path) -> Path:
    cv2.imwrite(str(file), np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8))
    return file


def test_list_of_entry_points() -> None:
    """`torch.hub.list` and `torch.hub.help` show all callables without an underscore."""
    shown = [name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")]
    assert sorted(shown) == sorted(["custom", *SIZES])
    assert "ensemble" in hubconf.custom.__doc__
    for name in SIZES:
        data = "ImageNet" if name.endswith("-cls") else "COCO"
        assert getattr(hubconf, name).__doc__.startswith(f"{name}, trained on {data};")


@pytest.mark.parametrize("name", SIZES)
def test_parameters(name: str) -> None:
    parameters = inspect.signature(getattr(hubconf, name)).parameters
    assert {p.name: p.default for p in parameters.values()} == {
        "pretrained": True, "channels": 3, "classes": 1000 if name.endswith("-cls") else 80, "autoshape": True,
        "_verbose": True, "device": None,
    }  # fmt: skip
    parameters = list(inspect.signature(hubconf.custom).parameters)
    assert parameters == ["path", "autoshape", "_verbose", "device", "trust", "threads"]


@pytest.mark.parametrize("name", SIZES)
def test_every_graph_is_built(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubconf, "_select_device", lambda _: torch.device("meta"))  # without memory for the weights
    with torch.device("meta"):
        model = getattr(hubconf, name)(pretrained=False, channels=1, classes=4, _verbose=False)
    assert (model.yaml["ch"], model.nc, len(model.stride)) == (1, 4, 4 if name.endswith("6") else 3)


@pytest.mark.parametrize("counts", [{"classes": 0}, {"classes": "3"}, {"channels": 0}, {"channels": 2.0}])
@pytest.mark.parametrize("name", ["yolov5n", "yolov5n-cls"])
def test_counts_of_classes_and_channels(name: str, counts: dict[str, Any]) -> None:
    ((setting, value),) = counts.items()
    with pytest.raises(InputError, match=f"^{name}: {setting} {value!r} is not a positive integer$"):
        getattr(hubconf, name)(pretrained=False, _verbose=False, **counts)


def test_counts_may_be_numpy_integers() -> None:
    assert len(hubconf.yolov5n(pretrained=False, autoshape=False, classes=np.int64(3), _verbose=False).names) == 3


def test_custom_from_another_folder_with_relative_paths(checkpoint: Path, tmp_path: Path) -> None:
    """Lazy imports work after a change of the working directory."""
    image(tmp_path / "a.png")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "my best.pt").write_bytes(checkpoint.read_bytes())
    (tmp_path / "elsewhere").mkdir()
    code = (
        "import torch\n"
        "model = torch.hub.load(REPO, 'custom', path='weights/my best', source='local', device='cpu')\n"
        "results = model('a.png', size=96)\n"
        "os.chdir('elsewhere')\n"
        "results.pandas(), results.save(), results.crop()\n"
        "from models.common import Detections\n"
        "print(type(model).__name__, isinstance(results, Detections), model.names, results.files)\n"
    )
    process = run_program(code, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "AutoShape True {0: 'thing 0', 1: 'thing 1'} ['a.jpg']"
    assert (tmp_path / "elsewhere/runs/detect/exp/a.jpg").is_file()


def test_the_checkout_by_a_relative_path(checkpoint: Path, tmp_path: Path) -> None:
    """`torch.hub.load('.', ...)` puts '.' on sys.path; a later change of folder must not matter."""
    code = (
        "import torch\n"
        "model = torch.hub.load('.', 'custom', path=sys.argv[2], source='local')\n"
        "os.chdir(sys.argv[3])\n"
        "import numpy\n"
        "print(len(model(numpy.zeros((64, 96, 3), numpy.uint8), size=96).pandas().xyxy))\n"
        "untrained = torch.hub.load(sys.argv[1], 'yolov5n', pretrained=False, source='local')\n"
        "print(type(untrained).__name__, untrained.training, len(untrained.names))\n"
    )
    process = run_program(code, cwd=ROOT, arguments=[str(checkpoint), str(tmp_path)])
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-2:] == ["1", "DetectionModel True 80"]


@pytest.mark.parametrize("layout", ["utils.py", "models.py", "models/__init__.py", "models/own.py"])
def test_an_imported_package_of_the_same_name_is_an_error(tmp_path: Path, layout: str) -> None:
    file = tmp_path / layout
    file.parent.mkdir(exist_ok=True)
    file.write_text("own = 1\n")
    name = layout.partition("/")[0].removesuffix(".py")
    imported = layout.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    load = "import torch\ntorch.hub.load(REPO, 'yolov5n', source='local')\n"
    if name == "models":  # the same without the seconds that torch takes to import
        load = "sys.path.insert(0, REPO)\nimport hubconf\nhubconf.yolov5n()\n"
    process = run_program(f"import {imported}\n{load}", cwd=tmp_path)
    assert process.returncode == 1
    place = file.parent if layout == "models/own.py" else file  # a namespace package has no file
    assert process.stderr.splitlines()[-1] == (
        f"ImportError: OpenYOLOv5 needs its own package '{name}' in {ROOT}, but this program imports "
        f"{place}; rename that one, or load the model in a separate process"
    )


def test_a_module_without_a_file(tmp_path: Path) -> None:
    """Created by a program, as in tests."""
    code = "import types\nsys.modules['utils'] = types.ModuleType('utils')\nsys.path.insert(0, REPO)\n"
    process = run_program(f"{code}import hubconf\nhubconf.yolov5n()\n", cwd=tmp_path)
    assert "but this program imports no file; rename" in process.stderr


def test_a_package_earlier_on_the_path_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "utils.py").write_text("own = 1\n")
    code = "sys.path.append(REPO)\nimport hubconf\nhubconf.yolov5n(pretrained=False)\n"
    process = run_program(code, cwd=tmp_path)
    assert process.returncode == 1
    assert f"but this program imports {tmp_path / 'utils.py'}; rename" in process.stderr


def test_a_later_module_and_a_folder_without_code_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "utils.py").write_text("own = 1\n")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "best.pt").write_text("")
    load = "torch.hub.load(REPO, 'yolov5n', pretrained=False, source='local', _verbose=False)"
    code = f"import torch\n{load}\nimport utils.ops.nms\n"
    process = run_program(code, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""


def test_without_the_checkout_on_the_path(tmp_path: Path) -> None:
    code = (
        "import importlib.util\n"
        "spec = importlib.util.spec_from_file_location('hub', REPO + '/hubconf.py')\n"
        "hub = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(hub)\nhub.custom('a.pt')\n"
    )
    process = run_program(code, cwd=tmp_path)
    assert "needs its own package 'models'" in process.stderr
    assert "but this program imports no file" in process.stderr


def test_autoshape_wraps_and_fuses(checkpoint: Path) -> None:
    wrapped = hubconf.custom(str(checkpoint), _verbose=False, device="cpu", threads=1)
    assert torch.get_num_threads() == 1
    plain = hubconf.custom(checkpoint, autoshape=False, _verbose=False, device=torch.device("cpu"))
    assert isinstance(wrapped, AutoShape)
    assert isinstance(wrapped.model, DetectMultiBackend)
    assert isinstance(plain, DetectMultiBackend)
    norms = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()) for model in (wrapped, plain)]
    assert norms[0] == 0 < norms[1]  # fused only for inference
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(plain(images)[0], wrapped(images), atol=1e-3, rtol=1e-4)


def test_classifiers_with_and_without_autoshape(tmp_path: Path) -> None:
    network = ClassificationModel({**load_model_yaml("yolov5n"), **SLIM}, nc=2)
    names = {0: "cat", 1: "dog"}
    file = tmp_path / "other.pt"
    save_checkpoint(file, {"task": "classify", "yaml": network.yaml, "names": names, "model": network.state_dict()})
    results = hubconf.custom(file, _verbose=False)(image(tmp_path / "a.png"))
    assert (results.s, len(results.probs[0])) == ((1, 3, 224, 224), 2)
    model = hubconf.custom(file, autoshape=False, _verbose=False)
    assert isinstance(model, DetectMultiBackend)
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 2)
    with pytest.raises(InputError, match=r"^str: a model without AutoShape .* tensor of floats, normalized as in Imag"):
        model("bus.jpg")


def test_classifiers_and_segmenters_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With constructed checkpoints under the official names."""
    monkeypatch.chdir(tmp_path)
    make_checkpoint(tmp_path / "yolov5n-seg.pt", "yolov5n-seg", "segment")
    network = ClassificationModel({**load_model_yaml("yolov5n"), **SLIM}, nc=2)
    payload = {"task": "classify", "yaml": network.yaml, "names": {0: "a", 1: "b"}, "model": network.state_dict()}
    save_checkpoint(tmp_path / "yolov5n-cls.pt", payload)
    for name, task in (("yolov5n-seg", "segment"), ("yolov5n-cls", "classify")):
        model = torch.hub.load(str(ROOT), name, source="local", _verbose=False, device="cpu")
        assert (model.task, len(model.names)) == (task, 2)


def test_segmenters_with_autoshape_return_masks(tmp_path: Path) -> None:
    file = make_checkpoint(tmp_path / "other.pt", "yolov5n-seg", "segment")
    model = hubconf.custom(file, _verbose=False)
    model.conf, model.max_det = 1e-5, 3
    results = model(image(tmp_path / "a.png"), size=64)
    assert results.masks[0].dense().shape == (3, 64, 96)
    boxes, prototypes, _ = hubconf.custom(file, autoshape=False, _verbose=False)(torch.zeros(1, 3, 64, 64))
    assert (boxes.shape[2], prototypes.shape[1:]) == (5 + 2 + 32, (32, 16, 16))


def test_an_ensemble(checkpoint: Path, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other.pt", "yolov5n", "detect")
    model = hubconf.custom([checkpoint, other], _verbose=False)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 2 * 3 * (64 + 16 + 4), 7)


def test_verbose_decides_what_is_logged(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hubconf.custom(checkpoint, _verbose=False)
    assert capsys.readouterr().err == ""
    hubconf.custom(checkpoint)
    assert "torch" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["nowhere.pt", "path/to/nothing"])
def test_missing_files(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"{Path(path).with_suffix('.pt')}: no such checkpoint"):
        hubconf.custom(path, _verbose=False)
    with pytest.raises(InputError, match="--device 7"):
        hubconf.yolov5n(pretrained=False, device=7, _verbose=False)


def test_pretrained_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a connection (a mock), the message says where to put the file."""
    from urllib.error import URLError

    def refuse(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("utils.core.downloads.OpenerDirector.open", refuse)
    for options in ({}, {"classes": 4}):
        with pytest.raises(InputError, match=r"yolov5n6.pt: not found, download failed .*put the file at"):
            hubconf.yolov5n6(_verbose=False, **options)


def test_official_weights_are_found_in_the_working_directory(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "yolov5n.pt").symlink_to(shared / "weights" / "yolov5n.pt")
    model = hubconf.yolov5n(_verbose=False)
    assert len(model.names) == 80
    assert str(model(shared / "data/images/bus.jpg")).splitlines()[0] == "image 1/1: 1080x810 4 persons, 1 bus"

    four = hubconf.yolov5n(classes=4, _verbose=False)
    assert isinstance(four, DetectionModel)
    same = hubconf.yolov5n(channels=1, _verbose=False)
    assert same.names == model.names
    official = hubconf.yolov5n(autoshape=False, _verbose=False).model.state_dict()
    for built, differs in ((four, "model.24.m."), (same, "model.0.conv")):
        for key, value in built.state_dict().items():
            if "num_batches" not in key and "anchor" not in key:
                copied = value.shape == official[key].shape and torch.equal(value, official[key])
                assert copied != (differs in key), key


def test_as_a_script(checkpoint: Path, run_script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    process = run_script("hubconf.py", "--model", checkpoint.with_suffix(""), cwd=checkpoint.parent)
    assert process.returncode == 0, process.stderr
    assert [line.partition(" ")[0] for line in process.stdout.splitlines()[:2]] == ["image", "image"]
    process = run_script("hubconf.py", "--mod", "nowhere/my.pt")
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("error: nowhere/my.pt: no such checkpoint")


def test_help_is_fast(run_script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        process = run_script("hubconf.py", "--help")
        assert process.returncode == 0
        assert "--model" in process.stdout
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5
