from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from utils.config.base import ROOT
from utils.core.device import (
    Stopwatch,
    bf16_pays,
    describe_device,
    half_precision,
    memory_in_use,
    own_device,
    select_device,
    single_threaded,
)
from utils.core.errors import InputError
from utils.train.launch import devices_to_launch


def test_cpu() -> None:
    device = select_device("cpu")
    assert device.type == "cpu"
    assert "CPU" in describe_device(device)
    assert memory_in_use(device) == "0G"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("0,1", "used here, name one; train.py alone"),
        ("gpu", "expected cpu, mps or a CUDA index"),
        ("97", "--device 97"),
    ],
)
def test_unusable_devices_are_named(name: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        select_device(name)


def test_a_comma_too_many_names_no_device() -> None:
    assert select_device("cpu,").type == select_device(" ,cpu").type == "cpu"


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


@pytest.mark.parametrize(
    ("names", "rank", "expected"),
    [("cpu", 1, "cpu"), ("", 1, "cpu"), ("cpu,mps", 1, "mps"), ("2, 5", 0, "2"), ("2,,5,", 1, "5"), ("cpu,", 1, "cpu")],
)
def test_each_process_takes_its_device(names: str, rank: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert own_device(names) == expected


@pytest.mark.parametrize(
    ("names", "text"),
    [("0", "2 processes cannot share a GPU"), ("0,1,2", "3 devices for 2 processes"), ("", "2 processes, but 1 CUDA")],
)
def test_devices_that_do_not_suit_the_processes_are_named(
    names: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=text):
        own_device(names)


def test_several_devices_are_launched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert devices_to_launch("0, 1") == ["0", "1"]
    assert devices_to_launch("0") == devices_to_launch("") == devices_to_launch("cpu,") == devices_to_launch(",") == []
    assert devices_to_launch("0,,1,") == ["0", "1"]
    monkeypatch.setenv("LOCAL_RANK", "0")  # a launcher is at work already
    assert devices_to_launch("0,1") == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt(3) is glibc's")
def test_freed_memory_is_used_again() -> None:
    code = """
import resource
import numpy as np
from utils.device import keep_freed_memory

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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) < 10_000  # of 200,000 pages that were written


@pytest.mark.parametrize(("cost", "pays"), [({torch.bfloat16: 3, torch.float32: 2}, False), ({torch.float32: 2}, True)])
def test_bf16_pays_where_a_convolution_takes_less_time_in_it(
    cost: dict[torch.dtype, int], pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that the convolutions move: those of `cost` as told, the others by one."""
    clock = [0]
    convolve = torch.conv2d

    def slow(images: torch.Tensor, *others: torch.Tensor, **options: int) -> torch.Tensor:
        clock[0] += cost.get(images.dtype, 1)
        return convolve(images, *others, **options)

    monkeypatch.setattr("utils.core.device.perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch, "conv2d", slow)
    assert bf16_pays.__wrapped__() == pays


@pytest.mark.parametrize(
    ("has_bf16", "pays", "expected"), [(True, True, torch.bfloat16), (True, False, None), (False, True, None)]
)
def test_half_precision_of_a_cpu(
    has_bf16: bool, pays: bool, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16, raising=False)
    monkeypatch.setattr("utils.core.device.bf16_pays", lambda: pays)
    assert half_precision(torch.device("cpu")) == expected
    assert half_precision(torch.device("cuda")) == torch.float16
