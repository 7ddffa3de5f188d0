"""Check what a release would upload: `python package/release_check.py [--out dist]`.

Builds source distribution and wheel of both projects, checks their metadata, names and license, and writes a software
bill of materials (CycloneDX) of this environment.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = {ROOT: "openyolov5", ROOT / "package" / "compat": "yolov5"}  # folder: the package that its wheel installs
MAX_BYTES = 2_000_000  # of a wheel
SBOM = "sbom.cdx.json"


def main() -> int:
    """Run all checks; 0, or 1 after the lines that say what is wrong."""
    parser = argparse.ArgumentParser(description="Check what a release would upload.")
    parser.add_argument("--out", type=Path, help="empty folder for the files (default: a temporary one)")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as temporary:
        folder = (out or Path(temporary)).resolve()
        problems = [
            problem for source, package in PROJECTS.items() for problem in check_project(source, package, folder)
        ]
        files = sorted(folder.glob("*.whl")) + sorted(folder.glob("*.tar.gz"))
        run("twine", "check", "--strict", *map(str, files))
        problems += write_sbom(folder / SBOM)
        for file in files:
            print(f"{file.name}: {file.stat().st_size / 1e3:.0f} kB")
    print("\n".join(f"error: {problem}" for problem in problems) or "release check: no problems")
    return 1 if problems else 0


def run(module: str, *arguments: str) -> None:
    """Run a module of a tool; its output is shown if it fails, which ends the check."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nerror: {module} ended with status {done.returncode}")


def check_project(source: Path, package: str, out: Path) -> list[str]:
    """Build a project into `out`; what is wrong with its files."""
    with tempfile.TemporaryDirectory() as folder:
        run("build", "--no-isolation", "--outdir", folder, str(source))
        (wheel,), (archive,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
        problems = check_wheel(wheel, package) + check_archive(archive)
        out.mkdir(parents=True, exist_ok=True)
        for file in (wheel, archive):
            (out / file.name).write_bytes(file.read_bytes())
    return problems


def check_wheel(wheel: Path, package: str) -> list[str]:
    """Problems of a wheel: size, platform, top-level names, license, type information."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    others = {name.split("/")[0] for name in names} - {package, info}
    problems = [f"{wheel.name}: installs {name}, too" for name in sorted(others)]
    problems += [
        f"{wheel.name}: {name} is missing"
        for name in (f"{info}/licenses/LICENSE", f"{package}/__init__.py", f"{package}/py.typed")
        if name not in names
    ]
    if not wheel.name.endswith("-py3-none-any.whl"):
        problems.append(f"{wheel.name}: is not pure Python")
    if wheel.stat().st_size > MAX_BYTES:
        problems.append(f"{wheel.name}: larger than {MAX_BYTES} bytes")
    return problems


def check_archive(file: Path) -> list[str]:
    """Problems of a source distribution: license and project file."""
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    return [
        f"{file.name}: {name} is missing" for name in ("LICENSE", "pyproject.toml", "README.md") if name not in names
    ]


def write_sbom(file: Path) -> list[str]:
    """Write the components of this environment with versions and licenses; problems of the file."""
    project = str(ROOT / "pyproject.toml")
    flags = ("--pyproject", project, "--mc-type", "library", "--output-reproducible", "-o", str(file))
    run("cyclonedx_py", "environment", *flags)
    components = json.loads(file.read_text(encoding="utf-8")).get("components", [])
    print(f"{file.name}: {len(components)} components")
    names = {component["name"].lower() for component in components}
    return [f"{file.name}: {name} is missing" for name in ("torch", "numpy") if name not in names]


if __name__ == "__main__":
    sys.exit(main())
