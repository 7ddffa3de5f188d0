"""Several processes that work as one: who is who, sums over all of them, and what the main one decides for everyone.

torchrun starts the processes and tells each its place in environment variables. In a single process everything here
does nothing: the same code trains on a laptop and on two machines.

NCCL carries what lies on a GPU, gloo what lies in main memory; both are open at once, so a message of the host never
waits for the device.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(hours=3)  # how long the others wait while the main process fetches or checks a data set
BUCKET_BYTES = 25 << 20  # gradients sent at a time: large enough for full speed, small enough to overlap the copies

_sharing = False  # whether the processes work on parts of one batch at this moment, see `one_batch`


def launched_processes() -> int:
    """How many processes the launcher started, 1 without one."""
    return int(os.getenv("WORLD_SIZE", "1"))


def start(device: torch.device) -> None:
    """Meet the other processes that the launcher started; nothing for a single one."""
    if launched_processes() == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)


def stop() -> None:
    """Part from the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes files and talks to the user."""
    return rank() == 0


def restarts() -> int:
    """How often the launcher has started the processes anew, in this run; every process must call it."""
    return max(int(part) for part in gather_bytes(os.getenv("TORCHELASTIC_RESTART_COUNT", "0").encode()))


def launch_id() -> str:
    """What tells this start of torchrun from others, over restarts of the processes; "" without torchrun."""
    run = os.getenv("TORCHELASTIC_RUN_ID", "")
    return f"none {os.getppid()}" if run == "none" else run  # the parent is the agent, which outlives the processes


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.getenv("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """How many of the processes run on this machine."""
    return int(os.getenv("LOCAL_WORLD_SIZE", "1"))


# -- sums and messages ------------------------------------------------------------------------------------------------


def all_sum(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without gradients."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


@contextmanager
def one_batch() -> Iterator[None]:
    """Within the body the processes work on parts of one batch: `shared_sum` adds over all of them.

    Outside, as in validation, each has batches of its own, and not equally many.
    """
    global _sharing
    before, _sharing = _sharing, True
    try:
        yield
    finally:
        _sharing = before


def shared_sum(count: Tensor) -> Tensor:
    """What a batch that is dealt out to several processes has in all: the number by which its loss is averaged.

    A loss divides its own part by this, so that the parts, and their gradients, add up to those of the whole batch.
    Every process must call it equally often, without images too.
    """
    return all_sum(count) if _sharing else count


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return flag if world_size() == 1 else bool(all_sum(torch.tensor(int(flag))))


def from_main(text: str) -> str:
    """The text that the main process has."""
    return gather_bytes(text.encode() if is_main() else b"")[0].decode()


def barrier() -> None:
    """Wait until every process has come here."""
    any_process(False)


@contextmanager
def first_on_each_machine() -> Iterator[None]:
    """The body is run by one process of each machine first, then by the others: they find its files."""
    if world_size() > 1 and local_rank():
        barrier()
    yield
    if world_size() > 1 and not local_rank():
        barrier()


def copy_from_main_(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of the main process."""
    if world_size() > 1:
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            dist.broadcast(whole, src=0)
            tensor.detach().copy_(whole)


def gather_bytes(own: bytes) -> list[bytes]:
    """What every process gives, in the order of their numbers."""
    if world_size() == 1:
        return [own]
    lengths = _gather(torch.tensor([len(own)]))
    longest = max(int(length) for length in lengths)
    padded = torch.zeros(max(longest, 1), dtype=torch.uint8)
    padded[: len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8) if own else padded[:0]
    parts = _gather(padded)
    return [part[: int(length)].numpy().tobytes() for part, length in zip(parts, lengths, strict=True)]


def gather_arrays(own: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The named arrays of every process, in the order of their numbers; nothing that travels can run."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **own)  # type: ignore[arg-type]
    gathered = []
    for part in gather_bytes(stream.getvalue()):
        with np.load(io.BytesIO(part), allow_pickle=False) as arrays:
            gathered.append(dict(arrays.items()))
    return gathered


def in_turns(counts: Sequence[np.ndarray]) -> np.ndarray:
    """Positions that bring entries joined process by process into the order of a single process.

    Args:
        counts: of each process, how many entries each of its batches gave; batch k of the plan is that of process
            k mod n.
    """
    starts = np.cumsum([0] + [int(count.sum()) for count in counts])
    first_of = [start + np.cumsum(count) - count for start, count in zip(starts, counts, strict=False)]
    turns = max((len(count) for count in counts), default=0)
    parts = [
        np.arange(first_of[process][turn], first_of[process][turn] + counts[process][turn])
        for turn in range(turns)
        for process in range(len(counts))
        if turn < len(counts[process])
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def _gather(tensor: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor)
    return parts


# -- gradients --------------------------------------------------------------------------------------------------------


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over all processes.

    Called once before an optimizer step, when all backward passes of the step are done. DistributedDataParallel would
    send gradients during the last one, which saves little (an average step of yolov5s computes for a hundred times as
    long as its 29 MB travel between two GPUs), and it cannot tell which pass of a step is a parameter's last: where a
    step has several (accumulation, a joint task whose batches use different heads) a parameter without a part in the
    last one would keep its own sum. Added up here, the gradients are those of one process, whatever the passes were.

    A parameter must have a gradient in all processes or in none; so a process without images computes too.
    """
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    travelling = []
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        travelling.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
    for bucket, flat, work in travelling:
        work.wait()
        parts = flat.split([gradient.numel() for gradient in bucket])
        torch._foreach_copy_(bucket, [p.view(g.shape) for p, g in zip(parts, bucket, strict=True)])


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The gradients in their order, in lists of one dtype and about `BUCKET_BYTES`."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (size >= BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel() * gradient.element_size()
    if bucket:
        yield bucket
