"""SavedModel, GraphDef and TF.js: small graphs run in the slow tests, the converters' calls in the others."""

from __future__ import annotations

import shutil
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_jobs import NAMES, build_tiny_job

from utils.backends.registry import load_backend
from utils.backends.trust import UntrustedError
from utils.core.errors import InputError
from utils.export import tensorflow
from utils.export.base import ExportJob, ExportNetwork
from utils.export.onnx import build_onnx
from utils.export.tensorflow import (
    check_packages,
    export_graph_def,
    export_saved_model,
    export_tfjs,
    extract_error_line,
    find_converter,
    make_batch_dynamic,
    run_converter,
)
from utils.export.verify import check_export

CPU = torch.device("cpu")


def build_tensorflow_job(folder: Path, **options: Any) -> ExportJob:
    """Build a job with normalized boxes, as TensorFlow formats need."""
    job = build_tiny_job(folder, **options)
    network = ExportNetwork(job.network.model, normalized=True)
    return replace(job, network=network, info=replace(job.info, normalized=network.normalized))


def write_mock_tool(folder: Path, name: str, body: str) -> Path:
    """Write an executable that runs a Python script."""
    tool = folder / name
    tool.write_text(f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\n{body}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    return tool


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"batch": 3}, {"dynamic": True}, {"keras": True}], ids=str)
def test_saved_models_agree_with_pytorch(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnx2tf")
    job = build_tensorflow_job(tmp_path, **options)
    folder = export_saved_model(job)
    assert folder == tmp_path / "tiny mödel_saved_model"
    assert sorted(p.name for p in tmp_path.iterdir()) == [folder.name]
    check_export(job, folder)  # raises where they differ
    backend = load_backend(folder, device=CPU)
    assert (backend.names, backend.stride, backend.fixed_hw) == (NAMES, 16, (64, 96))
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(backend.forward(images), job.network.model(images)[0], atol=2e-3, rtol=1e-4)


@pytest.mark.slow
def test_a_damaged_saved_model_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnx2tf")
    folder = export_saved_model(build_tensorflow_job(tmp_path))
    graph, weights = folder / "saved_model.pb", next((folder / "variables").glob("*.data*"))
    content = graph.read_bytes()
    for damaged in (content[: len(content) // 2], b"no graph"):
        graph.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged or not a TensorFlow model") as caught:
            load_backend(folder, device=CPU)
        assert "\n" not in str(caught.value)
    graph.write_bytes(b"")
    with pytest.raises(InputError, match="no signature serving_default"):
        load_backend(folder, device=CPU)
    graph.write_bytes(content)
    shutil.rmtree(weights.parent)
    load_backend(folder, device=CPU)  # the signature has no variables
    with pytest.raises(InputError, match="cannot read it"):
        load_backend(folder, device=CPU, trust=True)


class WritesFile:
    """Functions of a SavedModel that write a file."""

    def __init__(self, tf: Any, file: Path) -> None:
        self.tf, self.file = tf, str(file)

    def call(self, images: Any) -> Any:
        self.tf.io.write_file(self.file, "made")
        return images


def save_model(tf: Any, folder: Path, function: Any, variable: Any = None) -> None:
    module = tf.Module()
    module.variable = variable
    module.call = tf.function(function, input_signature=[tf.TensorSpec([1, 32, 32, 3], tf.float32, name="x")])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.call})


@pytest.mark.slow
def test_programs_need_trust(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    made, folder = tmp_path / "made", tmp_path / "m_saved_model"
    save_model(tf, folder, WritesFile(tf, made).call)
    with pytest.raises(UntrustedError, match=r"m_saved_model: node .*: operator WriteFile may do more than compute"):
        load_backend(folder, device=CPU)
    function = tf.function(WritesFile(tf, made).call).get_concrete_function(tf.TensorSpec([1, 32, 32, 3], tf.float32))
    (tmp_path / "m.pb").write_bytes(function.graph.as_graph_def().SerializeToString())
    with pytest.raises(UntrustedError, match=r"m\.pb: node .*: operator WriteFile may do more than compute"):
        load_backend(tmp_path / "m.pb", device=CPU)
    assert not made.exists()
    backend: Any = load_backend(folder, device=CPU, trust=True)
    assert len(backend.run(torch.rand(1, 3, 32, 32))) == 1
    assert made.exists()


@pytest.mark.slow
def test_variables_need_trust(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    weight = tf.Variable(2.0)
    save_model(tf, tmp_path / "m_saved_model", lambda x: x * weight, weight)
    with pytest.raises(UntrustedError, match=r"operator (VarHandleOp|ReadVariableOp) may do more than compute"):
        load_backend(tmp_path / "m_saved_model", device=CPU)


@pytest.mark.slow
def test_only_the_signature_is_loaded(tmp_path: Path) -> None:
    """What TensorFlow would run when it loads the model, and other signatures, are left out."""
    tf = pytest.importorskip("tensorflow")
    module = tf.Module()
    spec = tf.TensorSpec([1, 32, 32, 3], tf.float32, name="x")
    module.call = tf.function(lambda x: tf.nn.relu(tf.function(tf.square)(x)), input_signature=[spec])
    module.other = tf.function(WritesFile(tf, tmp_path / "made").call, input_signature=[spec])
    signatures = {"serving_default": module.call, "other": module.other}
    tf.saved_model.save(module, str(tmp_path / "m_saved_model"), signatures=signatures)
    backend: Any = load_backend(tmp_path / "m_saved_model", device=CPU)
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(backend.run(images)[0], images.permute(0, 2, 3, 1) ** 2)
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_graphs_agree_with_pytorch_and_hold_metadata(dynamic: bool, tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("onnx2tf")
    job = build_tensorflow_job(tmp_path, dynamic=dynamic)
    file = export_graph_def(job)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny mödel.pb"]
    check_export(job, file)
    backend: Any = load_backend(file, device=CPU)
    assert (backend.names, backend.fixed_batch) == (NAMES, None if dynamic else 1)
    graph_def = tf.compat.v1.GraphDef()
    graph_def.ParseFromString(file.read_bytes())
    function = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
    assert function.prune("x:0", "Identity:0").inputs[0].shape[1:] == (64, 96, 3)


def test_dynamic_batch_gives_the_same_boxes(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    job = build_tensorflow_job(tmp_path)
    model = build_onnx(job)
    make_batch_dynamic(model, reshapes=True)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.rand(3, 3, 64, 96)
    (output,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(output, job.network(images).numpy(), atol=1e-5)


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow, "find_spec", lambda name: None if name == "onnx2tf" else name)
    with pytest.raises(InputError, match=r"TensorFlow exports need the packages onnx2tf: pip install tensorflow .*"):
        check_packages()


def test_error_line_of_a_converter(tmp_path: Path) -> None:
    assert extract_error_line("starts\nValueError: no such layer\n", "note\n") == "ValueError: no such layer"
    assert extract_error_line("", "one\n two \n") == "two"
    assert extract_error_line("", "") == "no output"
    tool = write_mock_tool(tmp_path, "convert it", "print('error: cannot'); sys.exit(3)")
    with pytest.raises(InputError, match=r"tiny mödel\.pt: convert it failed \(error: cannot\)"):
        run_converter([str(tool), "a b"], build_tiny_job(tmp_path))


def test_converter_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow, "TIMEOUT_S", 0.5)
    tool = write_mock_tool(tmp_path, "hang", "import threading; threading.Event().wait()")
    with pytest.raises(InputError, match=r"hang exceeded 0\.5 s"):
        run_converter([str(tool), "a"], build_tiny_job(tmp_path))


def test_tfjs_needs_its_converter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tensorflow.shutil, "which", lambda *_, **__: None)
    with pytest.raises(InputError, match=r"tensorflowjs_converter on the PATH; .*pip install tensorflowjs"):
        export_tfjs(build_tensorflow_job(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "flag"), [({}, ""), ({"half": True}, "float16"), ({"int8": True}, "uint8")])
def test_tfjs_with_a_mock_converter(
    option: dict[str, bool], flag: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    body = "made = Path(sys.argv[-1]); made.mkdir(); (made / 'model.json').write_text(repr(sys.argv[1:]))"
    write_mock_tool(tools, "tensorflowjs_converter", body)
    monkeypatch.setenv("PATH", str(tools), prepend=":")

    def write_graph(job: ExportJob) -> Path:
        assert not job.options.half
        file = job.get_path(".pb")
        file.write_bytes(b"graph")
        return file

    monkeypatch.setattr(tensorflow, "export_graph_def", write_graph)
    folder = export_tfjs(build_tensorflow_job(tmp_path, **option))
    assert folder == tmp_path / "tiny mödel_web_model"
    command = (folder / "model.json").read_text()
    for part in ("--input_format=tf_frozen_model", "--output_node_names=Identity'", f"quantize_{flag}" if flag else ""):
        assert part in command
    assert ("quantize" in command) == bool(flag)
    assert yaml.safe_load((folder / "metadata.yaml").read_text(encoding="utf-8"))["names"] == NAMES
    assert find_converter() == tools / "tensorflowjs_converter"
