from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from loopback import serve_folder
from torch import nn

from models.graph import load_model_yaml
from utils import general
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.tasks.classify import ClassificationTask
from utils.tasks.detect import DetectionTask

ROOT = Path(__file__).resolve().parents[3]


# -- versions and packages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current", "minimum", "pinned", "expected"),
    [
        ("1.10.0", "1.9.0", False, True),  # numbers, not text
        ("1.8.1", "1.9.0", False, False),
        ("1.9.0", "1.9.0", True, True),
        ("1.9.1", "1.9.0", True, False),
        ("2.1.0+cu118", "2.1", False, True),
        ("2.0.0a0", "2.0.0", False, False),
    ],
)
def test_check_version(current: str, minimum: str, pinned: bool, expected: bool) -> None:
    assert general.check_version(current, minimum, pinned=pinned) is expected


def test_check_version_messages(caplog: pytest.LogCaptureFixture) -> None:
    assert not general.check_version("1.0", "2.0", name="torch ", verbose=True)
    assert caplog.messages == ["WARNING torch 2.0 or later is required, 1.0 is installed"]
    with pytest.raises(InputError, match=r"torch 2.0 is required, 3.0 is installed"):
        general.check_version("3.0", "2.0", name="torch ", pinned=True, hard=True)
    with pytest.raises(InputError, match="Invalid version"):
        general.check_version("one", "2.0")


def test_check_python() -> None:
    general.check_python()
    with pytest.raises(InputError, match=r"Python 99.0 or later is required"):
        general.check_python("99.0")


