from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.core.errors import InputError
from utils.datasets.tools import anchors as anchors_cli
from utils.ops.autoanchor import (
    check_anchors,
    compute_anchor_fit,
    compute_box_sizes,
    search_anchors,
)

ROOT = Path(__file__).resolve().parents[3]
DEFAULT = np.array([[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]])


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tiny_boxes(count: int = 400, seed: int = 0) -> np.ndarray:
    """Boxes of 2-8 pixels, far from the default anchors, in three clusters."""
    rng = generator(seed)
    return rng.choice([[2.5, 5.0], [4, 4], [8, 3]], count) * rng.uniform(0.9, 1.1, (count, 2))


def head(anchors: np.ndarray = DEFAULT, strides: tuple[float, ...] = (8, 16, 32)) -> SimpleNamespace:
    stride = torch.tensor(strides)
    levels = torch.tensor(anchors, dtype=torch.float32).view(len(strides), -1, 2)
    return SimpleNamespace(anchors=levels / stride.view(-1, 1, 1), stride=stride)


def test_fit_by_hand() -> None:
    anchors = np.array([[10.0, 10.0], [20.0, 40.0]])
    boxes = np.array([[10.0, 20.0], [39.9, 10.0], [40.0, 10.0], [400.0, 400.0]])
    # best ratios 1/2, 10/39.9, 1/4, 1/20; at threshold 4 the third is excluded; the first matches both anchors
    fit = compute_anchor_fit(anchors, boxes, 4.0)
    assert (fit.recall, fit.per_box) == (0.5, 0.75)
    assert fit.mean_best == pytest.approx((1 / 2 + 10 / 39.9 + 1 / 4 + 20 / 400) / 4, rel=1e-5)


def test_search_finds_clusters() -> None:
    anchors = search_anchors(tiny_boxes(), 3, rng=generator(), generations=200)
    np.testing.assert_allclose(anchors, [[2.5, 5], [4, 4], [8, 3]], rtol=0.05)


def test_generations_improve_the_fit_and_equal_generators_agree() -> None:
    rng = generator(3)
    boxes = np.exp(rng.normal(4, 0.8, (500, 2)))
    before, after = (search_anchors(boxes, 9, rng=generator(1), generations=g) for g in (0, 300))
    limit = compute_anchor_fit(before, boxes)
    assert compute_anchor_fit(after, boxes).mean_best > limit.mean_best + 0.01
    np.testing.assert_array_equal(after, search_anchors(boxes, 9, rng=generator(1), generations=300))
    assert (np.diff(after.prod(axis=1)) >= 0).all()


@pytest.mark.parametrize("boxes", [[[5.0, 7.0]], [[5.0, 7.0]] * 20, [[5.0, 7.0], [9.0, 9.0]]])
def test_fewer_boxes_than_anchors(boxes: list[list[float]]) -> None:
    anchors = search_anchors(np.array(boxes), 9, rng=generator(), generations=5)
    assert anchors.shape == (9, 2) and np.isfinite(anchors).all() and (anchors >= 2).all()


def test_no_usable_box() -> None:
    with pytest.raises(ValueError, match="none of 2 boxes has a side of 2 pixels"):
        search_anchors(np.array([[1.0, 1.5], [0.0, 0.0]]), 9, rng=generator())


def test_a_thousand_generations_take_seconds() -> None:
    boxes = np.exp(generator().normal(4, 0.8, (5000, 2)))
    start = time.process_time()
    search_anchors(boxes, 9, rng=generator(), generations=1000)
    assert time.process_time() - start < 5


def test_box_sizes_of_an_index() -> None:
    sizes = compute_box_sizes(
        np.array([[100, 200], [50, 25]]), np.array([0, 1, 3]), np.array([[0.5, 0.5, 0.5, 1.0]] * 3, np.float32), 640
    )
    np.testing.assert_allclose(sizes, [[320, 320], [160, 640], [160, 640]])


def test_matching_anchors_are_kept() -> None:
    detector = head()
    before = detector.anchors.clone()
    boxes = DEFAULT.repeat(10, axis=0).astype(float)
    assert check_anchors(detector, boxes, rng=generator()) is False
    assert torch.equal(detector.anchors, before)


@pytest.mark.parametrize("strides", [(8.0, 16.0, 32.0), (32.0, 16.0, 8.0)])
def test_other_anchors_are_replaced(strides: tuple[float, ...]) -> None:
    detector = head(strides=strides)
    storage = detector.anchors
    assert check_anchors(detector, tiny_boxes(), rng=generator(), generations=50) is True
    assert detector.anchors is storage  # in place
    pixels = (detector.anchors * detector.stride.view(-1, 1, 1)).numpy()
    assert compute_anchor_fit(pixels.reshape(-1, 2), tiny_boxes()).recall > 0.98
    areas = pixels.prod(axis=2).mean(axis=1)
    assert (areas.argsort() == np.argsort(strides)).all()  # small anchors on the fine level


@pytest.mark.parametrize("boxes", [np.zeros((0, 2)), np.ones((3, 2))])
def test_without_boxes_nothing_changes(boxes: np.ndarray) -> None:
    assert check_anchors(head(), boxes, rng=generator()) is False


def test_command_prints_rows_of_a_model_yaml() -> None:
    anchors = np.array([[2.4, 3], [4, 5.6], [7, 8]])
    text = anchors_cli.format_report(anchors, compute_anchor_fit(anchors, anchors), 3, 3, 320)
    assert text.splitlines()[1:] == ["anchors:", "  - [2,3]", "  - [4,6]", "  - [7,8]"]
    assert "3 anchors for 3 boxes at 320 px: best possible recall 1.0000" in text


def test_command_draws(tmp_path: Path) -> None:
    file = tmp_path / "new" / "anchors.png"
    anchors_cli.draw_anchors(DEFAULT, tiny_boxes(20), file)
    assert file.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("flags", "message"), [(["--n", "8"], "multiple"), (["--thr", "1"], "above 1"), (["--img", "0"], "32 or more")]
)
def test_command_rejects(flags: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        anchors_cli.main(flags)


def test_help_does_not_import_torch() -> None:
    code = """
import runpy, sys
sys.argv = ["anchors", "--help"]
try:
    runpy.run_module("utils.anchors", run_name="__main__")
except SystemExit:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--gen" in done.stdout and done.stdout.strip().endswith("False")
