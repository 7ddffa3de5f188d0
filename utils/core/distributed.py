"""Distributed training: ranks, collectives and gradient averaging.

torchrun starts the processes and sets their environment variables. In a single process the functions do nothing, so
the same code trains on a laptop and on two machines. NCCL transfers GPU tensors and gloo CPU tensors; both are open at
once, so that a message between hosts never waits for the device.
"""

from __future__ import annotations

import io
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.core.errors import InputError

START_TIMEOUT = timedelta(minutes=10)  # between the first and the last process to start, as for torchrun's agents
CONNECT_TIMEOUT = timedelta(minutes=2)  # after all have started
POLL_INTERVAL_S = 0.05  # between checks for processes that have started
TIMEOUT = timedelta(hours=3)  # other ranks wait while the main process downloads or checks a data set
BUCKET_BYTES = 25 << 20  # gradients per all-reduce: large enough for full speed, small enough to overlap the copies


def get_launched_world_size() -> int:
    """Number of processes that the launcher started; 1 without a launcher."""
    return int(os.getenv("WORLD_SIZE", "1"))


def init_process_group(device: torch.device) -> None:
    """Connect to the other processes of the launcher; does nothing for a single process.

    Raises:
        InputError: a process does not start within `START_TIMEOUT`.
    """
    if get_launched_world_size() == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, rank, world_size = next(dist.rendezvous("env://", timeout=START_TIMEOUT))
    prefix = agree_on_prefix(store, rank, world_size, timeout=START_TIMEOUT)
    store.set_timeout(TIMEOUT)
    store = dist.PrefixStore(prefix, store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=CONNECT_TIMEOUT)
    if hasattr(dist, "set_timeout"):
        dist.set_timeout(TIMEOUT)
    else:  # the name in older releases
        dist.distributed_c10d._set_pg_timeout(TIMEOUT)


def agree_on_prefix(store: dist.Store, rank: int, world_size: int, *, timeout: timedelta) -> str:
    """A prefix for keys of the store that is the same on all ranks and new each time the processes start.

    torchrun keeps its store when it restarts processes. With the keys of the previous start, gloo and NCCL would
    connect to addresses of dead processes (github.com/pytorch/pytorch/issues/135712). `TORCHELASTIC_RESTART_COUNT` is
    no such prefix: each machine counts its own restarts.

    Each rank publishes a random identifier of its process. Rank 0 answers every identifier, also those that dead
    processes left behind, with the prefix until all ranks have confirmed it.

    Args:
        timeout: how long to wait for the other ranks.

    Raises:
        InputError: a rank does not answer in time.
    """
    own = uuid.uuid4().hex
    if rank:
        store.set(f"process of rank {rank}", own)
        try:
            store.wait([own], timeout)
        except dist.DistStoreError as error:
            raise _make_start_error([0], timeout) from error
        prefix = store.get(own).decode()
        store.set(f"{prefix}/{rank}", "confirmed")
        return prefix
    deadline = time.monotonic() + timeout.total_seconds()
    missing = list(range(1, world_size))
    while missing := [other for other in missing if not store.check([f"{own}/{other}"])]:
        if time.monotonic() > deadline:
            raise _make_start_error(missing, timeout)
        for key in (f"process of rank {other}" for other in missing):
            if store.check([key]):
                store.set(store.get(key).decode(), own)
        time.sleep(POLL_INTERVAL_S)
    return own


def _make_start_error(ranks: Sequence[int], timeout: timedelta) -> InputError:
    names = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    return InputError(
        f"rank {names}: not started within {timeout.total_seconds():g} s; start the launchers of all machines within "
        "that time, with the same rendezvous"
    )


def destroy_process_group() -> None:
    """Disconnect from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def get_world_size() -> int:
    """Number of connected processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def get_rank() -> int:
    """Rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is rank 0, which writes files and logs."""
    return get_rank() == 0


