"""The wheels: content, requirements, and what an installed package does outside the checkout."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import hubconf
from tests.detect_process import save_random_weights

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAX_BYTES = 2_000_000
COMMANDS = (
    *("train", "val", "detect", "export", "benchmark", "data", "anchors", "prune", "demo"),
    *("segment train", "segment val", "segment predict", "classify train", "classify val", "classify predict"),
    *("data check", "data split", "data convert", "data crops", "data fetch"),
)


def read_requirements(name: str) -> set[str]:
    """Read the requirements of a file, without those that it includes."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return {line for line in lines if line and not line.startswith("-r")}


def list_names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def copy_checkout(folder: Path) -> Path:
    """Copy what the wheel is built from."""
    for name in ("models", "utils", "segment", "classify", "data", "package"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored, copy_function=shutil.copyfile)
    for file in (*ROOT.glob("*.py"), *map(ROOT.joinpath, ("pyproject.toml", "README.md", "LICENSE"))):
        shutil.copyfile(file, folder / file.name)
    return folder


def test_content(wheel: Path) -> None:
    names = list_names(wheel)
    info = f"openyolov5-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {"openyolov5", info}
    assert {f"{info}/licenses/LICENSE", "openyolov5/py.typed", "openyolov5/data/coco.yaml"} <= set(names)
    page = {name for name in names if name.startswith("openyolov5/utils/serve/static/")}
    assert {"openyolov5/utils/serve/static/index.html", "openyolov5/utils/serve/static/app.js"} <= page
    assert {Path(name).suffix for name in page} == {".css", ".html", ".js", ".txt"}
    assert {Path(name).suffix for name in names if not name.startswith(info) and name not in page} <= {
        *(".py", ".yaml", ".jpg", ".md", ".typed")
    }
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size <= MAX_BYTES


