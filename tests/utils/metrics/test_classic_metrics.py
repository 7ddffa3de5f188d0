"""Names of `utils.metrics`; average precision, fitness and matrix are also in tests/test_public_addresses.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from utils import metrics
from utils.metrics import (
    ConfusionMatrix,
    ap_per_class,
    bbox_ioa,
    bbox_iou,
    compute_ap,
    plot_mc_curve,
    plot_pr_curve,
    smooth,
    wh_iou,
)
from utils.plots import curves


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Figures by file name, captured instead of written."""
    captured: dict[str, Figure] = {}
    monkeypatch.setattr(curves, "save_figure", lambda figure, file: captured.update({str(file): figure}))
    return captured


@pytest.mark.parametrize(("kind", "name"), [({}, "iou"), ({"GIoU": True}, "giou"), ({"CIoU": True}, "ciou")])
def test_bbox_iou_in_the_form_before_7(shared: Path, kind: dict[str, bool], name: str) -> None:
    golden = np.load(shared / "reference/golden/boxes.npz")
    a, b = torch.from_numpy(golden["a"]), torch.from_numpy(golden["b"])
    ious = bbox_iou(a.T, b, x1y1x2y2=True, **kind)  # corners, the first transposed
    assert ious.shape == (64,)
    np.testing.assert_allclose(ious, golden[name], atol=1e-5)
    sizes = [torch.cat(((x[:, :2] + x[:, 2:]) / 2, x[:, 2:] - x[:, :2]), dim=1) for x in (a, b)]
    np.testing.assert_allclose(bbox_iou(sizes[0].T, sizes[1], x1y1x2y2=False, **kind), golden[name], atol=1e-4)
    if not kind:
        np.testing.assert_allclose(bbox_iou(a[3], b, x1y1x2y2=True), golden["iou_matrix"][3], atol=1e-5)


def test_bbox_ioa_by_hand() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    others = np.array([[5.0, 5, 15, 15], [0, 0, 2, 2], [25, 0, 26, 40], [50, 50, 60, 60]])
    np.testing.assert_allclose(bbox_ioa(boxes, others), [[0.25, 1, 0, 0], [0, 0, 0.25, 0]], atol=1e-6)
    np.testing.assert_allclose(bbox_ioa(boxes[0], others), [0.25, 1, 0, 0], atol=1e-6)


def test_wh_iou_by_hand() -> None:
    ious = wh_iou(torch.tensor([[2.0, 4.0], [1.0, 1.0]]), torch.tensor([[4.0, 2.0], [2.0, 4.0], [1.0, 2.0]]))
    torch.testing.assert_close(ious, torch.tensor([[4 / 12, 1.0, 0.25], [1 / 8, 1 / 8, 0.5]]))


def test_smooth_by_hand() -> None:
    y = np.zeros(20)
    y[10] = 3.0
    expected = np.zeros(20)
    expected[9:12] = 1.0  # a window of three values
    np.testing.assert_allclose(smooth(y, f=0.1), expected, atol=1e-12)
    np.testing.assert_allclose(smooth(np.full(1000, 2.0)), 2.0)
    assert smooth(np.arange(1000.0))[500] == pytest.approx(500)


def test_compute_ap_against_the_reference(shared: Path) -> None:
    """Each class and threshold of the reference, its curve counted detection by detection."""
    golden = np.load(shared / "reference/golden/ap.npz")
    order = np.argsort(-golden["conf"])
    tp, classes = golden["tp"][order], golden["pred_cls"][order]
    for row, number in enumerate(golden["classes"]):
        for threshold in (0, 4, 9):
            hits = np.cumsum(tp[classes == number, threshold])
            ap, mpre, mrec = compute_ap(
                hits / (golden["target_cls"] == number).sum(), hits / np.arange(1, len(hits) + 1)
            )
            assert ap == pytest.approx(golden["ap"][row, threshold], abs=1e-9)
            assert len(mpre) == len(mrec) == len(hits) + 2 and (mrec[0], mpre[-1]) == (0, 0)
            assert (np.diff(mpre) <= 0).all()


