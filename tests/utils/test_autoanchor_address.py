from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_jobs import build_tiny_model
from torch import nn

from utils.autoanchor import check_anchor_order, check_anchors, kmean_anchors
from utils.core.errors import InputError


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("openyolov5"), "propagate", True)
    caplog.set_level("INFO", "openyolov5")
    return caplog


def make_dataset(sizes: list[tuple[float, float]], *, spread: float = 0.02, count: int = 300) -> Any:
    """Images of 200 x 100 pixels with boxes of about these sizes, in pixels of the image."""
    rng = np.random.default_rng(0)
    labels = []
    for number in range(count):
        wh = np.array(sizes[number % len(sizes)]) * rng.uniform(1 - spread, 1 + spread, 2) / (200, 100)
        labels.append(np.array([[0, 0.5, 0.5, *wh]]) if number != 7 else np.zeros((0, 5)))
    return SimpleNamespace(shapes=np.tile([200.0, 100.0], (count, 1)), labels=labels)


def test_anchor_order() -> None:
    head = SimpleNamespace(
        anchors=torch.tensor([[[90.0, 90.0]], [[30, 30]], [[9, 9]]]), stride=torch.tensor([8, 16, 32])
    )
    storage = head.anchors
    check_anchor_order(head)
    assert head.anchors is storage and storage[:, 0, 0].tolist() == [9, 30, 90]
    check_anchor_order(head)
    assert storage[:, 0, 0].tolist() == [9, 30, 90]


def test_check_anchors_replaces_in_place(log: pytest.LogCaptureFixture) -> None:
    """Boxes of 2.5 x 2.5 to 20 x 4 image pixels become twice as large at 400 pixels; the anchors move to them."""
    model: Any = build_tiny_model()
    storage, before = model.head.anchors, model.head.anchors.clone()
    dataset = make_dataset([(2.5, 2.5), (3, 9), (8, 2.5), (20, 4)])
    np.random.seed(0)
    check_anchors(dataset, nn.DataParallel(model), thr=2.0, imgsz=400)
    assert model.head.anchors is storage and not torch.equal(storage, before)
    pixels = (storage * model.head.stride.view(-1, 1, 1)).view(-1, 2)
    expected = torch.tensor([[5.0, 5.0], [16, 5], [6, 18], [40, 8]])
    assert pixels[pixels.prod(dim=1).argsort()].numpy() == pytest.approx(expected.numpy(), rel=0.15)
    assert "new anchors" in log.text


def test_anchors_that_fit_are_kept(log: pytest.LogCaptureFixture) -> None:
    model: Any = build_tiny_model()
    before = model.head.anchors.clone()
    check_anchors(make_dataset([(10, 13), (60, 50)]), model, thr=4.0, imgsz=200)
    assert torch.equal(model.head.anchors, before) and "anchors fit the data set" in log.text


@pytest.mark.parametrize("path", [True, False], ids=["path=", "dataset="])
def test_kmean_anchors_of_a_data_yaml(tiny_data: Path, path: bool) -> None:
    """The squares and discs are 12 to 22 pixels wide; images of 96 pixels are scaled to 192."""
    keywords: Any = {"path": str(tiny_data)} if path else {"dataset": str(tiny_data)}
    np.random.seed(1)
    anchors = kmean_anchors(**keywords, n=3, img_size=192, thr=4.0, gen=20, verbose=False)
    assert anchors.shape == (3, 2) and anchors.dtype == np.float32
    assert (np.diff(anchors.prod(axis=1)) >= 0).all()
    assert anchors.min() > 20 and anchors.max() < 50
    np.random.seed(1)
    assert np.array_equal(kmean_anchors(**keywords, n=3, img_size=192, gen=20), anchors)


def test_kmean_anchors_of_a_dataset(log: pytest.LogCaptureFixture) -> None:
    dataset = make_dataset([(10, 20), (40, 10), (60, 60)])
    anchors = kmean_anchors(dataset, n=3, img_size=200, gen=50)
    assert anchors == pytest.approx(np.array([[10, 20], [40, 10], [60, 60]]), rel=0.05)
    assert "3 anchors for 299 boxes at 200 px: best possible recall 1.0000" in log.text


def test_no_boxes(log: pytest.LogCaptureFixture) -> None:
    dataset = SimpleNamespace(shapes=np.array([[10.0, 10]]), labels=[np.zeros((0, 5))])
    with pytest.raises(InputError, match="dataset: no boxes to fit anchors to"):
        kmean_anchors(dataset)
    model: Any = build_tiny_model()
    before = model.head.anchors.clone()
    check_anchors(dataset, model)
    assert torch.equal(model.head.anchors, before) and "no boxes to fit anchors to" in log.text