def test_two_builds_are_equal(build: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    first = copy_checkout(tmp_path / "first")
    wheels = [build(first, tmp_path / "1").read_bytes(), build(first / "package/compat", tmp_path / "2").read_bytes()]
    second = first.rename(tmp_path / "second")
    for file in second.rglob("*.*"):
        file.touch()
    assert build(second, tmp_path / "3").read_bytes() == wheels[0]
    assert build(second / "package/compat", tmp_path / "4").read_bytes() == wheels[1]


def test_content_of_the_compat_wheel(compat_wheel: Path) -> None:
    names = list_names(compat_wheel)
    assert {name.split("/")[0] for name in names} == {"yolov5", "openyolov5_compat-0.1.0.dist-info"}
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    assert (ROOT / "LICENSE").read_bytes() == (ROOT / "package/compat/LICENSE").read_bytes()


def test_an_editable_install_is_refused(tmp_path: Path) -> None:
    code = f"from hatchling.build import build_editable; build_editable({str(tmp_path)!r})"
    command = [shutil.which("python") or "python", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "ValueError: the package is a copy of the checkout: use `pip install .`" in done.stderr


def test_requirements_are_those_of_the_files() -> None:
    assert set(PROJECT["dependencies"]) == read_requirements("requirements.txt")
    extras = PROJECT["optional-dependencies"]
    assert set(extras["dev"]) == read_requirements("requirements-dev.txt")
    exports = {Requirement(line).name for line in read_requirements("requirements-export.txt")}
    assert {Requirement(line).name for line in extras["export"]} <= exports
    loggers = (ROOT / "docs/loggers.md").read_text(encoding="utf-8")
    for line in extras["loggers"]:
        assert f"pip install {Requirement(line).name.replace('-', '_')}`" in loggers


def list_required(names: list[str]) -> dict[str, metadata.PackageMetadata]:
    """List the installed packages that some packages need, by name."""
    found: dict[str, metadata.PackageMetadata] = {}
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in found:
            continue
        distribution = metadata.distribution(name)
        found[name] = distribution.metadata
        needs = [Requirement(line) for line in distribution.requires or []]
        names += [need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    return found


def test_no_requirement_is_under_the_gpl() -> None:
    packages = list_required([Requirement(line).name for line in PROJECT["dependencies"]])
    assert len(packages) > 30
    for name, fields in packages.items():
        texts = [fields.get("License-Expression") or "", (fields.get("License") or "")[:300]]
        texts += [line for line in fields.get_all("Classifier") or [] if line.startswith("License")]
        assert not re.search(r"\bA?GPL|GNU (Affero )?General Public", " ".join(texts)), name


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_weights(tmp_path_factory.mktemp("weights") / "random.pt")


@pytest.fixture(scope="module")
def checks(python: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What installed_checks.py prints, run in an empty folder."""
    arguments = [Path(__file__).with_name("installed_checks.py"), weights, ROOT / "data/images/shapes_1.jpg"]
    command = [str(python), "-P", *map(str, arguments)]
    folder = tmp_path_factory.mktemp("empty")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def boxes(weights: Path) -> list[list[float]]:
    """Boxes of the checkout's hub model."""
    model = hubconf.custom(weights, device="cpu")
    model.conf = 0.0
    boxes: list[list[float]] = model(ROOT / "data/images/shapes_1.jpg", size=64).xyxy[0].tolist()
    assert len(boxes) > 10
    return boxes


def test_boxes_equal_those_of_the_checkout(checks: dict[str, Any], boxes: list[list[float]]) -> None:
    for values in (checks["package"]["boxes"], checks["package"]["pickled_boxes"], checks["compat"]["boxes"]):
        assert values == boxes
    assert checks["compat"]["predicted"] == [boxes, boxes]


def test_imports_of_the_package(checks: dict[str, Any]) -> None:
    values = checks["package"]
    assert values["light"]
    assert values["scripts_are_light"]
    assert values["runs"] == [True] * 4
    assert values["version"] == PROJECT["version"]
    assert values["address"] == "openyolov5.models.common"
    assert values["missing"] == "module 'openyolov5' has no attribute 'nothing'"
    assert values["path_is_unchanged"]
    assert values["checkout"] == []
    assert {"openyolov5.models.yolo", "openyolov5.segment.train", "openyolov5.utils.demo"} <= set(values["modules"])
    assert len(values["modules"]) > 200
    assert len(values["lazy"]) > 50
    assert all(values["lazy"])


def test_interface_of_the_package_yolov5(checks: dict[str, Any]) -> None:
    values = checks["compat"]
    assert values["version"] == "7.0.14"
    assert values["same_scripts"]
    general = "openyolov5.utils.general"
    assert values["names"] == [general, general, "openyolov5.classify.predict", "openyolov5.segment.predict"]
    assert values["class"] == ["yolov5.models.common", True]
    assert values["pickled"]
    assert values["errors"] == [
        "AttributeError: module 'yolov5' has no attribute 'nothing'",
        "ModuleNotFoundError: No module named 'yolov5.utils.nothing'",
    ]


def test_help_of_every_command_needs_no_torch(run_installed: Run) -> None:
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'cv2', 'numpy', 'matplotlib', 'pandas'):\n"
        "            raise ImportError('heavy import: ' + name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from openyolov5.cli import main\n"
        f"for command in {COMMANDS}:\n"
        "    try:\n"
        "        main([*command.split(), '--help'])\n"
        "    except SystemExit as end:\n"
        "        assert not end.code, command\n"
    )
    done = run_installed("python", "-c", code)
    assert done.returncode == 0, done.stderr
    usages = re.findall(r"^usage: openyolov5 ([a-z ]+) (?:\[|COMMAND|-)", done.stdout, re.MULTILINE)
    assert usages == list(COMMANDS)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ("", 0, "usage: openyolov5 COMMAND"),
        ("--version", 0, f"openyolov5 {PROJECT['version']}"),
        ("segment", 2, "  segment train "),
        ("segment --help", 0, "  segment train "),
        ("segment trian", 2, "error: openyolov5 segment trian: no such command; did you mean segment train? known: "),
        ("trian", 2, "error: openyolov5 trian: no such command; did you mean train? known: "),
        ("anchors --n 0", 2, "error: --n 0: must be 1 or more"),
        ("train --nothing", 2, "openyolov5 train: error: unrecognized arguments: --nothing"),
    ],
)
def test_status_and_messages(words: str, status: int, text: str, run_installed: Run) -> None:
    done = run_installed("python", "-m", "openyolov5", *words.split())
    assert done.returncode == status
    assert text in done.stdout + done.stderr


def test_command_yolov5(checks: dict[str, Any], run_installed: Run) -> None:
    done = run_installed("yolov5", "segment")
    assert done.returncode == 2
    assert "  segment predict " in done.stdout
    assert checks["compat"]["words"] == ["export", "--include", "onnx", "tflite", "--weights", "a,b.pt"]
