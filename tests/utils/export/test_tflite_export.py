"""TensorFlow Lite and Edge TPU files: small graphs run in the slow tests, the compiler is a mock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_tensorflow_export import mock_tool, tensorflow_job
from tiny_jobs import NAMES, tiny_job

from utils.backends.registry import load_backend
from utils.backends.tflite import read_info
from utils.core.errors import InputError
from utils.export import tflite
from utils.export.tflite import compile_for_edgetpu, export_edgetpu, export_tflite, normalized_inside, save
from utils.export.verify import check_export

CPU = torch.device("cpu")
COPIES = (
    "source = Path(sys.argv[-1]); source.with_name(source.stem + '_edgetpu.tflite').write_bytes(source.read_bytes())"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "ending"),
    [
        ({}, ""),
        ({"batch": 2}, ""),
        ({"half": True}, "-fp16"),
        ({"int8": True}, "-int8"),
        ({"per_tensor": True}, "-int8"),
    ],
    ids=str,
)
def test_files_agree_with_pytorch(options: dict[str, Any], ending: str, tmp_path: Path, tiny_data: Path) -> None:
    for package in ("onnx2tf", "ai_edge_litert", "ai_edge_quantizer"):
        pytest.importorskip(package)
    options = {**options, "int8": ending == "-int8", "data": str(tiny_data) if ending == "-int8" else ""}
    job = tensorflow_job(tmp_path, **options)
    file = export_tflite(job)
    assert file.name == f"tiny mödel{ending}.tflite"
    report = check_export(job, file)
    assert report.figures is not None
    assert not report.figures.problems
    backend: Any = load_backend(file, device=CPU)
    assert (backend.names, backend.stride, backend.fixed_hw) == (NAMES, 16, (64, 96))
    assert backend.fixed_batch == options.get("batch", 1)
    types = {detail["dtype"].__name__ for detail in backend.interpreter.get_tensor_details()}
    assert ("int8" in types) == (ending == "-int8")
    images = torch.rand(3, 3, 64, 96)
    with torch.inference_mode():
        loose = {"atol": 4.0, "rtol": 0.1} if ending else {"atol": 2e-3, "rtol": 1e-4}
        torch.testing.assert_close(backend.forward(images), job.network.model(images)[0], **loose)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segment", "classify"])
def test_masks_and_probabilities_agree_with_pytorch(task: str, tmp_path: Path) -> None:
    for package in ("onnx2tf", "ai_edge_litert"):
        pytest.importorskip(package)
    job = tensorflow_job(tmp_path, task=task)
    report = check_export(job, export_tflite(job))  # raises where they differ
    assert report.figures is not None
    assert (report.figures.mask or 0) > 0.99 if task == "segment" else report.figures.mask is None


@pytest.mark.slow
def test_edge_tpu_files_are_whole_numbers_and_go_through_a_mock_compiler(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx2tf")
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    tool = mock_tool(tmp_path, "edgetpu_compiler", COPIES)
    monkeypatch.setattr(tflite, "find_compiler", lambda: str(tool))
    job = tensorflow_job(tmp_path, int8=True, data=str(tiny_data))
    file = export_edgetpu(job)
    assert file.name == "tiny mödel-int8_edgetpu.tflite"
    interpreter = litert.Interpreter(model_content=file.read_bytes())
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (source["dtype"].__name__, target["dtype"].__name__) == ("uint8", "uint8")
    assert all(detail["dtype"].__name__ != "float32" for detail in interpreter.get_tensor_details())
    plain = tmp_path / "whole numbers.tflite"
    plain.write_bytes(file.read_bytes())  # the mock changes nothing, so the processor can run it
    backend = load_backend(plain, device=CPU)
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected = job.network.model(images)[0]
    error = (backend.forward(images) - expected).abs()
    assert error[..., :4].mean() < 2  # pixels of 96; a scale for boxes in pixels and scores alike would be far off
    assert error[..., 4:].mean() < 0.02


def test_decoding_in_shares_of_the_sides_is_that_in_pixels_divided(tmp_path: Path) -> None:
    job = tensorflow_job(tmp_path)
    inside = normalized_inside(job)
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(inside.network(images), job.network(images))
        assert job.network.model(images)[0][..., :4].max() > 1  # the job's own model is as it was
    assert normalized_inside(inside) is inside


def test_the_description_follows_the_graph(tmp_path: Path) -> None:
    job = tensorflow_job(tmp_path)
    graph = b"\x18\0\0\0TFL3 graph"
    content = save(job, graph, job.target(".tflite")).read_bytes()
    assert content.startswith(graph)
    assert read_info(content, "m") == job.info


def test_int8_needs_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--int8: needs images to calibrate on; .* --data"):
        export_tflite(tensorflow_job(tmp_path, int8=True))


def test_edge_tpu_without_its_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"need edgetpu_compiler .* on the PATH: https://coral\.ai"):
        export_edgetpu(tensorflow_job(tmp_path))


def test_a_mock_compiler_that_works_and_one_that_does_not(tmp_path: Path) -> None:
    source, job = tmp_path / "a b.tflite", tiny_job(tmp_path)
    source.write_bytes(b"graph")
    works = mock_tool(tmp_path, "works", COPIES)
    assert compile_for_edgetpu(str(works), source, job) == b"graph"
    (tmp_path / "a b_edgetpu.tflite").unlink()
    for body, words in (
        ("print('ERROR: not quantized'); sys.exit(1)", "ERROR: not quantized"),
        ("", "it says nothing"),
    ):
        fails = mock_tool(tmp_path, "fails", body)
        with pytest.raises(InputError, match=rf"edgetpu_compiler cannot compile it \({words}\)"):
            compile_for_edgetpu(str(fails), source, job)
    with pytest.raises(InputError, match="cannot be started"):
        compile_for_edgetpu(str(tmp_path / "absent"), source, job)
