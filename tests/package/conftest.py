"""The package, built from this checkout and installed into a virtual environment of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPAT = ROOT / "package" / "compat"
Run = Callable[..., subprocess.CompletedProcess[str]]


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a project into an empty folder, without a network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def build() -> Callable[[Path, Path], Path]:
    """`build(project, folder)`: the wheel of a project."""
    return build_wheel


@pytest.fixture(scope="session")
def build_hook() -> ModuleType:
    """The module package/build_hook.py."""
    spec = importlib.util.spec_from_file_location("build_hook", ROOT / "package" / "build_hook.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build_wheel(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def compat_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of package/compat."""
    return build_wheel(COMPAT, tmp_path_factory.mktemp("compat"))


@pytest.fixture(scope="session")
def python(wheel: Path, compat_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a virtual environment with both wheels; their requirements are those of the running one."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    hosts = {sysconfig.get_path(key) for key in ("purelib", "platlib")}
    (Path(paths["purelib"]) / "requirements.pth").write_text("\n".join(sorted(hosts)), encoding="utf-8")
    program = Path(paths["scripts"]) / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(program), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, str(wheel), str(compat_wheel)], check=True)
    return program


@pytest.fixture
def run_installed(python: Path, tmp_path: Path) -> Run:
    """Run Python or a command of the environment in an empty folder: `run_installed("openyolov5", "val", ...)`."""

    def run(
        program: str, *arguments: object, cwd: Path = tmp_path, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "LOCAL_RANK")}
        environment["YOLOv5_DATASETS_DIR"] = str(tmp_path / "datasets")
        command = [str(python.with_name(program)), *map(str, arguments)]
        options = {"capture_output": True, "text": True, "timeout": timeout, "check": False}
        return subprocess.run(command, cwd=cwd, env=environment, **options)  # type: ignore[call-overload]

    return run
