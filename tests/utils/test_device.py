from __future__ import annotations

import pytest
import torch

from utils.device import Stopwatch, describe_device, memory_in_use, select_device, single_threaded
from utils.errors import InputError


def test_cpu() -> None:
    device = select_device("cpu")
    assert device.type == "cpu"
    assert "CPU" in describe_device(device)
    assert memory_in_use(device) == "0G"


@pytest.mark.parametrize(
    ("name", "text"),
    [("0,1", "one device is used"), ("gpu", "expected cpu, mps or a CUDA index"), ("97", "--device 97")],
)
def test_unusable_devices_are_named(name: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        select_device(name)


def test_stopwatch_adds_up() -> None:
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch.running():
            sum(range(1000))
    assert watch.seconds > 0


def test_torch_works_alone_only_where_it_is_wanted() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with single_threaded(False):
            assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError), single_threaded():
            assert torch.get_num_threads() == 1
            _ = 1 / 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
