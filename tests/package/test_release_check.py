"""package/release_check.py: what it says of faulty files."""

from __future__ import annotations

import importlib.util
import os
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def release_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release_check", ROOT / "package" / "release_check.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_wheels_of_this_checkout_have_no_problems(wheel: Path, compat_wheel: Path, release_check: ModuleType) -> None:
    assert release_check.check_wheel(wheel, "openyolov5") == []
    assert release_check.check_wheel(compat_wheel, "yolov5") == []


def test_a_faulty_wheel(tmp_path: Path, release_check: ModuleType) -> None:
    file = tmp_path / "pkg-1.0-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("pkg/__init__.py", "utils/__init__.py", "pkg-1.0.dist-info/METADATA"):
            archive.writestr(name, "")
        archive.writestr("pkg/weights.bin", os.urandom(release_check.MAX_BYTES))
    assert release_check.check_wheel(file, "pkg") == [
        f"{file.name}: installs utils, too",
        f"{file.name}: pkg-1.0.dist-info/licenses/LICENSE is missing",
        f"{file.name}: pkg/py.typed is missing",
        f"{file.name}: is not pure Python",
        f"{file.name}: larger than 2000000 bytes",
    ]


def test_a_source_distribution_without_a_license(tmp_path: Path, release_check: ModuleType) -> None:
    file = tmp_path / "pkg-1.0.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name in ("README.md", "pyproject.toml"):
            archive.add(ROOT / name, f"pkg-1.0/{name}")
    assert release_check.check_archive(file) == ["pkg-1.0.tar.gz: LICENSE is missing"]


def test_a_failing_tool_ends_the_check(release_check: ModuleType) -> None:
    with pytest.raises(SystemExit, match="error: twine ended with status"):
        release_check.run("twine", "check", "missing.whl")
