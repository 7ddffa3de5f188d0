"""Whether several threads may share what they were given."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from utils.backends.base import Backend


def assert_threads_agree(backend: Backend, images: Tensor) -> None:
    """A thread for each of the images finds, three times, what one run over all of them finds."""
    expected = backend.forward(images)
    found: dict[int, Tensor] = {}

    def look(number: int) -> None:
        for _ in range(3):
            found[number] = backend.forward(images[number : number + 1])

    threads = [threading.Thread(target=look, args=(number,)) for number in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(torch.cat([found[number] for number in range(len(images))]), expected)
