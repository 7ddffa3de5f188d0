"""The CoreML runtime: its messages, and a mock of Apple's model where no macOS is."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from utils.backends.coreml import CoreMLBackend, CoreMLDescription, load_coreml, open_model
from utils.backends.info import ModelInfo
from utils.core.errors import InputError

CPU = torch.device("cpu")


class MockModel:
    """Mock of coremltools.models.MLModel: checks what it is given and answers with fixed arrays."""

    def __init__(self, answer: dict[str, np.ndarray]) -> None:
        self.answer, self.images = answer, []

    def predict(self, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        assert isinstance(inputs["image"], Image.Image)
        assert inputs["image"].mode == "RGB"
        self.images.append(np.asarray(inputs["image"]))
        return self.answer


def backend(answer: dict[str, np.ndarray], **info: Any) -> CoreMLBackend:
    description = CoreMLDescription("image", (32, 64), {k: v.shape for k, v in answer.items()}, ModelInfo(**info))
    return CoreMLBackend("m.mlpackage", MockModel(answer), description, device=CPU, names={0: "cat"})


def test_images_go_in_one_by_one_as_the_mock_sees_them() -> None:
    rows = np.arange(14, dtype=np.float32).reshape(1, 2, 7)
    loaded = backend({"output0": rows})
    pixels = torch.randint(0, 256, (3, 3, 32, 64), dtype=torch.uint8)
    output = loaded.forward(pixels.float() / 255)
    assert output.shape == (3, 2, 7)
    np.testing.assert_array_equal(output[2], rows[0])
    for seen, given in zip(loaded.model.images, pixels, strict=True):
        np.testing.assert_array_equal(seen, given.permute(1, 2, 0))
    assert loaded.names == {0: "cat"}


def test_prototypes_come_second_whatever_they_are_called() -> None:
    answer = {"p": np.zeros((1, 32, 8, 16), np.float32), "var_99": np.ones((1, 2, 38), np.float32)}
    rows, prototypes = backend(answer, task="segment").forward(torch.zeros(1, 3, 32, 64))
    assert (rows.shape, prototypes.shape) == ((1, 2, 38), (1, 32, 8, 16))


def test_apple_s_own_suppression_stage_is_read() -> None:
    answer = {
        "confidence": np.array([[0.1, 0.9]], np.float32),
        "coordinates": np.array([[0.5, 0.25, 0.125, 0.5]], np.float32),
    }
    loaded, nothing = backend(answer), {name: array[:0] for name, array in answer.items()}
    answers = iter([answer, nothing])
    loaded.model.predict = lambda _: next(answers)
    rows = loaded.forward(torch.zeros(2, 3, 32, 64))  # one box in the first image, none in the second
    assert rows.shape == (2, 1, 7)
    assert rows[0, 0].tolist() == pytest.approx([32, 8, 8, 16, 1, 0.1, 0.9])
    assert not rows[1].any()


def test_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"m\.mlpackage: fixed image size 32x64, got 64x64; use --imgsz 32 64"):
        backend({"output0": np.zeros((1, 2, 7), np.float32)}).forward(torch.zeros(1, 3, 64, 64))


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS runs them")
def test_other_systems_are_refused(tmp_path: Path) -> None:
    package = tmp_path / "ä b.mlpackage"
    package.mkdir()
    with pytest.raises(InputError, match=r"ä b\.mlpackage: CoreML models run on macOS only"):
        load_coreml([str(package)], device=CPU)


@pytest.mark.parametrize(("name", "folder"), [("m.mlpackage", False), ("m.mlmodel", True)])
def test_a_package_is_a_folder_and_a_model_a_file(name: str, folder: bool, tmp_path: Path) -> None:
    place = tmp_path / name
    with pytest.raises(InputError, match=r"no such file or folder; export one with: .* --include coreml"):
        load_coreml([str(place)], device=CPU)
    place.mkdir() if folder else place.write_bytes(b"x")
    with pytest.raises(InputError, match="not a folder" if not folder else "not a file"):
        load_coreml([str(place)], device=CPU)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m.mlmodel"
    file.write_bytes(b"x")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(InputError, match=r"CoreML files.* coremltools"):
        load_coreml([str(file)], device=CPU)


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    tools = pytest.importorskip("coremltools")
    package, file = tmp_path / "m.mlpackage", tmp_path / "m.mlmodel"
    package.mkdir()
    file.write_bytes(b"no model")
    for path in (package, file):
        with pytest.raises(InputError, match="damaged or not a CoreML model") as caught:
            open_model(path, tools, spec_only=True)
        assert "\n" not in str(caught.value)


def test_damage_of_any_kind_is_reported_by_the_mock(tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("Error compiling\nmodel")

    with pytest.raises(InputError, match=r"not a CoreML model \(Error compiling model\)"):
        open_model(tmp_path / "m.mlmodel", SimpleNamespace(models=SimpleNamespace(MLModel=refuse)))