def test_compute_ap_by_hand() -> None:
    """Envelope 1 up to recall 0.5, then 0.5: as many of the 101 samples on each side."""
    ap, mpre, mrec = compute_ap([0.25, 0.5, 0.75, 1.0], [1.0, 1.0, 0.4, 0.5])
    assert mpre.tolist() == [1, 1, 1, 0.5, 0.5, 0] and mrec.tolist() == [0, 0.25, 0.5, 0.75, 1, 1]
    assert ap == pytest.approx(0.5 + 0.75 * 0.25 + 0.5 * 0.25, abs=0.005)


def test_ap_per_class_counts(shared: Path) -> None:
    golden = np.load(shared / "reference/golden/ap.npz")
    tp, fp, *_, classes = ap_per_class(*(golden[name] for name in ("tp", "conf", "pred_cls", "target_cls")))
    np.testing.assert_array_equal(tp, golden["out_tp"])
    np.testing.assert_array_equal(fp, golden["out_fp"])
    assert classes.dtype == np.int64 and classes.tolist() == golden["classes"].tolist()


def test_plot_pr_curve(figures: dict[str, Figure], tmp_path: Path) -> None:
    px = np.linspace(0, 1, 1000)
    rows, ap = [1 - px, 1 - px**2], np.array([[0.5, 0.1], [0.625, 0.2]])
    plot_pr_curve(px, rows, ap, tmp_path / "PR_curve.png", {0: "cat", 1: "dog"})
    axes = figures[str(tmp_path / "PR_curve.png")].axes[0]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), rows[1])
    np.testing.assert_allclose(axes.lines[2].get_ydata(), (rows[0] + rows[1]) / 2)
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["cat 0.500", "dog 0.625", "all classes: mAP 0.5 0.562"]


def test_plot_mc_curve(figures: dict[str, Figure], tmp_path: Path) -> None:
    px = np.linspace(0, 1, 11)
    values = np.stack([px, 0.5 * px])
    plot_mc_curve(px, values, str(tmp_path / "F1_curve.png"), ("cat", "dog"), ylabel="F1")
    axes = figures[str(tmp_path / "F1_curve.png")].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Confidence", "F1")
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["cat", "dog", "all classes: F1 0.75 at 1.000"]


def test_plots_are_written(tmp_path: Path) -> None:
    plot_mc_curve(np.linspace(0, 1, 11), np.zeros((0, 11)), tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "labels", [np.array([1.0, 3.0, 1.0]), np.array([[1, 0, 0, 9, 9], [3, 0, 0, 9, 9], [1, 5, 5, 9, 9.0]])]
)
def test_confusion_matrix_without_detections(labels: np.ndarray) -> None:
    matrix = ConfusionMatrix(nc=4)
    matrix.process_batch(None, torch.from_numpy(labels))
    expected = np.zeros((5, 5))
    expected[4, 1], expected[4, 3] = 2, 1  # predicted background
    np.testing.assert_array_equal(matrix.matrix, expected)
    matrix.process_batch(None, torch.zeros(0))
    np.testing.assert_array_equal(matrix.matrix, expected)


@pytest.mark.parametrize("normalize", [True, False])
def test_confusion_matrix_plot(figures: dict[str, Figure], tmp_path: Path, normalize: bool) -> None:
    matrix = ConfusionMatrix(nc=2)
    matrix.matrix = np.array([[6, 1, 2], [2, 3, 0], [0, 0, 0.0]])
    matrix.plot(normalize=normalize, save_dir=tmp_path, names={0: "cat", 1: "dog"})
    axes = figures[str(tmp_path / "confusion_matrix.png")].axes[0]
    texts = sorted(text.get_text() for text in axes.texts)
    assert texts == (["0.25", "0.25", "0.75", "0.75", "1.00"] if normalize else ["1", "2", "2", "3", "6"])
    assert axes.images[0].get_clim() == (0, 1 if normalize else 6)


def test_addresses() -> None:
    for name in metrics.PUBLIC_NAMES:
        assert callable(getattr(metrics, name)), name
