"""Write a static site that runs a model in the browser: `python -m utils.serve.export_page --weights best.onnx`."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.export_page import ExportPageConfig
from utils.core.errors import InputError
from utils.core.script import run_script

if TYPE_CHECKING:
    from utils.backends.onnxruntime import OnnxBackend

STATIC = Path(__file__).resolve().parent / "static"
PACKAGE = "onnxruntime-web@1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # base64
RUNTIME_FILES = (
    *("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    *("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
)
NPM_TIMEOUT = 300  # seconds
DEFAULT_SIZE = 640


def main(argv: Sequence[str] | None = None) -> None:
    """Write the site and print its folder."""
    config = ExportPageConfig.from_args(argv)
    weights, out = Path(config.weights), Path(config.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: exists and is not an empty folder; give another one")
    model = describe_model(weights, config)
    with tempfile.TemporaryDirectory() as folder:
        dist = find_runtime(Path(config.runtime) / "dist" if config.runtime else fetch_runtime(Path(folder)))
        write_site(out, weights, model, dist)
    print(f"written: {out}; open it from a file server: python -m http.server -d {out}")


def describe_model(weights: Path, config: ExportPageConfig) -> dict[str, Any]:
    """What the page needs to know of the model, in the form of GET /v1/model.

    Raises:
        InputError: the file is not an ONNX file that the page can run.
    """
    if weights.suffix.lower() != ".onnx":
        raise InputError(f"--weights {weights}: not an ONNX file; make one: python export.py --include onnx")
    if not weights.is_file():
        raise InputError(f"--weights {weights}: no such file")
    size = weights.stat().st_size
    if size > config.max_mb * 1e6:
        raise InputError(f"--weights {weights}: {size / 1e6:.1f} MB; export a smaller model, or raise --max-mb")
    import torch  # after the flags are checked, because torch is slow to import

    from utils.backends.onnxruntime import load_onnx

    backend = load_onnx([str(weights)], device=torch.device("cpu"))
    _check_model(weights, backend)
    return _to_description(weights, backend, config)


def _check_model(weights: Path, backend: OnnxBackend) -> None:
    """InputError for models that vision.js does not decode."""
    import torch

    info, shape = backend.info, backend.session.get_inputs()[0].shape
    if info.task != "detect":
        raise InputError(f"--weights {weights}: task {info.task}; the page runs only detection models in the browser")
    if info.nms:
        raise InputError(f"--weights {weights}: has NMS in its graph; export it without --nms")
    if backend.dtype != torch.float32 or info.channels != 3:
        raise InputError(f"--weights {weights}: needs float32 images of 3 channels; export it without --half")
    if isinstance(shape[0], int) and shape[0] != 1:
        raise InputError(f"--weights {weights}: fixed batch of {shape[0]} images; export it with --batch-size 1")


def _to_description(weights: Path, backend: OnnxBackend, config: ExportPageConfig) -> dict[str, Any]:
    from utils.imaging.colors import class_color

    info, fixed = backend.info, backend.fixed_hw
    if fixed and config.imgsz and (config.imgsz, config.imgsz) != tuple(fixed):
        raise InputError(f"--imgsz {config.imgsz}: the model has the fixed size {fixed[0]} x {fixed[1]}")
    if config.imgsz and config.imgsz % info.stride:
        raise InputError(f"--imgsz {config.imgsz}: must be a multiple of the stride {info.stride}")
    size = (config.imgsz, config.imgsz) if config.imgsz else info.imgsz or (DEFAULT_SIZE, DEFAULT_SIZE)
    names = {str(number): name for number, name in backend.names.items()}
    content = weights.read_bytes()
    return {
        "name": weights.stem,
        "task": info.task,
        "format": "ONNX",
        "names": names,
        "colors": {number: "#{:02x}{:02x}{:02x}".format(*class_color(int(number))) for number in names},
        "imgsz": list(fixed or size),
        "fixed": fixed is not None,
        "stride": info.stride,
        "channels": info.channels,
        "version": info.version,
        "sha256": hashlib.sha256(content).hexdigest(),
        "limits": None,
        "semantic_classes": None,
        "browser": {"model": "browser/model.onnx", "bytes": len(content)},
    }


def find_runtime(dist: Path) -> Path:
    """The folder `dist` of onnxruntime-web; InputError if a file is missing."""
    missing = [name for name in RUNTIME_FILES if not (dist / name).is_file()]
    if missing:
        raise InputError(f"--runtime: {dist / missing[0]} is missing; give the unpacked npm package {PACKAGE}")
    return dist


def fetch_runtime(folder: Path) -> Path:
    """Fetch the pinned package with npm into `folder`, check its hash and unpack the files needed."""
    remedy = "or give the unpacked package with --runtime"
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(f"npm is missing, which fetches {PACKAGE}; install Node.js, {remedy}")
    try:
        command = [npm, "pack", PACKAGE, "--pack-destination", str(folder)]
        subprocess.run(command, check=True, capture_output=True, timeout=NPM_TIMEOUT)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise InputError(f"npm could not fetch {PACKAGE}: check the network, {remedy}") from error
    archive = next(folder.glob("*.tgz"))
    if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != SHA512:
        raise InputError(f"{PACKAGE}: npm gave a file with another hash; check npm's settings, {remedy}")
    dist = folder / "dist"
    dist.mkdir()
    with tarfile.open(archive) as package:
        for name in RUNTIME_FILES:
            member = package.extractfile(f"package/dist/{name}")
            assert member is not None, "the hash is that of a package with these files"
            (dist / name).write_bytes(member.read())
    return dist


def write_site(out: Path, weights: Path, model: dict[str, Any], dist: Path) -> None:
    """Write page, model, description and runtime."""
    runtime = out / "browser" / "ort"
    runtime.mkdir(parents=True)
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    page = page.replace('data-model="v1/model"', 'data-model="model.json"')
    (out / "index.html").write_text(page, encoding="utf-8")
    shutil.copytree(STATIC, out / "static", ignore=shutil.ignore_patterns("index.html", "*.LICENSE.txt"))
    (out / "model.json").write_text(json.dumps(model, indent=1), encoding="utf-8")
    shutil.copyfile(weights, out / "browser" / "model.onnx")
    for name in RUNTIME_FILES:
        shutil.copyfile(dist / name, runtime / name)
    shutil.copyfile(STATIC / "onnxruntime-web.LICENSE.txt", runtime / "LICENSE.txt")


if __name__ == "__main__":
    run_script(main)