def test_check_requirements(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert general.check_requirements(
        exclude=("albumentations", "faster-coco-eval")
    )  # requirements.txt of the checkout
    file = tmp_path / "requirements.txt"
    lines = ("# comment", "torch>=1.7", "", "no-package-1>=2  # why", "no-package-2", "-r other.txt")
    file.write_text("\n".join([*lines, "numpy>=999", "no-package-3; python_version < '3'"]))
    assert not general.check_requirements(file, ("no-package-2",), cmds="-U")
    assert caplog.messages == ["WARNING: missing packages: pip install 'no-package-1>=2' 'numpy>=999' -U"]
    assert general.check_requirements(["torch", "numpy>=1.0"], install=True)
    assert general.check_requirements("torch")
    assert general.AUTOINSTALL is False


def test_requirements_of_the_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no requirements.txt; a file that the caller names must exist."""
    monkeypatch.setattr("utils.general.checks.OWN_REQUIREMENTS", tmp_path / "requirements.txt")
    assert general.check_requirements(tmp_path / "requirements.txt")
    with pytest.raises(InputError, match=r"other.txt: cannot be read"):
        general.check_requirements(tmp_path / "other.txt")


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["a.pt", "A.PT", ["a.pt", "b.pt"], "", "name", Path("x/a.pt"), []])
def test_check_suffix_accepts(file: Any) -> None:
    general.check_suffix(file)


@pytest.mark.parametrize(
    ("file", "suffix", "message"),
    [("a.onnx", (".pt",), "a.onnx: expected a file with suffix .pt"), (["a.pt", "b.txt"], ".pt", "b.txt: expected")],
)
def test_check_suffix_refuses(file: Any, suffix: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        general.check_suffix(file, suffix)
    with pytest.raises(InputError, match=f"--weights {message}"):
        general.check_suffix(file, suffix, msg="--weights ")


def test_check_file(tmp_path: Path) -> None:
    assert general.check_file("") == ""
    (tmp_path / "own.yaml").touch()
    assert general.check_file(tmp_path / "own.yaml") == str(tmp_path / "own.yaml")
    assert Path(general.check_file("coco128.yaml")) == ROOT / "data/coco128.yaml"
    assert Path(general.check_yaml("yolov5s6.yaml")) == ROOT / "models/hub/yolov5s6.yaml"
    assert Path(general.check_yaml("yolov5s-seg.yaml")) == ROOT / "models/segment/yolov5s-seg.yaml"
    assert Path(general.check_yaml("hyp.scratch-low.yaml")) == ROOT / "data/hyps/hyp.scratch-low.yaml"
    with pytest.raises(InputError, match=r"expected a file with suffix .yaml or .yml"):
        general.check_yaml("a.txt")
    with pytest.raises(InputError, match=r"coco12.yaml: no such file; near: coco128.yaml"):
        general.check_file("coco12.yaml")


@pytest.mark.usefixtures("allow_private_urls")
def test_check_file_downloads_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with serve_folder(tmp_path / "served") as (folder, url):
        (folder / "my data.yaml").write_text("names: [a]")
        assert general.check_yaml(f"{url}/my%20data.yaml?token=1") == "my data.yaml"
        (folder / "my data.yaml").unlink()
        assert general.check_yaml(f"{url}/my%20data.yaml") == "my data.yaml"
    assert Path("my data.yaml").read_text() == "names: [a]"


def test_check_font_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert general.check_font(general.FONT) is None
    assert not list(tmp_path.iterdir())


# -- sizes, precision -------------------------------------------------------------------------------------------------


def test_check_img_size(caplog: pytest.LogCaptureFixture) -> None:
    assert general.check_img_size(640) == 640
    assert general.check_img_size(img_size=600, s=32) == 608  # 5.0
    assert general.check_img_size([600, 320], s=torch.tensor([8, 16, 64])) == [640, 320]
    assert general.check_img_size((32, 640), 32, floor=64) == [64, 640]
    assert len(caplog.messages) == 2


class Net(nn.Module):
    yaml: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)


def test_check_amp_on_a_cpu() -> None:
    assert general.check_amp(Net()) is False
    assert general.check_amp(nn.DataParallel(Net())) is False


@pytest.mark.parametrize(("kind", "task"), [("yaml", DetectionTask), ("plain", ClassificationTask)])
def test_check_amp_on_a_gpu(kind: str, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison gets the network, FP16, and the agreement of its task."""
    calls: list[tuple[Any, ...]] = []

    def compare(model: nn.Module, dtype: torch.dtype, device: torch.device, *, agree: Any) -> torch.dtype | None:
        calls.append((model, dtype, device, agree))
        return dtype if len(calls) == 1 else None

    network = Net()
    if kind == "yaml":
        network.yaml = load_model_yaml("yolov5n")
    gpu = torch.device("cuda:0")
    monkeypatch.setattr(network, "parameters", lambda: iter([SimpleNamespace(device=gpu)]))
    monkeypatch.setattr("utils.train.amp.check_amp", compare)
    assert general.check_amp(network) is True
    assert general.check_amp(network) is False
    assert calls[0] == (network, torch.float16, gpu, task.outputs_agree)


# -- data sets --------------------------------------------------------------------------------------------------------


def test_check_dataset(tiny_data: Path) -> None:
    data = general.check_dataset(tiny_data)
    root = tiny_data.parent
    assert data["train"] == str(root / "images/train")
    assert data["val"] == str(root / "images/val")
    assert "test" not in data
    assert data["path"] == root
    assert (data["nc"], data["names"]) == (2, {0: "square", 1: "disc"})
    assert data["yaml_file"] == str(tiny_data)


def test_check_dataset_of_a_mapping(tiny_data: Path) -> None:
    """As release 5.0 calls it: with the content of the YAML file."""
    root = tiny_data.parent
    content = yaml.safe_load(tiny_data.read_text()) | {"path": str(root), "names": ["square", "disc"], "nc": 2}
    content["train"] = ["images/train", "images/val"]
    data = general.check_dataset(dict=content)
    assert data["train"] == [str(root / "images/train"), str(root / "images/val")]
    assert data["names"] == {0: "square", 1: "disc"}
    assert content["train"] == ["images/train", "images/val"]
    with pytest.raises(InputError, match="train"):
        general.check_dataset(content | {"train": "images/missing"}, autodownload=False)


def test_check_dataset_without_data(tmp_path: Path) -> None:
    file = tmp_path / "data.yaml"
    file.write_text("train: images\nval: images\nnames: [a]\ndownload: https://host.invalid/a.zip\n")
    with pytest.raises(InputError, match=r"data.yaml: train: 'images' not found"):
        general.check_dataset(file, autodownload=False)
    with pytest.raises(InputError, match=r"nope.yaml: no such file"):
        general.check_dataset("nope.yaml")


def test_check_imshow_without_a_screen(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert not general.check_imshow()
    assert not caplog.messages
    assert not general.check_imshow(warn=True)
    assert "no display" in caplog.text
    assert LOGGER.name == "openyolov5"
