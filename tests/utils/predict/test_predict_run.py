"""Parts of an inference run that need no model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from utils.predict.run import select_kernels


@pytest.mark.parametrize(
    ("device", "live", "auto", "benchmark"),
    [
        pytest.param("cuda", True, True, True, id="stream"),
        pytest.param("cuda", False, False, True, id="files of one size"),
        pytest.param("cuda", False, True, False, id="files of any size"),
        pytest.param("cpu", True, False, False, id="cpu"),
    ],
)
def test_kernels_are_timed_for_one_size_on_cuda(device: str, live: bool, auto: bool, benchmark: bool) -> None:
    before = torch.backends.cudnn.benchmark
    predictor: Any = SimpleNamespace(auto=auto, backend=SimpleNamespace(device=torch.device(device)))
    source: Any = SimpleNamespace(live=live)
    with select_kernels(source, predictor):
        assert torch.backends.cudnn.benchmark is benchmark
    assert torch.backends.cudnn.benchmark is before
