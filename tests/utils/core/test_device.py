from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from utils.config.base import ROOT
from utils.core.device import (
    Stopwatch,
    describe_device,
    format_memory_usage,
    get_half_dtype,
    is_bf16_faster,
    select_device,
    select_rank_device,
    single_threaded,
)
from utils.core.errors import InputError
from utils.train.launch import list_launch_devices


def test_cpu() -> None:
    device = select_device("cpu")
    assert device.type == "cpu"
    assert "CPU" in describe_device(device)
    assert format_memory_usage(device) == "0G"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("0,1", "give one device; only train.py"),
        ("gpu", "expected cpu, mps or a CUDA index"),
        ("97", "--device 97"),
    ],
)
def test_unavailable_devices_are_errors(name: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        select_device(name)


def test_extra_commas_are_ignored() -> None:
    assert select_device("cpu,").type == select_device(" ,cpu").type == "cpu"


def test_stopwatch_adds_up() -> None:
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch.measure():
            sum(range(1000))
    assert watch.seconds > 0


def test_single_threaded_restores_the_threads() -> None:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with single_threaded(False):
            assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError), single_threaded():
            assert torch.get_num_threads() == 1
            _ = 1 / 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(num_threads)


@pytest.mark.parametrize(
    ("names", "rank", "expected"),
    [("cpu", 1, "cpu"), ("", 1, "cpu"), ("cpu,mps", 1, "mps"), ("2, 5", 0, "2"), ("2,,5,", 1, "5"), ("cpu,", 1, "cpu")],
)
def test_each_rank_selects_its_device(names: str, rank: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert select_rank_device(names) == expected


@pytest.mark.parametrize(
    ("names", "text"),
    [("0", "2 processes cannot share a GPU"), ("0,1,2", "3 devices for 2 processes"), ("", "2 processes, but 1 CUDA")],
)
def test_a_wrong_number_of_devices_is_an_error(names: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=text):
        select_rank_device(names)


def test_several_devices_are_launched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert list_launch_devices("0, 1") == ["0", "1"]
    assert (
        list_launch_devices("0")
        == list_launch_devices("")
        == list_launch_devices("cpu,")
        == list_launch_devices(",")
        == []
    )
    assert list_launch_devices("0,,1,") == ["0", "1"]
    monkeypatch.setenv("LOCAL_RANK", "0")  # started by a launcher
    assert list_launch_devices("0,1") == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt(3) is part of glibc")
def test_freed_memory_is_reused() -> None:
    code = """
import resource
import numpy as np
from utils.core.device import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    return [np.ones(1 << 20) for _ in range(20)]  # 8 MiB each

keep_freed_memory()
step()
before = faults()
for _ in range(5):
    step()
print(faults() - before)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(process.stdout) < 10_000  # of 200,000 pages that were written


@pytest.mark.parametrize(
    ("cost", "faster"), [({torch.bfloat16: 3, torch.float32: 2}, False), ({torch.float32: 2}, True)]
)
def test_bf16_is_faster_if_a_convolution_takes_less_time(
    cost: dict[torch.dtype, int], faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mock clock that convolutions advance, by `cost` or else by one."""
    clock = [0]
    convolve = torch.conv2d

    def slow(images: torch.Tensor, *others: torch.Tensor, **options: int) -> torch.Tensor:
        clock[0] += cost.get(images.dtype, 1)
        return convolve(images, *others, **options)

    monkeypatch.setattr("utils.core.device.perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch, "conv2d", slow)
    assert is_bf16_faster.__wrapped__() == faster


@pytest.mark.parametrize(
    ("has_bf16", "faster", "expected"), [(True, True, torch.bfloat16), (True, False, None), (False, True, None)]
)
def test_half_precision_of_a_cpu(
    has_bf16: bool, faster: bool, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16, raising=False)
    monkeypatch.setattr("utils.core.device.is_bf16_faster", lambda: faster)
    assert get_half_dtype(torch.device("cpu")) == expected
    assert get_half_dtype(torch.device("cuda")) == torch.float16
