"""Our checkpoint format, weight transfer, and finding weights."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.checkpoint import FORMAT, VERSION, load_training_state, save_checkpoint, strip_checkpoint, transfer_weights
from models.experimental import Ensemble
from models.graph import load_model_yaml
from models.yolo import BaseModel, ClassificationModel, DetectionModel, SegmentationModel
from utils.core.errors import InputError
from utils.tasks.networks import attempt_load, find_weights, load_checkpoint, load_model

ROOT = Path(__file__).resolve().parents[2]
IMAGE = torch.linspace(0, 1, 3 * 64 * 96).reshape(1, 3, 64, 96)


def small(name: str = "yolov5n.yaml", **changes: Any) -> dict[str, Any]:
    return {**load_model_yaml(name), "width_multiple": 0.125, "nc": 3, **changes}


def payload(model: BaseModel, **changes: Any) -> dict[str, Any]:
    """What the trainer hands over, in small."""
    return {
        "task": "detect",
        "yaml": model.yaml,
        "names": {0: "a", 1: "b", 2: "ж"},
        "model": model.state_dict(),
        "ema": None,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "ema_updates": 0,
        "scaler": {},
        "early_stop": {},
        "task_state": {},
        "epoch": 4,
        "best_fitness": np.float64(0.5),
        "hyp": {"lr0": 0.01},
        "opt": {"project": Path("runs/train"), "imgsz": 640, "hyp": None},
        **changes,
    }


def output(model: nn.Module, image: Tensor = IMAGE) -> Tensor:
    with torch.no_grad():
        found = model(image)
    return found if isinstance(found, Tensor) else found[0]


# -- our format -------------------------------------------------------------------------------------------------------


def test_round_trip_prefers_the_ema(tmp_path: Path) -> None:
    model, ema = DetectionModel(small()), DetectionModel(small())
    save_checkpoint(tmp_path / "last.pt", payload(model, ema=ema.half().float().state_dict()))
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(output(checkpoint.model), output(ema.eval()))
    assert not torch.equal(output(checkpoint.model), output(model.eval()))
    assert (checkpoint.task, checkpoint.epoch, checkpoint.official) == ("detect", 4, False)
    assert checkpoint.names == checkpoint.model.names == {0: "a", 1: "b", 2: "ж"}
    assert checkpoint.hyp == {"lr0": 0.01}
    assert checkpoint.opt["project"] == str(Path("runs/train"))
    assert not checkpoint.model.training


def test_file_is_plain_data(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", payload(DetectionModel(small())))
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (content["format"], content["version"]) == (FORMAT, VERSION)
    assert type(content["best_fitness"]) is float
    assert type(content["model"]) is dict
    assert content["image_weights"] is None


@pytest.mark.parametrize(
    ("task", "build"),
    [
        pytest.param("segment", lambda: SegmentationModel(small("yolov5n-seg.yaml", ch=4)), id="segment, 4 channels"),
        pytest.param("classify", lambda: ClassificationModel(small(), nc=7, cutoff=9), id="classify"),
        pytest.param("detect", lambda: DetectionModel(small(), anchors=4), id="4 anchors"),
        pytest.param("detect", lambda: DetectionModel(small("yolov5s-v1.yaml")), id="release 1.0"),
    ],
)
def test_other_networks_round_trip(tmp_path: Path, task: str, build: Any) -> None:
    model = build().eval()
    save_checkpoint(tmp_path / "last.pt", payload(model, task=task, names={i: str(i) for i in range(model.nc)}))
    loaded = load_checkpoint(tmp_path / "last.pt").model
    image = IMAGE[:, [0, 1, 2, 0]] if model.yaml.get("ch") == 4 else IMAGE
    assert type(loaded) is type(model)
    assert torch.equal(output(loaded, image), output(model, image))
    assert torch.equal(loaded.stride, model.stride)


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", payload(DetectionModel(small())))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(torch.rand(1), expected)


def test_invalid_content_is_reported(tmp_path: Path) -> None:
    model, file = DetectionModel(small()), tmp_path / "a.pt"
    wrong = {**model.state_dict(), "model.24.m.0.bias": torch.zeros(5)}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"task": "juggle"}, "task 'juggle' is not supported; known: detect, classify, .*; update this project"),
        ({"version": VERSION + 1}, f"checkpoint format {VERSION + 1}, this version reads up to {VERSION}; update"),
        ({"version": "x"}, "checkpoint format 'x'"),
        ({"model": wrong}, "its weights do not fit its own graph: .*model.24.m.0.bias"),
        ({"model": {}}, "its weights do not fit its own graph: .*Missing key"),
        ({"yaml": {"nc": 3}}, "its weights do not fit its own graph: model YAML: backbone"),
        ({"yaml": {"nc": "3"}}, "its weights do not fit its own graph"),
        ({"names": None}, "damaged checkpoint, names: None is not a mapping of class numbers to names; copy"),
    ]
    for changes, message in cases:
        save_checkpoint(file, payload(model))
        torch.save({**torch.load(file, weights_only=True), **changes}, file)
        with pytest.raises(InputError, match=message) as caught:
            load_checkpoint(file)
        assert str(caught.value).startswith(f"{file}: ")
        assert "\n" not in str(caught.value)
    torch.save({"format": FORMAT, "version": 1, "task": "detect"}, file)
    with pytest.raises(InputError, match=r"damaged checkpoint, it has no yaml, names, model, epoch; copy it again"):
        load_checkpoint(file)


def test_only_plain_values_are_written(tmp_path: Path) -> None:
    model = DetectionModel(small())
    for value in (model, np.zeros(2), {1}, lambda: 0):
        with pytest.raises(TypeError, match=rf"checkpoint: opt\.a\[1\] is {type(value).__name__}, not plain data"):
            save_checkpoint(tmp_path / "a.pt", payload(model, opt={"a": [1, value]}))
    with pytest.raises(ValueError, match="checkpoint without names, model"):
        save_checkpoint(tmp_path / "a.pt", {"task": "detect", "yaml": {}})
    assert not list(tmp_path.iterdir())


def test_training_state_round_trip(tmp_path: Path) -> None:
    model = DetectionModel(small())
    given = payload(model, ema=model.state_dict(), ema_updates=9, task_state={"balance": [4.0, 1.0]})
    save_checkpoint(tmp_path / "last.pt", given)
    state = load_training_state(tmp_path / "last.pt")
    assert {key: state[key] for key in ("epoch", "ema_updates", "task_state", "scaler")} == {
        "epoch": 4,
        "ema_updates": 9,
        "task_state": {"balance": [4.0, 1.0]},
        "scaler": {},
    }
    assert torch.equal(state["optimizer"]["state"][0]["momentum_buffer"], torch.ones(2))
    assert all(torch.equal(state["model"][k], v) for k, v in model.state_dict().items())
    assert list(state["model"]) == list(model.state_dict())


def test_files_without_training_state_are_refused(tmp_path: Path) -> None:
    model = DetectionModel(small())
    save_checkpoint(tmp_path / "best.pt", payload(model))
    strip_checkpoint(tmp_path / "best.pt")
    with pytest.raises(InputError, match=r"stripped, without training state; resume weights/last\.pt, or start"):
        load_training_state(tmp_path / "best.pt")
    torch.save({"epoch": 3, "model": copy.deepcopy(model), "optimizer": {"state": {}}}, tmp_path / "theirs.pt")
    with pytest.raises(InputError, match=r"not written by this train\.py, so it cannot be resumed; start"):
        load_training_state(tmp_path / "theirs.pt")


def test_strip_keeps_the_ema_in_half_precision(tmp_path: Path) -> None:
    model, ema = DetectionModel(small()), DetectionModel(small())
    state = ema.state_dict()
    state["model.0.bn.running_var"].fill_(1e6)  # more than FP16 holds
    state["model.24.anchors"] += 0.0001
    last = tmp_path / "last.pt"
    save_checkpoint(last, payload(model, ema=ema.state_dict(), task_state={"x": 1}, metrics={"m": 0.5}))
    assert strip_checkpoint(last, tmp_path / "small.pt") == tmp_path / "small.pt"
    content = torch.load(tmp_path / "small.pt", weights_only=True)
    weights, expected = content["model"], ema.state_dict()
    assert (content["epoch"], content["optimizer"], content["ema"], content["task_state"]) == (-1, None, None, None)
    assert (content["best_fitness"], content["metrics"], content["hyp"]) == (0.5, {"m": 0.5}, {"lr0": 0.01})
    full = [key for key, value in weights.items() if value.dtype == torch.float32]
    assert full == ["model.0.bn.running_var", "model.24.anchors"]
    assert all(torch.equal(weights[k], v if k in full else v.to(weights[k].dtype)) for k, v in expected.items())
    assert (tmp_path / "small.pt").stat().st_size < 0.3 * last.stat().st_size
    assert load_training_state(last)["epoch"] == 4  # the source is as it was
    assert next(load_checkpoint(tmp_path / "small.pt").model.parameters()).dtype == torch.float32


def test_strip_original_training_file(tmp_path: Path) -> None:
    """The EMA becomes the model, in FP16 and frozen; state of the training is dropped, the other keys stay."""
    model, ema = DetectionModel(small()), DetectionModel(small())
    ema.names, ema.hyp = {i: f"class {i}" for i in range(ema.nc)}, {"lr0": 0.02}
    content = {
        **{"epoch": 7, "best_fitness": np.array([0.5]), "model": model, "ema": copy.deepcopy(ema).half()},
        **{"updates": 9, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "wandb_id": "x"},
        **{"opt": {"epochs": 8, "save_dir": Path("runs/train/exp")}, "git": {"commit": "1"}, "date": "2023-01-02"},
    }
    file = tmp_path / "theirs.pt"
    torch.save(content, file)
    size = file.stat().st_size
    assert strip_checkpoint(file, tmp_path / "small.pt") == tmp_path / "small.pt"
    stripped = torch.load(tmp_path / "small.pt", weights_only=False)  # written by the line above
    assert stripped.keys() == content.keys()
    none = ("best_fitness", "ema", "updates", "optimizer", "wandb_id")
    assert {key: stripped[key] for key in none} == dict.fromkeys(none)
    assert (stripped["epoch"], stripped["git"], stripped["date"]) == (-1, {"commit": "1"}, "2023-01-02")
    assert stripped["opt"] == {"epochs": 8, "save_dir": "runs/train/exp"}
    assert {(p.dtype, p.requires_grad) for p in stripped["model"].parameters()} == {(torch.float16, False)}
    loaded = load_checkpoint(tmp_path / "small.pt")
    assert (loaded.names, loaded.hyp, loaded.epoch, loaded.official) == (ema.names, {"lr0": 0.02}, -1, True)
    for key, value in ema.half().float().state_dict().items():
        assert torch.equal(loaded.state_dict[key], value), key
    assert strip_checkpoint(file) == file  # in place
    assert file.stat().st_size < 0.6 * size


def test_strip_released_file(shared: Path, tmp_path: Path) -> None:
    source = shared / "weights" / "yolov5n.pt"
    target = strip_checkpoint(source, tmp_path / "yolov5n.pt")
    before, after = load_checkpoint(source), load_checkpoint(target)
    assert before.state_dict.keys() == after.state_dict.keys()
    assert all(torch.equal(value, after.state_dict[key]) for key, value in before.state_dict.items())
    assert (after.names, after.hyp, after.yaml) == (before.names, before.hyp, before.yaml)


def test_strip_refuses_files_without_a_network(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"weights\.pt: holds no network"):
        strip_checkpoint(tmp_path / "weights.pt")


FILL_DISK = """
import resource, signal, sys
import torch
from models.checkpoint import save_checkpoint
from utils.core.errors import InputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save_checkpoint(sys.argv[1], {"task": "detect", "yaml": {}, "names": {}, "model": {"w": torch.zeros(100_000)}})
except InputError as error:
    print(error)
