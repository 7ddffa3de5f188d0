"""TensorFlow Lite and Edge TPU exports: small graphs run in the slow tests, the compiler is a mock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_tensorflow_export import build_tensorflow_job, write_mock_tool
from tiny_jobs import NAMES, build_tiny_job

from utils.backends.registry import load_backend
from utils.backends.tflite import read_info
from utils.core.errors import InputError
from utils.export import tflite
from utils.export.tflite import compile_for_edgetpu, export_edgetpu, export_tflite, normalize_boxes_in_head, save_tflite
from utils.export.verify import check_export

CPU = torch.device("cpu")
COPY_SCRIPT = (
    "source = Path(sys.argv[-1]); source.with_name(source.stem + '_edgetpu.tflite').write_bytes(source.read_bytes())"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "suffix"),
    [
        ({}, ""),
        ({"batch": 2}, ""),
        ({"half": True}, "-fp16"),
        ({"int8": True}, "-int8"),
        ({"per_tensor": True}, "-int8"),
    ],
    ids=str,
)
def test_files_agree_with_pytorch(options: dict[str, Any], suffix: str, tmp_path: Path, tiny_data: Path) -> None:
    for package in ("onnx2tf", "ai_edge_litert", "ai_edge_quantizer"):
        pytest.importorskip(package)
    options = {**options, "int8": suffix == "-int8", "data": str(tiny_data) if suffix == "-int8" else ""}
    job = build_tensorflow_job(tmp_path, **options)
    file = export_tflite(job)
    assert file.name == f"tiny mödel{suffix}.tflite"
    report = check_export(job, file)  # raises MismatchError if they differ
    assert report.relative is not None and report.relative < 0.1
    backend: Any = load_backend(file, device=CPU)
    assert (backend.names, backend.stride, backend.fixed_hw) == (NAMES, 16, (64, 96))
    assert backend.fixed_batch == options.get("batch", 1)
    types = {detail["dtype"].__name__ for detail in backend.interpreter.get_tensor_details()}
    assert ("int8" in types) == (suffix == "-int8")
    images = torch.rand(3, 3, 64, 96)
    with torch.inference_mode():
        loose = {"atol": 4.0, "rtol": 0.1} if suffix else {"atol": 2e-3, "rtol": 1e-4}
        torch.testing.assert_close(backend.forward(images), job.network.model(images)[0], **loose)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segment", "classify"])
def test_masks_and_probabilities_agree_with_pytorch(task: str, tmp_path: Path) -> None:
    for package in ("onnx2tf", "ai_edge_litert"):
        pytest.importorskip(package)
    job = build_tensorflow_job(tmp_path, task=task)
    report = check_export(job, export_tflite(job))  # raises MismatchError if they differ
    assert report.relative is not None


@pytest.mark.slow
def test_edge_tpu_files_are_fully_quantized_and_compiled_by_a_mock(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx2tf")
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    tool = write_mock_tool(tmp_path, "edgetpu_compiler", COPY_SCRIPT)
    monkeypatch.setattr(tflite, "find_compiler", lambda: str(tool))
    job = build_tensorflow_job(tmp_path, int8=True, data=str(tiny_data))
    file = export_edgetpu(job)
    assert file.name == "tiny mödel-int8_edgetpu.tflite"
    interpreter = litert.Interpreter(model_content=file.read_bytes())
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (source["dtype"].__name__, target["dtype"].__name__) == ("uint8", "uint8")
    assert all(detail["dtype"].__name__ != "float32" for detail in interpreter.get_tensor_details())
    uncompiled = tmp_path / "full int8.tflite"
    uncompiled.write_bytes(file.read_bytes())  # the mock copies the file, so the CPU can run it
    backend = load_backend(uncompiled, device=CPU)
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected = job.network.model(images)[0]
    error = (backend.forward(images) - expected).abs()
    assert error[..., :4].mean() < 2  # pixels of 96; one scale for boxes in pixels and scores would be far off
    assert error[..., 4:].mean() < 0.02


def test_normalized_decoding_equals_divided_pixels(tmp_path: Path) -> None:
    job = build_tensorflow_job(tmp_path)
    normalized = normalize_boxes_in_head(job)
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(normalized.network(images), job.network(images))
        assert job.network.model(images)[0][..., :4].max() > 1  # the model of the job is unchanged
    assert normalize_boxes_in_head(normalized) is normalized


def test_metadata_follows_the_graph(tmp_path: Path) -> None:
    job = build_tensorflow_job(tmp_path)
    graph = b"\x18\0\0\0TFL3 graph"
    content = save_tflite(job, graph, job.get_path(".tflite")).read_bytes()
    assert content.startswith(graph)
    assert read_info(content, "m") == job.info


def test_int8_needs_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--int8 needs images for calibration; .* --data"):
        export_tflite(build_tensorflow_job(tmp_path, int8=True))


def test_edge_tpu_needs_its_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"need edgetpu_compiler .* on the PATH: https://coral\.ai"):
        export_edgetpu(build_tensorflow_job(tmp_path))


def test_compiler_success_and_failure(tmp_path: Path) -> None:
    source, job = tmp_path / "a b.tflite", build_tiny_job(tmp_path)
    source.write_bytes(b"graph")
    works = write_mock_tool(tmp_path, "works", COPY_SCRIPT)
    assert compile_for_edgetpu(str(works), source, job) == b"graph"
    (tmp_path / "a b_edgetpu.tflite").unlink()
    for body, reason in (
        ("print('ERROR: not quantized'); sys.exit(1)", "ERROR: not quantized"),
        ("", "no output"),
    ):
        fails = write_mock_tool(tmp_path, "fails", body)
        with pytest.raises(InputError, match=rf"edgetpu_compiler failed \({reason}\)"):
            compile_for_edgetpu(str(fails), source, job)
    with pytest.raises(InputError, match="cannot start it"):
        compile_for_edgetpu(str(tmp_path / "absent"), source, job)