def get_local_rank() -> int:
    """Rank of this process on its machine."""
    return int(os.getenv("LOCAL_RANK", "0"))


def get_local_world_size() -> int:
    """Number of processes on this machine."""
    return int(os.getenv("LOCAL_WORLD_SIZE", "1"))


# -- collectives ------------------------------------------------------------------------------------------------------


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum of a tensor over all ranks, without gradients."""
    if get_world_size() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank."""
    return flag if get_world_size() == 1 else bool(all_reduce_sum(torch.tensor(int(flag))))


def broadcast_text(text: str) -> str:
    """The text of rank 0."""
    return all_gather_bytes(text.encode() if is_main_process() else b"")[0].decode()


def barrier() -> None:
    """Wait for all ranks."""
    any_rank(False)


@contextmanager
def local_main_first() -> Iterator[None]:
    """Run the body on one process of each machine first, then on the others, which find its files."""
    if get_world_size() > 1 and get_local_rank():
        barrier()
    yield
    if get_world_size() > 1 and not get_local_rank():
        barrier()


def broadcast_tensors_(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of rank 0."""
    if get_world_size() > 1:
        for tensor in tensors:
            contiguous = tensor.detach().contiguous()
            dist.broadcast(contiguous, src=0)
            tensor.detach().copy_(contiguous)


def all_gather_bytes(data: bytes) -> list[bytes]:
    """The data of all ranks, in rank order."""
    if get_world_size() == 1:
        return [data]
    lengths = _all_gather(torch.tensor([len(data)]))
    max_length = max(int(length) for length in lengths)
    padded = torch.zeros(max(max_length, 1), dtype=torch.uint8)
    padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else padded[:0]
    parts = _all_gather(padded)
    return [part[: int(length)].numpy().tobytes() for part, length in zip(parts, lengths, strict=True)]


def all_gather_arrays(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The named arrays of all ranks, in rank order; transferred without pickle."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    gathered = []
    for part in all_gather_bytes(stream.getvalue()):
        with np.load(io.BytesIO(part), allow_pickle=False) as rank_arrays:
            gathered.append(dict(rank_arrays.items()))
    return gathered


def compute_interleaved_order(counts: Sequence[np.ndarray]) -> np.ndarray:
    """Indices that reorder entries concatenated by rank into the order of a single process.

    Args:
        counts: for each rank, the number of entries of each of its batches; rank k mod n has batch k of the split.
    """
    rank_starts = np.cumsum([0] + [int(count.sum()) for count in counts])
    batch_starts = [start + np.cumsum(count) - count for start, count in zip(rank_starts, counts, strict=False)]
    num_batches = max((len(count) for count in counts), default=0)
    parts = [
        np.arange(batch_starts[rank][batch], batch_starts[rank][batch] + counts[rank][batch])
        for batch in range(num_batches)
        for rank in range(len(counts))
        if batch < len(counts[rank])
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def _all_gather(tensor: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(get_world_size())]
    dist.all_gather(parts, tensor)
    return parts


# -- gradients --------------------------------------------------------------------------------------------------------


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all ranks.

    Call it once before an optimizer step, after all backward passes of the step. DistributedDataParallel would
    overlap the last pass, which saves little (a step of yolov5s computes a hundred times as long as its 29 MB take
    between two GPUs), and it cannot tell which pass of a step is the last for a parameter: with several (accumulation,
    a joint task whose batches use different heads), a parameter unused in the last pass would keep its local sum.

    A parameter must have a gradient on all ranks or on none; so a rank without images also runs forward and backward.
    """
    if get_world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    pending = []
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        pending.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
    for bucket, flat, work in pending:
        work.wait()
        parts = flat.split([gradient.numel() for gradient in bucket])
        torch._foreach_copy_(bucket, [p.view(g.shape) for p, g in zip(parts, bucket, strict=True)])


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The gradients in order, in lists of one dtype and about `BUCKET_BYTES`."""
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
