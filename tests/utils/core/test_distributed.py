from __future__ import annotations

import numpy as np
import pytest
import torch
from process_pairs import BATCH, IMAGES, run_jobs, run_pair, write_data

from utils.core import distributed
from utils.datasets.loader import Deal, EpochBatches, NoImages

JOBS = "gradients,training,measuring"


def differ(own: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference over the largest value of the tensor."""
    scale = max(float(own.abs().max()), 1e-30) if own.numel() else 1.0
    return float((own.double() - other.double()).abs().max()) / scale if own.numel() else 0.0


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
            assert differ(value, other["gradients"][key]) <= limit, key


def test_a_run_of_two_processes_ends_with_the_weights_of_one(results: tuple[dict, list[dict]]) -> None:
    single, pair = results
    for key, value in single["training"].items():
        assert differ(value, pair[0]["training"][key]) <= 1e-3, key
        assert torch.equal(pair[0]["training"][key], pair[1]["training"][key]), key


def test_validation_counts_every_image_once(results: tuple[dict, list[dict]]) -> None:
    single, pair = results
    assert int(single["measuring"]["images"]) == 4 * BATCH + 1
    assert max(float(value.max()) for key, value in single["measuring"].items() if "metrics" in key) > 0.05
    for key, value in single["measuring"].items():
        for other in pair:
            assert float((value - other["measuring"][key]).abs().max()) <= 1e-6, key


@pytest.mark.parametrize("size", [1, 3, 8, 13])
@pytest.mark.parametrize("processes", [1, 2, 5])
def test_every_key_is_dealt_once(size: int, processes: int) -> None:
    keys = [(0, n) for n in range(size)]
    parts = [Deal(rank, processes).own(keys) for rank in range(processes)]
    assert [key for part in parts for key in part] == keys
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    groups = [Deal(rank, processes, group=4).own(keys) for rank in range(processes)]
    assert [key for part in groups for key in part] == keys
    assert all(len(part) % 4 == 0 for part in groups if part and part[-1] != keys[-1])


def plan(**options: object) -> EpochBatches:
    return EpochBatches(IMAGES, **{"batch_size": BATCH, "shuffle": True, "seed": 3} | options)  # type: ignore


def test_training_deals_images_and_evaluation_batches() -> None:
    whole = list(plan())
    first, second = (list(plan(deal=Deal(rank, 2))) for rank in range(2))
    assert [a + (b if isinstance(b, list) else []) for a, b in zip(first, second, strict=True)] == whole
    assert second[-1] == NoImages(whole[-1][:1])
    measured = [list(plan(deal=Deal(rank, 2, whole=True))) for rank in range(2)]
    assert measured == [whole[::2], whole[1::2]]
    assert [len(plan(deal=Deal(rank, 2, whole=True))) for rank in range(2)] == [2, 1]


def test_an_epoch_goes_on_where_it_was_left() -> None:
    batches = plan()
    whole = list(batches)
    batches.first = 2
    assert list(batches) == whole[2:]
    assert len(batches) == 3  # the schedule counts whole epochs


def test_entries_of_several_processes_come_in_the_order_of_one() -> None:
    counts = [np.array([2, 1]), np.array([3])]  # batches 0 and 2, batch 1
    joined = ["a0", "a1", "c0", "b0", "b1", "b2"]
    assert [joined[i] for i in distributed.in_turns(counts)] == ["a0", "a1", "b0", "b1", "b2", "c0"]
    assert len(distributed.in_turns([])) == 0


def test_one_process_is_left_alone() -> None:
    value = torch.ones(2)
    with distributed.one_batch():
        assert distributed.shared_sum(value) is value
    assert distributed.is_main() and not distributed.any_process(False)
    assert distributed.from_main("häns") == "häns"
    (own,) = distributed.gather_arrays({"a": np.arange(3)})
    assert own["a"].tolist() == [0, 1, 2]
