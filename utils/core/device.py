"""Devices: selection, description, precision, memory and timing."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter

import torch

from utils.core.distributed import get_local_rank, get_local_world_size
from utils.core.errors import InputError
from utils.core.hardware import parse_devices

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
BF16_TRIALS = 10  # the first ones also select the kernels
MEMORY_PHRASES = ("can't allocate memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")


def select_device(name: str = "") -> torch.device:
    """The device of a `--device` value; '' means CUDA if available, or else the CPU.

    With several processes on a machine, each selects the device of its local rank, from the list or from all devices.

    Raises:
        InputError: the device is not available, or the number of devices differs from that of processes.
    """
    name = select_rank_device(str(name).strip().lower()).removeprefix("cuda:")
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("--device mps: PyTorch finds no Apple GPU; use --device cpu")
        return torch.device("mps")
    if name in ("", "cuda"):
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if not name.isdigit():
        raise InputError(f"--device {name}: expected cpu, mps or a CUDA index such as 0")
    if int(name) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: {torch.cuda.device_count()} CUDA devices are visible; use --device cpu")
    return torch.device(f"cuda:{name}")


def select_rank_device(names: str) -> str:
    """The device of this process in a `--device` value; InputError if it cannot be determined."""
    processes, devices = get_local_world_size(), parse_devices(names)
    if len(devices) > 1:
        if processes == 1:
            raise InputError(f"--device {names}: give one device; only train.py on the command line supports several")
        if len(devices) != processes:
            raise InputError(f"--device {names}: {len(devices)} devices for {processes} processes; give one for each")
        return devices[get_local_rank()]
    names = "".join(devices)  # one or none
    if processes == 1 or names in ("cpu", "mps"):
        return names
    if names in ("", "cuda"):
        available = torch.cuda.device_count()
        if 0 < available < processes:
            raise InputError(
                f"{processes} processes, but {available} CUDA devices are visible; start one process for each"
            )
        return str(get_local_rank()) if available else "cpu"
    listed = ",".join(str(number) for number in range(processes))
    raise InputError(f"--device {names}: {processes} processes cannot share a GPU; give one for each, such as {listed}")


def describe_device(device: torch.device) -> str:
    """Versions and hardware, in one line for the log."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        hardware = f"{device} ({properties.name}, {properties.total_memory / 2**30:.0f} GiB)"
    else:
        hardware = f"{device.type.upper()} ({torch.get_num_threads()} threads)"
    return f"OpenYOLOv5, Python {platform.python_version()}, torch {torch.__version__}, {hardware}"


def supports_bf16(device: torch.device) -> bool:
    """Whether the device is a CPU with bf16 arithmetic (AVX512-BF16)."""
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


@cache
def is_bf16_faster() -> bool:
    """Whether convolutions are faster in bf16 than in FP32 on this CPU, measured in a few milliseconds.

    AVX512-BF16 alone does not decide it: a network takes two thirds of the FP32 time on AMD CPUs, but 1.3 times as
    long on Intel CPUs without AMX.
    """
    ones = torch.ones(1, 64, 40, 40), torch.ones(64, 64, 3, 3)
    operands = {
        dtype: tuple(x.to(dtype, memory_format=torch.channels_last) for x in ones)
        for dtype in (torch.float32, torch.bfloat16)
    }
    times = dict.fromkeys(operands, float("inf"))
    with torch.inference_mode():
        for _ in range(BF16_TRIALS):  # alternate, and keep the minimum: other processes disturb the measurement
            for dtype, (images, weight) in operands.items():
                start = perf_counter()
                torch.conv2d(images, weight, padding=1)
                times[dtype] = min(times[dtype], perf_counter() - start)
    return times[torch.bfloat16] < times[torch.float32]


def get_half_dtype(device: torch.device) -> torch.dtype | None:
    """The type of `--half` on this device: FP16 on CUDA, BF16 on CPUs that are faster with it, or else None."""
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if supports_bf16(device) and is_bf16_faster() else None


@contextmanager
def single_threaded(enabled: bool = True) -> Iterator[None]:
    """Run torch in the calling thread only, within the context.

    Other torch threads spin for a while after a parallel operation and slow down runtimes that have their own threads
    (onnxruntime on two cores: 39 instead of 27 ms).
    """
    threads = torch.get_num_threads()
    if not enabled or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Keep freed memory in the process, to reuse it for the next images and feature maps on a CPU.

    By default the C library returns large blocks to the system and gets them again zeroed, page by page, which takes
    as long as decoding, or a quarter of the time of a small network. Only for glibc (mallopt(3)).
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the maximum: smaller blocks come from the heap
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # do not trim the heap


def format_memory_usage(device: torch.device) -> str:
    """Device memory reserved by this process, for the progress bar."""
    return f"{torch.cuda.memory_reserved(device) / 1e9:.3g}G" if device.type == "cuda" else "0G"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that PyTorch, or a library below it, ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(phrase in str(error) for phrase in MEMORY_PHRASES)


def seed_everything(seed: int) -> None:
    """Seed torch and make cuDNN deterministic; augmentation has its own generators."""
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True


class Stopwatch:
    """Total seconds of a stage; synchronizes the device to include asynchronous work."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Add the time of the context."""
        self._synchronize()
        start = perf_counter()
        yield
        self._synchronize()
        self.seconds += perf_counter() - start

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
