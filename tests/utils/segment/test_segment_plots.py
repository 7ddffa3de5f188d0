from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from utils.core.errors import InputError
from utils.core.results_csv import format_table, make_row
from utils.plots import results
from utils.segment.metrics import KEYS
from utils.segment.plots import plot_images_and_masks, plot_results_with_masks

TARGETS = torch.tensor([[0, 0, 0.25, 0.5, 0.25, 0.5], [0, 1, 0.75, 0.5, 0.25, 0.5], [1, 1, 0.5, 0.5, 0.5, 0.5]])
WINDOWS = ((slice(4, 12), slice(2, 6)), (slice(4, 12), slice(10, 14)), (slice(4, 12), slice(4, 12)))  # of 16 x 16


def read(file: Path) -> np.ndarray:
    frame = cv2.imread(str(file))
    assert frame is not None
    return frame.astype(int)


def make_masks(*, overlap: bool) -> torch.Tensor:
    masks = torch.zeros(2 if overlap else 3, 16, 16)
    for row, (image, value) in enumerate(((0, 1), (0, 2), (1, 1))):
        masks[(image if overlap else row, *WINDOWS[row])] = value if overlap else 1
    return masks


def is_colored(frame: np.ndarray) -> np.ndarray:
    """Where a pixel of a gray image has been painted."""
    return np.ptp(frame, axis=2) > 20


@pytest.mark.parametrize("overlap", [True, False])
def test_labels_are_painted_where_their_masks_are(tmp_path: Path, overlap: bool) -> None:
    images = torch.full((2, 3, 256, 256), 0.5)
    plot_images_and_masks(
        images, TARGETS, make_masks(overlap=overlap), ["a.jpg", "b.jpg"], tmp_path / "a.png", ["x", "y"]
    )
    grid = is_colored(read(tmp_path / "a.png"))
    for row, (image, (y, x)) in enumerate(zip((0, 0, 1), WINDOWS, strict=True)):
        cell = grid[:256, image * 258 : image * 258 + 256]
        inside = cell[y.start * 16 + 40 : y.stop * 16 - 4, x.start * 16 + 4 : x.stop * 16 - 4]
        assert inside.all(), row
    assert not grid[220:256].any()


def test_predictions_with_low_scores_are_not_drawn(tmp_path: Path) -> None:
    images = torch.full((2, 3, 256, 256), 0.5)
    pixels = TARGETS[:, 2:] * 256
    rows = torch.cat((TARGETS[:, :2], pixels, torch.tensor([[0.9], [0.1], [0.8]])), dim=1)
    plot_images_and_masks(images, rows, make_masks(overlap=False), fname=tmp_path / "p.png", names={0: "x", 1: "y"})
    grid = is_colored(read(tmp_path / "p.png"))
    assert grid[150, 64] and grid[150, 258 + 128]
    assert not grid[60:200, 150:230].any()  # the second one


@pytest.mark.parametrize("targets", [torch.zeros(0, 6), torch.zeros(0, 7), torch.zeros(0)], ids=["6", "7", "flat"])
def test_no_objects(tmp_path: Path, targets: torch.Tensor) -> None:
    images = torch.zeros(1, 3, 64, 64)
    for masks in (torch.zeros(0, 16, 16), torch.zeros(1, 16, 16), []):
        plot_images_and_masks(images, targets, masks, fname=tmp_path / "e.png")
        assert read(tmp_path / "e.png").shape == (64, 64, 3)


def test_wrong_number_of_masks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 masks for 3 targets of 1 images"):
        plot_images_and_masks(torch.zeros(1, 3, 64, 64), TARGETS, torch.zeros(2, 16, 16), fname=tmp_path / "e.png")


def write_results(file: Path, scores: list[float]) -> None:
    rows = [make_row(epoch, dict.fromkeys(KEYS, score)) for epoch, score in enumerate(scores)]
    file.write_text(format_table(rows, width=23))


@pytest.mark.parametrize(("best", "marked"), [(True, 1), (False, 2)])
def test_results_mark_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: bool, marked: int) -> None:
    figures: dict[str, Figure] = {}
    monkeypatch.setattr(results, "save_figure", lambda figure, file: figures.update({file.name: figure}))
    write_results(tmp_path / "results.csv", [0.2, 0.6, 0.4])
    plot_results_with_masks(tmp_path / "results.csv", best=best)
    axes = figures["results.png"].axes
    assert len(axes) == 16
    for panel in axes:
        assert panel.lines[-1].get_marker() == "*"
        assert panel.lines[-1].get_xydata().tolist() == [[marked, [0.2, 0.6, 0.4][marked]]]
    assert axes[0].get_title() == f"train/box_loss {[0.2, 0.6, 0.4][marked]}"


def test_results_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no results\.csv"):
        plot_results_with_masks("", dir=tmp_path)
    write_results(tmp_path / "results.csv", [0.2])
    plot_results_with_masks("", dir=tmp_path)
    assert read(tmp_path / "results.png").size
    (tmp_path / "results.csv").write_text(format_table([make_row(0, {"train/box_loss": 1})]))
    with pytest.raises(InputError, match=r"no column metrics/precision\(B\)"):
        plot_results_with_masks(tmp_path / "results.csv")
