"""OpenVINO exports: files, metadata, loading, damaged folders."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from thread_checks import assert_threads_agree
from tiny_jobs import NAMES

from utils.backends.info import ModelInfo
from utils.backends.openvino import read_info
from utils.backends.registry import load_backend
from utils.core.errors import InputError
from utils.export.base import ExportJob
from utils.export.table import find_export_formats
from utils.export.verify import check_export
from utils.ops.nms import non_max_suppression

pytest.importorskip("openvino")
CPU = torch.device("cpu")
Exported = Callable[..., tuple[ExportJob, Path]]


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> Path:
    """Copy of an exported folder, for tests that damage it."""
    target = tmp_path / "copy_openvino_model"
    shutil.copytree(exported("openvino")[1], target)
    return target


def test_folder_holds_metadata(exported: Exported) -> None:
    job, folder = exported("openvino")
    assert folder.name == "tiny mödel_openvino_model"
    assert sorted(p.name for p in folder.iterdir()) == [f"tiny mödel.{end}" for end in ("bin", "xml", "yaml")]
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name]
    stored = yaml.safe_load((folder / "tiny mödel.yaml").read_text(encoding="utf-8"))
    assert (stored["stride"], stored["names"]) == (16, NAMES)
    backend = load_backend(folder, device=CPU)
    assert (backend.names, backend.stride, backend.fixed_hw) == (NAMES, 16, (64, 96))
    assert "output0" in backend.compiled.output(0).get_names()
    find_export_formats(["openvino"])[0].export(job)  # replaces the first one
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name]


def test_link_is_replaced(exported: Exported, tmp_path: Path) -> None:
    job, _ = exported("openvino")
    (tmp_path / "kept").mkdir()
    (tmp_path / "best_openvino_model").symlink_to(tmp_path / "kept")
    folder = find_export_formats(["openvino"])[0].export(replace(job, weights=tmp_path / "best.pt"))
    assert not folder.is_symlink() and (folder / "best.xml").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best_openvino_model", "kept"]


@pytest.mark.parametrize("batch", [1, 2])
def test_static_graph_takes_any_number_of_images(batch: int, exported: Exported) -> None:
    job, folder = exported("openvino", batch=batch)
    backend = load_backend(folder, device=CPU)
    for count in (1, 2, 3):
        images = torch.rand(count, 3, 64, 96)
        torch.testing.assert_close(backend.forward(images), job.network(images), atol=1e-3, rtol=1e-4)
    with pytest.raises(InputError, match="fixed image size 64x96, got 32x96"):
        backend.forward(torch.rand(1, 3, 32, 96))


@pytest.mark.parametrize("nms", [pytest.param(False, marks=pytest.mark.slow), True])
def test_dynamic_graph_takes_any_size(nms: bool, exported: Exported) -> None:
    job, folder = exported("openvino", dynamic=True, nms=nms)
    backend = load_backend(folder, device=CPU)
    assert backend.fixed_hw is None
    for shape in ((1, 3, 64, 96), (3, 3, 32, 160), (2, 3, 16, 16), (1, 3, 64, 96)):
        images = torch.rand(shape)
        detections = non_max_suppression(backend.forward(images), 0.25, max_det=20)
        expected = non_max_suppression(job.network.model(images), 0.25, max_det=20)
        torch.testing.assert_close(detections, expected, atol=1e-3, rtol=1e-4)
        assert len(detections[0])


def test_half_halves_the_weights(exported: Exported) -> None:
    job, folder = exported("openvino", half=True)
    sizes = [next(path.glob("*.bin")).stat().st_size for path in (folder, exported("openvino")[1])]
    assert sizes[0] < 0.6 * sizes[1]
    assert check_export(job, folder).agreement.agreeing > 10


def test_fp32_by_default(exported: Exported) -> None:
    folder = exported("openvino")[1]
    hint = load_backend(folder, device=CPU).compiled.get_property("INFERENCE_PRECISION_HINT")
    assert hint.to_string() == "f32"
    assert load_backend(folder, device=CPU, fp16=True).forward(torch.rand(1, 3, 64, 96)).shape == (1, 240, 7)


def test_half_is_ignored_if_bf16_is_slower(
    exported: Exported, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.backends.openvino.supports_bf16", lambda _: True)
    monkeypatch.setattr("utils.backends.openvino.is_bf16_faster", lambda: False)
    logging.getLogger("openyolov5").propagate = True
    backend = load_backend(exported("openvino")[1], device=CPU, fp16=True)
    assert backend.compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert "--half is ignored: OpenVINO would use BF16" in caplog.text


def test_threads_share_a_model(exported: Exported) -> None:
    backend = load_backend(exported("openvino")[1], device=CPU)
    assert_threads_agree(backend, torch.rand(8, 3, 64, 96))


def test_outputs_are_not_overwritten(exported: Exported) -> None:
    backend = load_backend(exported("openvino")[1], device=CPU)
    first = backend.forward(torch.rand(1, 3, 64, 96))
    copy = first.clone()
    backend.forward(torch.rand(1, 3, 64, 96))
    assert torch.equal(first, copy)


@pytest.mark.parametrize(
    ("ending", "share", "message"),
    [
        ("xml", 0.5, r"OpenVINO \S+ cannot read it .*; copy or export it again"),
        ("xml", 0.0, r"tiny mödel\.xml: damaged or not an OpenVINO model; copy or export it again"),
        ("bin", 0.5, r"OpenVINO \S+ cannot read it"),
        ("bin", None, r"tiny mödel\.bin is missing; copy the whole folder"),
        ("xml", None, r"expected one \.xml file, found none; export it again"),
    ],
)
def test_damaged_folders(ending: str, share: float | None, message: str, copied: Path) -> None:
    file = next(copied.glob(f"*.{ending}"))
    content = file.read_bytes()
    file.unlink()
    if share is not None:
        file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=message):
        load_backend(copied, device=CPU)


def test_other_formats_under_the_name(copied: Path, exported: Exported) -> None:
    """OpenVINO would read an ONNX file, which may refer to other files."""
    next(copied.glob("*.xml")).write_bytes(exported("onnx")[1].read_bytes())
    with pytest.raises(InputError, match=r"tiny mödel\.xml: damaged or not an OpenVINO model"):
        load_backend(copied, device=CPU)


def test_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x_openvino_model").write_text("no folder")
    with pytest.raises(InputError, match="not a folder; export one with"):
        load_backend(tmp_path / "x_openvino_model", device=CPU)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: !!python/object/apply:os.mkdir [made]", r"\.yaml:1: not valid YAML"),
        ("names: \"__import__('os').mkdir('made')\"", "metadata names: .* is not plain data"),
        ("- 1", "expected a mapping of stride and names"),
        ("a: [", r"\.yaml:1: not valid YAML"),
    ],
)
def test_metadata_is_not_evaluated(text: str, message: str, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied.parent)
    next(copied.glob("*.yaml")).write_text(text)
    with pytest.raises(InputError, match=message):
        load_backend(copied, device=CPU)
    assert not (copied.parent / "made").exists()


def test_folder_without_metadata(copied: Path) -> None:
    next(copied.glob("*.yaml")).unlink()
    backend = load_backend(copied, device=CPU, names={0: "x", 1: "y"})
    assert (backend.stride, backend.names, backend.fixed_hw) == (32, {0: "x", 1: "y"}, (64, 96))
    assert read_info(copied / "none.yaml") == ModelInfo()
