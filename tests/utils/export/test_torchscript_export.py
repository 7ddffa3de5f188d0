"""TorchScript exports: files, metadata, loading, damaged files."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from confident_jobs import build_confident_job
from tiny_jobs import NAMES

from models.classifiers import list_torchvision_names
from utils.backends.info import ModelInfo
from utils.backends.outputs import flatten_outputs
from utils.backends.registry import load_backend
from utils.backends.script_archive import read_script
from utils.backends.torchscript import read_info
from utils.config.base import ROOT
from utils.core.errors import InputError
from utils.export.base import ExportJob, ExportNetwork
from utils.export.torchscript import CONFIG_FILE, export_torchscript
from utils.export.verify import check_export
from utils.ops.nms import non_max_suppression
from utils.tasks.networks import build_model

CPU = torch.device("cpu")
Exported = Callable[..., tuple[ExportJob, Path]]


class Plain(torch.nn.Module):
    """Network of another tool."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat((images, images), dim=1).flatten(2).transpose(1, 2)  # (B, H*W, 5 + 1 class)


def save_script(file: Path, extra: dict[str, str]) -> Path:
    torch.jit.trace(Plain(), torch.zeros(1, 3, 64, 96)).save(str(file), _extra_files=extra)
    return file


def test_file_holds_metadata(exported: Exported) -> None:
    _, file = exported("torchscript")
    extra = {CONFIG_FILE: ""}
    torch.jit.load(str(file), _extra_files=extra)
    stored = json.loads(extra[CONFIG_FILE])
    assert (stored["shape"], stored["stride"]) == ([1, 3, 64, 96], 16)
    assert stored["names"] == {str(number): name for number, name in NAMES.items()}
    backend = load_backend(file, device=CPU)
    assert (backend.names, backend.stride, backend.fixed_hw) == (NAMES, 16, (64, 96))


def test_outputs_have_the_form_of_the_original(exported: Exported, tmp_path: Path) -> None:
    """A tuple of one tensor for boxes, of two for masks, a tensor for classes; detections of NMS are a tensor."""
    images = torch.rand(1, 3, 64, 96)
    job, file = exported("torchscript")
    outputs = torch.jit.load(str(file))(images)
    assert isinstance(outputs, tuple) and len(outputs) == 1
    torch.testing.assert_close(outputs[0], job.network(images))
    for task, shapes in (("segment", [3, 4]), ("classify", None)):
        job = build_confident_job(tmp_path, task=task, imgsz=(64, 96))
        outputs = torch.jit.load(str(export_torchscript(job)))(images)
        assert outputs.ndim == 2 if shapes is None else [output.ndim for output in outputs] == shapes
    _, file = exported("torchscript", nms=True)
    assert torch.jit.load(str(file))(images).shape[2] == 6


def test_static_graph_is_exact_for_any_batch(exported: Exported) -> None:
    job, file = exported("torchscript")
    backend = load_backend(file, device=CPU)
    for count in (1, 3):
        images = torch.rand(count, 3, 64, 96)
        torch.testing.assert_close(backend.forward(images), job.network(images))


@pytest.mark.parametrize("nms", [False, True])
def test_dynamic_graph_takes_any_size(nms: bool, exported: Exported) -> None:
    job, file = exported("torchscript", dynamic=True, nms=nms)
    backend = load_backend(file, device=CPU)
    for shape in ((1, 3, 64, 96), (3, 3, 32, 160), (2, 3, 16, 16)):
        images = torch.rand(shape)
        detections = non_max_suppression(backend.forward(images), 0.25, max_det=20)
        torch.testing.assert_close(detections, non_max_suppression(job.network.model(images), 0.25, max_det=20))
        assert len(detections[0])


def test_half(exported: Exported) -> None:
    job, file = exported("torchscript", half=True)
    backend = load_backend(file, device=CPU)
    assert backend.dtype == torch.float32
    assert {p.dtype for p in torch.jit.load(str(file)).parameters()} == {torch.float16}
    assert check_export(job, file).agreement.agreeing > 10
    images = torch.rand(1, 3, 64, 96)
    rounded = copy.deepcopy(job.network).half().float()  # the stored weights, computed in FP32
    torch.testing.assert_close(backend.forward(images)[..., 4:], rounded(images)[..., 4:], atol=1e-4, rtol=1e-3)


def test_optimize_for_mobile(tmp_path: Path) -> None:
    job = build_confident_job(tmp_path, optimize=True)
    try:
        file = export_torchscript(job)
    except InputError as error:
        assert "--optimize needs XNNPACK" in str(error)
    else:
        assert check_export(job, file).relative < 1e-4
    with pytest.raises(InputError, match="--optimize supports FP32 on the CPU only; leave out --half"):
        export_torchscript(build_confident_job(tmp_path, optimize=True, half=True))


