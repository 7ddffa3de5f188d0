"""Base class of backends for exported files: sizes, batches, metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from utils.backends.base import UNNAMED_CLASSES, ExportedBackend
from utils.backends.info import ModelInfo
from utils.core.errors import InputError
from utils.core.types import NMSOutput

CPU = torch.device("cpu")


class Sums(ExportedBackend):
    """Gives each image's sum, and keeps the shapes it was run with."""

    title = "Sums"

    def __init__(self, info: ModelInfo | None = None, **options: Any) -> None:
        super().__init__("m.sums", info or ModelInfo(), device=CPU, **options)
        self.shapes: list[tuple[int, ...]] = []
        self.types: list[torch.dtype] = []

    def run(self, images: Tensor) -> Sequence[Tensor]:
        assert images.is_contiguous()
        self.shapes.append(tuple(images.shape))
        self.types.append(images.dtype)
        total = images.sum(dim=(1, 2, 3))[:, None, None]
        return [total.expand(-1, 2, 6), -total]


def make_images(count: int, height: int = 32, width: int = 64) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("batch", "shapes"), [(1, [1]), (2, [2]), (3, [2, 2]), (5, [2, 2, 2])])
def test_fixed_batch_runs_any_number_of_images(batch: int, shapes: list[int]) -> None:
    backend, images = Sums(input_shape=(2, 3, None, None)), make_images(batch)
    found, negative = backend.forward(images)
    assert [shape[0] for shape in backend.shapes] == ([2] if batch == 1 else shapes)
    torch.testing.assert_close(found[:, 0, 0], images.sum(dim=(1, 2, 3)))
    torch.testing.assert_close(negative, -found[:, :1, :1])


class Logits(Sums):
    def run(self, images: Tensor) -> Sequence[Tensor]:
        return [torch.ones(len(images), 6)]


def test_logits_are_no_boxes() -> None:
    """The runtimes of TensorFlow's files take boxes for shares of the sides whatever the files say."""
    assert (Logits(ModelInfo(task="classify", normalized=True)).forward(make_images(2)) == 1).all()


def test_dynamic_batch_runs_at_once() -> None:
    backend = Sums()
    backend.forward(make_images(5).to(memory_format=torch.channels_last))
    assert backend.shapes == [(5, 3, 32, 64)]


def test_fixed_size_rejects_others() -> None:
    backend = Sums(input_shape=(None, 3, 32, 64))
    backend.forward(make_images(1))
    with pytest.raises(InputError, match=r"m\.sums: fixed image size 32x64, got 64x64; use --imgsz 32 64, or"):
        backend.forward(make_images(1, 64, 64))
    backend.warmup((640, 640))
    assert backend.shapes == [(1, 3, 32, 64)] * 2


def test_channels_must_match() -> None:
    with pytest.raises(InputError, match="expected images of 4 channels, got 3"):
        Sums(ModelInfo(channels=4)).forward(make_images(1))


def test_unsupported_options_raise() -> None:
    with pytest.raises(InputError, match=r"Sums does not support --augment; use a \.pt file"):
        Sums().forward(make_images(1), augment=True)
    with pytest.raises(InputError, match=r"Sums does not support --visualize"):
        Sums().forward(make_images(1), visualize=lambda layer, output: None)


def test_input_dtype_and_float32_outputs() -> None:
    backend = Sums(dtype=torch.float16)
    assert backend.forward(make_images(1))[0].dtype == torch.float32
    assert backend.types == [torch.float16]


def test_suppressed_and_normalized_outputs() -> None:
    assert isinstance(Sums(ModelInfo(nms=True)).forward(make_images(2)), NMSOutput)
    images = make_images(1)
    boxes = Sums(ModelInfo(normalized=True)).forward(images)[0]
    expected = images.sum() * torch.tensor([64.0, 32, 64, 32, 1, 1])
    torch.testing.assert_close(boxes[0, 0], expected)


def test_names_of_the_file_take_precedence() -> None:
    assert Sums(ModelInfo(names={0: "a"}), names={0: "b"}).names == {0: "a"}
    assert Sums(names={0: "b"}).names == {0: "b"}
    unnamed = Sums().names
    assert (len(unnamed), unnamed[7]) == (UNNAMED_CLASSES, "class7")


@pytest.mark.parametrize(
    ("info", "names", "expected"),
    [
        (ModelInfo(), {0: "b"}, {0: "b"}),
        (ModelInfo(), {0: "b", 1: "c"}, {0: "class0"}),
        (ModelInfo(nms=True), {0: "b", 1: "c"}, {0: "b", 1: "c"}),  # unknown number of classes
        (ModelInfo(names={0: "a"}), {0: "b", 1: "c"}, {0: "a"}),
    ],
)
def test_names_of_another_number_of_classes_are_not_used(
    info: ModelInfo, names: dict[int, str], expected: dict[int, str]
) -> None:
    backend = Sums(info, names=names)
    backend.check_names()
    assert backend.names == expected


class Failing(Sums):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def run(self, images: Tensor) -> Sequence[Tensor]:
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError, KeyError, type("OfARuntime", (Exception,), {})])
def test_runtime_errors_are_one_line(error: type[Exception]) -> None:
    pattern = (
        r"^m\.sums: cannot run images of shape \(1, 3, 32, 64\) \(.*bad side'?\); "
        "the file may have a fixed size: use that --imgsz, or export it again$"
    )
    message = "bad side" if error is KeyError else "Traceback\n  of the interpreter\n\nbad side\n"
    with pytest.raises(InputError, match=pattern):
        Failing(error(message)).forward(make_images(1))


def test_runtime_errors_of_fixed_size_files_suggest_no_other_size() -> None:
    backend = Failing(RuntimeError("lacks data"))
    backend.fixed_hw = (32, 64)
    with pytest.raises(InputError, match=r"\(lacks data\); copy or export it again$"):
        backend.forward(make_images(1))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("full"), MemoryError(), RuntimeError("can't allocate memory"), RuntimeError("CUDA error")],
)
def test_device_errors_are_reraised(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        Failing(error).forward(make_images(1))
    assert caught.value is error