"""
KILL = """
import os, signal, sys
import torch
from models.checkpoint import save_checkpoint
def save(content, file, _save=torch.save):
    file.write(b"half of it")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = save
save_checkpoint(sys.argv[1], {"task": "detect", "yaml": {}, "names": {}, "model": {}})
"""


def test_a_place_that_cannot_be_written_is_not_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"last\.pt: cannot be written \(.*\); choose a path that can be written$"):
        save_checkpoint(tmp_path / "file/last.pt", payload(DetectionModel(small())))


@pytest.mark.skipif(sys.platform == "win32", reason="limits and signals of POSIX")
@pytest.mark.parametrize(("code", "status"), [(FILL_DISK, 0), (KILL, -9)], ids=["full disk", "kill"])
def test_failed_save_leaves_the_old_file(tmp_path: Path, code: str, status: int) -> None:
    last = tmp_path / "last.pt"
    save_checkpoint(last, payload(DetectionModel(small())))
    before = last.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", code, str(last)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    assert last.read_bytes() == before
    if status == 0:
        assert f"{last}: cannot be written" in done.stdout
        assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    else:
        assert status == -signal.SIGKILL


# -- weight transfer --------------------------------------------------------------------------------------------------


def test_transfer_copies_matching_items(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 2), "anchor": nn.Linear(1, 1)})
    before = copy.deepcopy(model.state_dict())
    source = {
        "a.weight": torch.full((3, 2), 7.0).half(),
        "b.weight": torch.zeros(9, 9),  # another shape
        "c.weight": torch.zeros(1),  # not in the model
        "anchor.bias": torch.full((1,), 5.0),
    }
    assert transfer_weights(model, source, exclude=("anchor",)) == (1, 6)
    after = model.state_dict()
    assert after["a.weight"].tolist() == [[7.0, 7.0]] * 3
    assert after["a.weight"].dtype == torch.float32
    assert all(torch.equal(after[k], before[k]) for k in before if k != "a.weight")
    assert transfer_weights(model, source) == (2, 6)
    assert transfer_weights(model, {}) == (0, 6)


def test_transfer_counts_of_the_official_file(shared: Path) -> None:
    weights = load_checkpoint(shared / "weights" / "yolov5n.pt").state_dict
    model = DetectionModel("yolov5n.yaml")
    assert transfer_weights(model, weights) == (349, 349)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in weights.items())
    assert transfer_weights(model, weights, exclude=("anchor",)) == (348, 349)
    assert transfer_weights(DetectionModel("yolov5n.yaml", nc=3), weights) == (343, 349)


# -- models for inference ---------------------------------------------------------------------------------------------


@pytest.fixture
def two_files(tmp_path: Path) -> list[str]:
    files = [str(tmp_path / name) for name in ("one.pt", "two.pt")]
    for file in files:
        save_checkpoint(file, payload(DetectionModel(small())))
    return files


def test_model_for_inference_is_fused_or_not(two_files: list[str]) -> None:
    plain, fused = load_model(two_files[0], fuse=False), load_model(two_files[:1])
    assert len(fused.state_dict()) < len(plain.state_dict())
    assert not (fused.training or any(p.requires_grad for p in fused.parameters()))
    assert torch.allclose(output(fused), output(plain), rtol=1e-4, atol=1e-4)


def test_several_files_are_one_ensemble(two_files: list[str], tmp_path: Path) -> None:
    ensemble = load_model(two_files)
    assert isinstance(ensemble, Ensemble)
    singles = torch.cat([output(load_model(file)) for file in two_files], dim=1)
    assert torch.equal(output(ensemble), singles)
    assert ensemble.names == {0: "a", 1: "b", 2: "ж"}
    other = tmp_path / "other.pt"
    save_checkpoint(other, payload(DetectionModel(small(nc=2)), names={0: "a", 1: "b"}))
    with pytest.raises(InputError, match=r"other\.pt: 2 classes, but .*one\.pt has 3 classes; they must agree"):
        load_model([two_files[0], other])


def test_attempt_load_under_its_public_address(two_files: list[str]) -> None:
    from models import experimental

    assert experimental.attempt_load is attempt_load
    model = attempt_load(two_files[0], device=torch.device("cpu"), inplace=False, fuse=False)
    assert not any(getattr(module, "inplace", False) for module in model.modules())
    assert torch.allclose(output(model), output(load_model(two_files[0], fuse=False)), rtol=1e-5, atol=1e-5)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        experimental.nothing  # noqa: B018


# -- finding weights --------------------------------------------------------------------------------------------------


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow_private_urls: None) -> Iterator[tuple[Path, str]]:
    """A folder served on loopback as the releases page, and its address."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "releases"
    (folder / "download" / "v7.0").mkdir(parents=True)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder / "download" / "v7.0", f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_official_weights_are_downloaded_once_and_checked(
    releases: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = releases
    monkeypatch.chdir(tmp_path)
    torch.save({"epoch": -1, "model": DetectionModel(small()).half()}, folder / "yolov5n.pt")
    found = find_weights("yolov5n.pt", releases=address)
    assert found == Path("yolov5n.pt")
    assert load_checkpoint(found).official
    assert sorted(p.name for p in tmp_path.iterdir()) == ["releases", "yolov5n.pt"]
    (folder / "yolov5n.pt").unlink()
    assert find_weights("yolov5n.pt", releases=address) == found  # it is on disk now


def test_downloaded_file_that_is_not_a_checkpoint_is_removed(releases: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = releases
    (folder / "yolov5s.pt").write_bytes(b"<html>" * 50_000)
    with pytest.raises(InputError, match=r"yolov5s\.pt: not found, download failed \(.*a web page, not a checkpoint\)"):
        find_weights(tmp_path / "yolov5s.pt", releases=address)
    assert [p.name for p in tmp_path.iterdir()] == ["releases"]


def test_other_names_are_not_downloaded(tmp_path: Path) -> None:
    (tmp_path / "best.pt").touch()
    assert find_weights(tmp_path / "best.pt") == tmp_path / "best.pt"
    with pytest.raises(InputError, match=r"bset\.pt: no such checkpoint; near: best\.pt"):
        find_weights(tmp_path / "bset.pt")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(InputError, match=r"folder\.pt: is a folder, not a checkpoint; give a \.pt file"):
        find_weights(tmp_path / "folder.pt")
    with pytest.raises(InputError, match=r"yolo5s\.pt: no such checkpoint; near: yolov5s\.pt"):
        find_weights("yolo5s.pt")
    with pytest.raises(InputError, match=r"qqq: no such checkpoint; give the path of a \.pt file, or an official name"):
        find_weights("qqq")
