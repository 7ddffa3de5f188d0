"""Images on their way to the device."""

from __future__ import annotations

import pytest
import torch

from utils.tasks.base import InputBuffer, images_to_device

CPU = torch.device("cpu")


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("own_threads", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_buffer_gives_what_the_plain_way_gives(dtype: torch.dtype, own_threads: bool, interleaved: bool) -> None:
    buffer = InputBuffer(CPU, dtype, own_threads=own_threads)
    shapes = (2, 3, 8, 6), (1, 3, 4, 4), (3, 1, 16, 10), (2, 5, 7, 9), (1, 200, 4, 6)  # the first serves the second
    for shape in shapes:
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        if interleaved:
            images = images.contiguous(memory_format=torch.channels_last)
        found = buffer.load(images)
        assert torch.equal(found, images_to_device(images, CPU, dtype))
        assert found.is_contiguous() if own_threads else found.is_contiguous(memory_format=torch.channels_last)


def test_every_value_of_a_pixel_is_divided_as_torch_divides() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(InputBuffer(CPU).load(values), values.float().div_(255))


def test_a_buffer_keeps_its_memory() -> None:
    buffer = InputBuffer(CPU)
    first = buffer.load(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).data_ptr()
    assert buffer.load(torch.zeros(1, 3, 4, 8, dtype=torch.uint8)).data_ptr() == first