def assert_needs_no_trust(network: torch.nn.Module, images: torch.Tensor, file: Path) -> None:
    """The traced network is loaded from the file without trust and computes the same."""
    with torch.inference_mode():
        torch.jit.trace(network, images, strict=False, check_trace=False).save(str(file))
        expected = flatten_outputs(network(images))
        outputs = flatten_outputs(torch.jit.load(read_script(file, file.name))(images))
    torch.testing.assert_close(outputs, expected, atol=1e-4, rtol=1e-3)
    file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_no_network_needs_trust(dynamic: bool, tmp_path: Path) -> None:
    """Every kind of network that a model YAML describes."""
    for yaml in sorted((ROOT / "models").rglob("*.yaml")):
        if re.search(r"anchors|5[mlx]", yaml.stem):  # no networks, or of the same layers as others
            continue
        network = build_model(yaml).eval().requires_grad_(False).fuse()
        assert_needs_no_trust(ExportNetwork(network, dynamic=dynamic), torch.rand(1, 3, 128, 128), tmp_path / yaml.stem)


@pytest.mark.slow
def test_no_torchvision_network_needs_trust(tmp_path: Path) -> None:
    """One of each kind of classifiers."""
    kinds = {re.split(r"[\d_]", name)[0]: name for name in reversed(list_torchvision_names())}
    assert len(kinds) > 15
    for name in (*kinds.values(), "mobilenet_v2", "mobilenet_v3_small", "swin_v2_t", "efficientnet_v2_s"):
        side = 299 if name == "inception_v3" else 224
        network = torchvision.models.get_model(name).eval().requires_grad_(False)
        assert_needs_no_trust(network, torch.rand(1, 3, side, side), tmp_path / name)


def test_original_file_has_a_static_shape(tmp_path: Path) -> None:
    config = {"shape": [1, 3, 64, 96], "stride": 32, "names": {"0": "ä b"}}
    backend = load_backend(save_script(tmp_path / "m.torchscript", {CONFIG_FILE: json.dumps(config)}), device=CPU)
    assert (backend.stride, backend.names, backend.fixed_hw) == (32, {0: "ä b"}, (64, 96))
    assert backend.forward(torch.rand(2, 3, 64, 96)).shape == (2, 64 * 96, 6)
    with pytest.raises(InputError, match="fixed image size 64x96"):
        backend.forward(torch.rand(1, 3, 64, 64))


def test_file_without_metadata(tmp_path: Path) -> None:
    backend = load_backend(save_script(tmp_path / "m.torchscript", {}), device=CPU, names={0: "x"})
    assert (backend.stride, backend.names, backend.fixed_hw) == (32, {0: "x"}, None)
    assert read_info("", "m") == ModelInfo()


def test_program_with_other_input(tmp_path: Path) -> None:
    file = tmp_path / "m.torchscript"
    torch.jit.trace(torch.nn.Linear(3, 3), torch.zeros(1, 3)).save(str(file))
    backend = load_backend(file, device=CPU)
    with pytest.raises(InputError, match=r"m\.torchscript: cannot run images of shape \(1, 3, 32, 64\) \(.*mat1 and"):
        backend.forward(torch.rand(1, 3, 32, 64))


def test_nested_outputs() -> None:
    """As in old exports: decoded rows, and a list of raw maps."""
    rows, heads = torch.zeros(1, 4, 6), [torch.zeros(1, 3, 2, 2, 6)] * 2
    assert [part.ndim for part in flatten_outputs((rows, heads))] == [3, 5, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').mkdir('made')", r"config\.txt: .* is not JSON \(it is not evaluated\); export it again"),
        ('{"names": "exit()"}', "metadata names: 'exit\\(\\)' is not plain data"),
        ("[1]", "expected a mapping, found list"),
        ('{"shape": [1, 3, 1000000000, 640]}', "metadata imgsz: .* is not height and width up to 16384"),
        ('{"shape": [1, 1e9, 640, 640]}', "metadata channels: .* is not a whole number up to 4096"),
    ],
)
def test_metadata_is_not_evaluated(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load_backend(save_script(tmp_path / "m.torchscript", {CONFIG_FILE: text}), device=CPU)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_damaged_files(share: float, exported: Exported, tmp_path: Path) -> None:
    content = exported("torchscript")[1].read_bytes()
    file = tmp_path / "cut.torchscript"
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"cut\.torchscript: damaged or not a TorchScript file; copy or export"):
        load_backend(file, device=CPU)


def test_checkpoint_is_not_torchscript(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "m.torchscript")
    with pytest.raises(InputError, match=r"m\.torchscript: damaged or not a TorchScript file"):
        load_backend(tmp_path / "m.torchscript", device=CPU)
