"""Choice of the device and what the log says of it."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter

import torch

from utils.core.distributed import local_rank, local_world_size
from utils.core.errors import InputError
from utils.core.hardware import named_devices

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
BF16_TRIALS = 10  # the first ones choose the kernels
MEMORY_PHRASES = ("can't allocate memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")


def select_device(name: str = "") -> torch.device:
    """The device of a `--device` value: '' takes CUDA where there is one, else the CPU.

    Of several processes on a machine each takes the device of its number, of the list or of all there are.

    Raises:
        InputError: the device is not there, or there are not as many as processes.
    """
    name = own_device(str(name).strip().lower()).removeprefix("cuda:")
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("--device mps: this PyTorch sees no Apple GPU; use --device cpu")
        return torch.device("mps")
    if name in ("", "cuda"):
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if not name.isdigit():
        raise InputError(f"--device {name}: expected cpu, mps or a CUDA index such as 0")
    if int(name) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: {torch.cuda.device_count()} CUDA devices are visible; use --device cpu")
    return torch.device(f"cuda:{name}")


def own_device(names: str) -> str:
    """What this process's part of a `--device` value is; InputError where it cannot be told."""
    processes, several = local_world_size(), named_devices(names)
    if len(several) > 1:
        if processes == 1:
            raise InputError(
                f"--device {names}: one device is used here, name one; train.py alone, from a shell, takes several"
            )
        if len(several) != processes:
            raise InputError(f"--device {names}: {len(several)} devices for {processes} processes; name one for each")
        return several[local_rank()]
    names = "".join(several)  # one, or none
    if processes == 1 or names in ("cpu", "mps"):
        return names
    if names in ("", "cuda"):
        available = torch.cuda.device_count()
        if 0 < available < processes:
            raise InputError(f"{processes} processes, but {available} CUDA devices are visible; start one for each")
        return str(local_rank()) if available else "cpu"
    listed = ",".join(str(number) for number in range(processes))
    raise InputError(f"--device {names}: {processes} processes cannot share a GPU; name one each, as in {listed}")


def describe_device(device: torch.device) -> str:
    """One line for the log: versions and hardware."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        hardware = f"{device} ({properties.name}, {properties.total_memory / 2**30:.0f} GiB)"
    else:
        hardware = f"{device.type.upper()} ({torch.get_num_threads()} threads)"
    return f"OpenYOLOv5, Python {platform.python_version()}, torch {torch.__version__}, {hardware}"


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the device is a processor with bf16 arithmetic (AVX512-BF16)."""
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


@cache
def bf16_pays() -> bool:
    """Whether the processor convolves faster in bf16 than in FP32, by a trial of some milliseconds.

    Having the unit does not tell: AMD's takes two thirds of FP32's time for a network here, Intel's without AMX 1.3
    times as long.
    """
    ones = torch.ones(1, 64, 40, 40), torch.ones(64, 64, 3, 3)
    operands = {
        dtype: tuple(x.to(dtype, memory_format=torch.channels_last) for x in ones)
        for dtype in (torch.float32, torch.bfloat16)
    }
    times = dict.fromkeys(operands, float("inf"))
    with torch.inference_mode():
        for _ in range(BF16_TRIALS):  # in turn, and the best of each: other work on the machine comes and goes
            for dtype, (images, weight) in operands.items():
                start = perf_counter()
                torch.conv2d(images, weight, padding=1)
                times[dtype] = min(times[dtype], perf_counter() - start)
    return times[torch.bfloat16] < times[torch.float32]


def half_precision(device: torch.device) -> torch.dtype | None:
    """What `--half` means on this device: FP16 on CUDA, BF16 on processors that are faster in it; None elsewhere."""
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if computes_in_bf16(device) and bf16_pays() else None


@contextmanager
def single_threaded(wanted: bool = True) -> Iterator[None]:
    """Have torch work in the calling thread alone within the `with` body, if `wanted`.

    Its other threads keep spinning for a while after a parallel operation: beside a runtime that has threads of its own
    they cost that runtime half as much time again (measured with onnxruntime on two cores: 39 instead of 27 ms).
    """
    threads = torch.get_num_threads()
    if not wanted or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Let the process keep the memory of finished images, and of feature maps on a CPU, for the next ones.

    The C library hands large blocks back to the system and gets them anew, zeroed, page by page, which costs as much
    as decoding, or a quarter of a small network's time. glibc can be told to keep them (mallopt(3)); elsewhere this
    does nothing.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest it takes: smaller blocks come from the heap
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # and a free end of the heap stays


def memory_in_use(device: torch.device) -> str:
    """Memory of the device held by this process, as the progress line shows it."""
    return f"{torch.cuda.memory_reserved(device) / 1e9:.3g}G" if device.type == "cuda" else "0G"


def out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch, or a library below it, found no memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(phrase in str(error) for phrase in MEMORY_PHRASES)


def seed_everything(seed: int) -> None:
    """Seed torch and let cuDNN use repeatable algorithms only; images have generators of their own."""
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True


class Stopwatch:
    """Seconds spent in a stage, summed; waits for the device so that asynchronous work is counted."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of the `with` body."""
        self._wait()
        start = perf_counter()
        yield
        self._wait()
        self.seconds += perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
