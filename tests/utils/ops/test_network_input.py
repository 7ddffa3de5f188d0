from __future__ import annotations

import pytest
import torch

from utils.ops.network_input import InputBuffer, images_to_device

CPU = torch.device("cpu")


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("has_thread_pool", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_buffer_equals_plain_conversion(dtype: torch.dtype, has_thread_pool: bool, interleaved: bool) -> None:
    buffer = InputBuffer(CPU, dtype, has_thread_pool=has_thread_pool)
    shapes = (2, 3, 8, 6), (1, 3, 4, 4), (3, 1, 16, 10), (2, 5, 7, 9), (1, 200, 4, 6)  # the first serves the second
    for shape in shapes:
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        if interleaved:
            images = images.contiguous(memory_format=torch.channels_last)
        loaded = buffer.load(images)
        assert torch.equal(loaded, images_to_device(images, CPU, dtype))
        assert loaded.is_contiguous() if has_thread_pool else loaded.is_contiguous(memory_format=torch.channels_last)


def test_every_pixel_value_equals_torch_division() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(InputBuffer(CPU).load(values), values.float().div_(255))


def test_buffer_reuses_memory() -> None:
    buffer = InputBuffer(CPU)
    first = buffer.load(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).data_ptr()
    assert buffer.load(torch.zeros(1, 3, 4, 8, dtype=torch.uint8)).data_ptr() == first
