"""Thread safety of backends."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from utils.backends.base import Backend


def assert_threads_agree(backend: Backend, images: Tensor) -> None:
    """Check that one thread per image, three times each, gives the outputs of a single batch."""
    expected = backend.forward(images)
    outputs: dict[int, Tensor] = {}

    def infer(number: int) -> None:
        for _ in range(3):
            outputs[number] = backend.forward(images[number : number + 1])

    threads = [threading.Thread(target=infer, args=(number,)) for number in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(torch.cat([outputs[number] for number in range(len(images))]), expected)
