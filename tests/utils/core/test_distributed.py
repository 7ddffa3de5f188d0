from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from process_pairs import BATCH, IMAGES, run_jobs, run_pair, write_data

from utils.core import distributed
from utils.core.errors import InputError
from utils.datasets.loader import BatchShard, EmptyBatch, EpochBatchSampler

JOBS = "gradients,training,validation"


def relative_difference(expected: torch.Tensor, actual: torch.Tensor) -> float:
    """Largest difference over the largest value of the tensor."""
    scale = max(float(expected.abs().max()), 1e-30) if expected.numel() else 1.0
    return float((expected.double() - actual.double()).abs().max()) / scale if expected.numel() else 0.0


@pytest.fixture(scope="module", params=["detect", "segment", "classify", "joint"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[dict]]:
    """The jobs in one process, and in each of two."""
    folder = tmp_path_factory.mktemp(request.param)
    write_data(folder, request.param)
    single = run_jobs(JOBS, folder, folder / "one", request.param)
    (folder / "two").mkdir()
    return single, run_pair(JOBS, folder, folder / "two", request.param)


def test_loss_and_gradients_are_those_of_one_process(results: tuple[dict, list[dict]]) -> None:
    single, pair = results
    assert sum("grad" in key for key in single["gradients"]) > 40
    for key, value in single["gradients"].items():
        limit = 1e-9 if "float64" in key else (1e-5 if "loss" in key else 1e-3)
        for other in pair:
            assert relative_difference(value, other["gradients"][key]) <= limit, key


def test_two_processes_train_the_weights_of_one(results: tuple[dict, list[dict]]) -> None:
    single, pair = results
    for key, value in single["training"].items():
        assert relative_difference(value, pair[0]["training"][key]) <= 1e-3, key
        assert torch.equal(pair[0]["training"][key], pair[1]["training"][key]), key


def test_validation_counts_every_image_once(results: tuple[dict, list[dict]]) -> None:
    single, pair = results
    assert int(single["validation"]["images"]) == 4 * BATCH + 1
    assert max(float(value.max()) for key, value in single["validation"].items() if "metrics" in key) > 0.05
    for key, value in single["validation"].items():
        for other in pair:
            assert float((value - other["validation"][key]).abs().max()) <= 1e-6, key


@pytest.mark.parametrize("size", [1, 3, 8, 13])
@pytest.mark.parametrize("processes", [1, 2, 5])
def test_every_key_is_in_one_shard(size: int, processes: int) -> None:
    keys = [(0, n) for n in range(size)]
    parts = [BatchShard(rank, processes).select(keys) for rank in range(processes)]
    assert [key for part in parts for key in part] == keys
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    groups = [BatchShard(rank, processes, group=4).select(keys) for rank in range(processes)]
    assert [key for part in groups for key in part] == keys
    assert all(len(part) % 4 == 0 for part in groups if part and part[-1] != keys[-1])


def plan(**options: object) -> EpochBatchSampler:
    return EpochBatchSampler(IMAGES, **{"batch_size": BATCH, "shuffle": True, "seed": 3} | options)  # type: ignore


def test_training_shards_images_and_evaluation_batches() -> None:
    whole = list(plan())
    first, second = (list(plan(shard=BatchShard(rank, 2))) for rank in range(2))
    assert [a + (b if isinstance(b, list) else []) for a, b in zip(first, second, strict=True)] == whole
    assert second[-1] == EmptyBatch(whole[-1][:1])
    evaluated = [list(plan(shard=BatchShard(rank, 2, whole=True))) for rank in range(2)]
    assert evaluated == [whole[::2], whole[1::2]]
    assert [len(plan(shard=BatchShard(rank, 2, whole=True))) for rank in range(2)] == [2, 1]


def test_an_epoch_resumes_at_its_batch() -> None:
    batches = plan()
    whole = list(batches)
    batches.first = 2
    assert list(batches) == whole[2:]
    assert len(batches) == 3  # the schedule counts whole epochs


def test_interleaved_order_is_that_of_one_process() -> None:
    counts = [np.array([2, 1]), np.array([3])]  # batches 0 and 2, batch 1
    joined = ["a0", "a1", "c0", "b0", "b1", "b2"]
    assert [joined[i] for i in distributed.compute_interleaved_order(counts)] == ["a0", "a1", "b0", "b1", "b2", "c0"]
    assert len(distributed.compute_interleaved_order([])) == 0


def test_a_single_process_needs_no_group() -> None:
    value = torch.ones(2)
    assert distributed.all_reduce_sum(value) is value
    assert distributed.is_main_process() and not distributed.any_rank(False)
    assert distributed.broadcast_text("häns") == "häns"
    (arrays,) = distributed.all_gather_arrays({"a": np.arange(3)})
    assert arrays["a"].tolist() == [0, 1, 2]


# -- processes that start again -------------------------------------------------------------------------------------


def agree(store: dist.Store, ranks: int, *, timeout_s: float = 20) -> list[str]:
    """The prefix that each rank gets when all start at once, each in a thread."""
    with ThreadPoolExecutor(ranks) as pool:
        timeout = timedelta(seconds=timeout_s)
        jobs = [pool.submit(distributed.agree_on_prefix, store, rank, ranks, timeout=timeout) for rank in range(ranks)]
        return [job.result() for job in jobs]


def test_prefix_is_common_to_all_ranks_and_new_at_each_start() -> None:
    store = dist.HashStore()
    starts = [agree(store, 3) for _ in range(3)]
    assert all(len(set(prefixes)) == 1 for prefixes in starts)
    assert len({prefixes[0] for prefixes in starts}) == 3


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_prefix_after_a_rank_died_while_the_others_started(rank: int) -> None:
    """The others are dead, too, when the processes start again; their keys remain."""
    store = dist.HashStore()
    for other in range(3):
        if other != rank:
            with pytest.raises(InputError, match=r"not started within 0\.1 s"):
                distributed.agree_on_prefix(store, other, 3, timeout=timedelta(seconds=0.1))
    assert len(set(agree(store, 3))) == 1


def test_prefix_waits_for_a_rank_that_starts_again() -> None:
    """As when another machine restarts its processes while rank 0 still waits."""
    store = dist.HashStore()
    with ThreadPoolExecutor(1) as pool:
        main = pool.submit(distributed.agree_on_prefix, store, 0, 2, timeout=timedelta(seconds=20))
        store.set("process of rank 1", "killed before it confirmed")
        store.wait(["killed before it confirmed"], timedelta(seconds=20))
        assert not main.done()
        prefix = distributed.agree_on_prefix(store, 1, 2, timeout=timedelta(seconds=20))
        assert prefix == main.result()


def test_missing_ranks_are_named() -> None:
    with pytest.raises(InputError, match=r"rank 1, 2: not started within 0\.06 s; start the launchers"):
        distributed.agree_on_prefix(dist.HashStore(), 0, 3, timeout=timedelta(seconds=0.06))
