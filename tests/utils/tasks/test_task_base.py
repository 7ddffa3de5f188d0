"""Pictures on their way to the device."""

from __future__ import annotations

import pytest
import torch

from utils.tasks.base import InputBuffer, images_to_device

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_buffer_gives_what_the_plain_way_gives(dtype: torch.dtype) -> None:
    buffer = InputBuffer(CPU, dtype)
    for shape in ((2, 3, 8, 6), (1, 3, 4, 4), (3, 1, 16, 10)):  # the first memory serves the second, not the third
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        found = buffer.load(images)
        assert torch.equal(found, images_to_device(images, CPU, dtype))
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_buffer_keeps_its_memory() -> None:
    buffer = InputBuffer(CPU)
    first = buffer.load(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).data_ptr()
    assert buffer.load(torch.zeros(1, 3, 4, 8, dtype=torch.uint8)).data_ptr() == first
