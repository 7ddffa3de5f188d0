"""What runtimes of exported files share: sizes, batches, metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from utils.backends.base import UNNAMED_CLASSES, ExportedBackend
from utils.backends.info import ModelInfo
from utils.core.errors import InputError
from utils.core.types import Suppressed

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
def test_any_number_of_images_goes_through_a_fixed_batch(batch: int, shapes: list[int]) -> None:
    backend, images = Sums(fixed_batch=2), make_images(batch)
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


def test_a_free_batch_is_run_at_once() -> None:
    backend = Sums()
    backend.forward(make_images(5).to(memory_format=torch.channels_last))
    assert backend.shapes == [(5, 3, 32, 64)]


def test_a_fixed_size_is_the_only_one() -> None:
    backend = Sums(fixed_hw=(32, 64))
    backend.forward(make_images(1))
    with pytest.raises(InputError, match=r"m\.sums: takes 32x64 images only, not 64x64; give --imgsz 32 64, or"):
        backend.forward(make_images(1, 64, 64))
    backend.warmup((640, 640))
    assert backend.shapes == [(1, 3, 32, 64)] * 2


def test_channels_have_to_agree() -> None:
    with pytest.raises(InputError, match="takes 4 channels, the images have 3"):
        Sums(ModelInfo(channels=4)).forward(make_images(1))


def test_options_of_checkpoints_only() -> None:
    with pytest.raises(InputError, match=r"--augment needs a \.pt file, Sums runs one size"):
        Sums().forward(make_images(1), augment=True)
    with pytest.raises(InputError, match=r"--visualize needs a \.pt file"):
        Sums().forward(make_images(1), visualize=lambda layer, output: None)


def test_images_arrive_in_the_type_of_the_file_and_results_in_single() -> None:
    backend = Sums(dtype=torch.float16)
    assert backend.forward(make_images(1))[0].dtype == torch.float32
    assert backend.types == [torch.float16]


def test_suppressed_and_normalized_outputs() -> None:
    assert isinstance(Sums(ModelInfo(nms=True)).forward(make_images(2)), Suppressed)
    images = make_images(1)
    boxes = Sums(ModelInfo(normalized=True)).forward(images)[0]
    expected = images.sum() * torch.tensor([64.0, 32, 64, 32, 1, 1])
    torch.testing.assert_close(boxes[0, 0], expected)


def test_names_of_the_file_win() -> None:
    assert Sums(ModelInfo(names={0: "a"}), names={0: "b"}).names == {0: "a"}
    assert Sums(names={0: "b"}).names == {0: "b"}
    unnamed = Sums().names
    assert (len(unnamed), unnamed[7]) == (UNNAMED_CLASSES, "class7")


@pytest.mark.parametrize(
    ("info", "lent", "expected"),
    [
        (ModelInfo(), {0: "b"}, {0: "b"}),
        (ModelInfo(), {0: "b", 1: "c"}, {0: "class0"}),
        (ModelInfo(nms=True), {0: "b", 1: "c"}, {0: "b", 1: "c"}),  # its rows do not tell
        (ModelInfo(names={0: "a"}), {0: "b", 1: "c"}, {0: "a"}),
    ],
)
def test_names_lent_to_a_file_of_other_classes_are_not_believed(
    info: ModelInfo, lent: dict[int, str], expected: dict[int, str]
) -> None:
    backend = Sums(info, names=lent)
    backend.doubt_names()
    assert backend.names == expected


class Failing(Sums):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def run(self, images: Tensor) -> Sequence[Tensor]:
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError, KeyError, type("OfARuntime", (Exception,), {})])
def test_what_a_runtime_has_against_an_image_is_one_line(error: type[Exception]) -> None:
    pattern = (
        r"^m\.sums: cannot run images of shape \(1, 3, 32, 64\) \(.*bad side'?\); "
        "it may take one size only: give that --imgsz, or export it again$"
    )
    message = "bad side" if error is KeyError else "Traceback\n  of the interpreter\n\nbad side\n"
    with pytest.raises(InputError, match=pattern):
        Failing(error(message)).forward(make_images(1))


def test_a_file_of_a_known_size_is_not_said_to_want_another() -> None:
    backend = Failing(RuntimeError("lacks data"))
    backend.fixed_hw = (32, 64)
    with pytest.raises(InputError, match=r"\(lacks data\); copy or export it again$"):
        backend.forward(make_images(1))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("full"), MemoryError(), RuntimeError("can't allocate memory"), RuntimeError("CUDA error")],
)
def test_faults_of_the_machine_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        Failing(error).forward(make_images(1))
    assert caught.value is error
