from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from utils import plots
from utils.core.errors import InputError
from utils.core.results_csv import format_table, make_row
from utils.metrics.ap import APResult, average_precision
from utils.plots import batches, curves, labels, results
from utils.plots.figure import create_figure, save_figure

NAMES = {0: "circle", 1: "$_square", 2: "人"}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Figures by file name, captured instead of written."""
    captured: dict[str, Figure] = {}
    for module in (curves, labels, results):
        monkeypatch.setattr(module, "save_figure", lambda figure, file: captured.update({Path(file).name: figure}))
    return captured


def read(file: Path) -> np.ndarray:
    frame = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert frame is not None
    return frame


# -- batches ------------------------------------------------------------------------------------------------------


def test_batch_grid_places_images_row_by_row(tmp_path: Path) -> None:
    images = torch.zeros(3, 3, 64, 96, dtype=torch.uint8)
    for i in range(3):
        images[i, i] = 255  # red, green, blue
    file = tmp_path / "new" / "train_batch0.png"
    plots.plot_batch(images, torch.zeros(0, 6), ["a.jpg", "b.jpg", "c.jpg"], NAMES, file)
    grid = read(file)
    assert grid.shape == (64 * 2 + 2, 96 * 2 + 2, 3)
    assert grid[60, 90].tolist() == [0, 0, 255]  # BGR of red
    assert grid[60, 98 + 90].tolist() == [0, 255, 0]
    assert grid[66 + 60, 90].tolist() == [255, 0, 0]
    assert grid[66 + 60, 98 + 90].tolist() == [255, 255, 255]  # no fourth image


def test_batch_draws_targets_of_each_image(tmp_path: Path) -> None:
    images = np.zeros((2, 3, 100, 200), np.uint8)
    targets = np.array([[1, 0, 0.5, 0.75, 0.5, 0.3]], np.float32)  # second image: x 50-150, y 60-90
    plots.plot_batch(images, targets, ["a", "b"], NAMES, tmp_path / "b.png")
    is_drawn = read(tmp_path / "b.png").max(axis=2) > 0
    assert not is_drawn[30:, :200].any()
    assert is_drawn[90, 202 + 55 : 202 + 145].all()
    assert not is_drawn[95:, 202:].any()


def test_batch_draws_predictions_above_the_minimum_score(tmp_path: Path) -> None:
    images = torch.zeros(3, 3, 100, 100)
    boxes = [torch.tensor([[40, 60, 90, 95, 0.9, 1.0], [5, 40, 30, 95, 0.1, 1.0]]), None, torch.zeros(0, 6)]
    plots.plot_batch(images, boxes, ["a", "b", "c"], NAMES, tmp_path / "p.png")
    is_drawn = read(tmp_path / "p.png").max(axis=2) > 0
    assert is_drawn[95, 45:85].all()
    assert not is_drawn[40:100, 5:31].any()
    assert not is_drawn[40:100, 102:].any()


def test_batch_is_scaled_and_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_SIDE", 128)
    plots.plot_batch(torch.zeros(20, 1, 64, 32), torch.zeros(0, 6), ["x"] * 20, {}, tmp_path / "b.jpg")
    assert read(tmp_path / "b.jpg").shape == (4 * 30 + 6, 4 * 15 + 6, 3)  # 16 images, 30 = (128 - 8) / 4


def test_half_precision_values_become_pixels() -> None:
    image = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=torch.bfloat16).view(1, 2, 2)
    assert batches._frame(image)[..., 0].tolist() == [[0, 128], [255, 255]]


def test_empty_batch_is_written(tmp_path: Path) -> None:
    plots.plot_batch(torch.zeros(0, 3, 32, 32), torch.zeros(0, 6), [], NAMES, tmp_path / "b.png")
    assert read(tmp_path / "b.png").size


# -- curves -------------------------------------------------------------------------------------------------------


def example() -> APResult:
    tp = np.array([[True], [False], [True]])
    return average_precision(tp, np.array([0.9, 0.8, 0.7]), np.array([0, 0, 2]), np.array([0, 2, 2]))


def test_curves_show_every_class_and_the_mean(figures: dict[str, Figure], tmp_path: Path) -> None:
    plots.plot_curves(example(), NAMES, tmp_path, prefix="Box")
    assert sorted(figures) == ["BoxF1_curve.png", "BoxPR_curve.png", "BoxP_curve.png", "BoxR_curve.png"]
    axes = figures["BoxPR_curve.png"].axes[0]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [text.split()[0] for text in texts] == ["circle", "人", "all"]
    assert [line.get_linewidth() for line in axes.lines] == [1, 1, 3]
    mean = np.mean([line.get_ydata() for line in axes.lines[:2]], axis=0)
    np.testing.assert_allclose(axes.lines[2].get_ydata(), mean)


def test_caption_names_the_highest_point() -> None:
    values = np.array([[0.0, 0.8, 0.2], [0.0, 0.4, 0.6]])
    assert curves.format_best("F1", np.array([0.0, 0.5, 1.0]), values) == "all classes: F1 0.60 at 0.500"


def test_legend_of_many_classes_has_only_the_mean(figures: dict[str, Figure], tmp_path: Path) -> None:
    classes = np.arange(curves.MAX_LEGEND_CLASSES + 1)
    result = average_precision(np.ones((len(classes), 1), bool), np.full(len(classes), 0.5), classes, classes)
    plots.plot_curves(result, {}, tmp_path)
    assert len(figures["P_curve.png"].axes[0].get_legend().get_texts()) == 1


def test_curves_without_labels_are_empty(figures: dict[str, Figure], tmp_path: Path) -> None:
    plots.plot_curves(average_precision(np.zeros((0, 10), bool), *[np.zeros(0)] * 3), NAMES, tmp_path)
    assert [text.get_text() for text in figures["R_curve.png"].axes[0].texts] == ["no labels"]


def test_confusion_is_normalized_by_column(figures: dict[str, Figure], tmp_path: Path) -> None:
    matrix = np.array([[199.0, 0, 3], [1, 0, 1], [0, 0, 0]])  # class 0: 199 of 200; class 1: never occurs
    plots.plot_confusion_matrix(matrix, {0: "cat", 1: "dog"}, tmp_path / "confusion_matrix.png")
    axes = figures["confusion_matrix.png"].axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}  # (column, row)
    assert cells == {(0, 0): "0.99", (0, 1): "0.01", (2, 0): "0.75", (2, 1): "0.25"}
    assert [text.get_text() for text in axes.get_yticklabels()] == ["cat", "dog", "background"]


def test_confusion_hides_small_fractions(figures: dict[str, Figure], tmp_path: Path) -> None:
    plots.plot_confusion_matrix(np.array([[996.0, 0], [4, 0]]), {0: "cat"}, tmp_path / "c.png")
    assert [text.get_text() for text in figures["c.png"].axes[0].texts] == ["1.00"]


def test_confusion_of_many_classes_has_no_numbers(figures: dict[str, Figure], tmp_path: Path) -> None:
    plots.plot_confusion_matrix(np.eye(121), {}, tmp_path / "c.png")
    axes = figures["c.png"].axes[0]
    assert not axes.texts
    assert len(axes.get_xticklabels()) < 121


# -- labels -------------------------------------------------------------------------------------------------------


def test_label_counts_include_classes_without_boxes(figures: dict[str, Figure], tmp_path: Path) -> None:
    labels.plot_labels([0, 2, 2], [[0.5, 0.5, 0.1, 0.2]] * 3, NAMES, tmp_path)
    bars = figures["labels.jpg"].axes[0].patches
    assert [bar.get_height() for bar in bars] == [1, 0, 2]
    assert "labels_correlogram.jpg" in figures


def test_labels_of_an_empty_split(tmp_path: Path) -> None:
    labels.plot_labels(np.zeros(0), np.zeros((0, 4)), {}, tmp_path)
    assert read(tmp_path / "labels.jpg").shape == (1200, 1200, 3)
    assert read(tmp_path / "labels_correlogram.jpg").shape == (1080, 1080, 3)


@pytest.mark.parametrize("shape", [(6, 2), (3, 2, 2)])
def test_anchors_by_level(figures: dict[str, Figure], tmp_path: Path, shape: tuple[int, ...]) -> None:
    anchors = torch.arange(10, 130, 10).float().view(shape)
    plots.plot_anchors(np.random.default_rng(0).uniform(4, 300, (50, 2)), anchors, tmp_path / "anchors.png")
    points = [collection.get_offsets() for collection in figures["anchors.png"].axes[0].collections]
    assert len(points) == 1 + (shape[0] if len(shape) == 3 else 1)
    np.testing.assert_allclose(np.concatenate(points[1:]), anchors.view(-1, 2))


# -- results ------------------------------------------------------------------------------------------------------


def write_results(file: Path, epochs: int) -> None:
    columns = ("train/box_loss", "metrics/precision", "metrics/mAP_0.5", "val/box_loss", "x/lr0")
    file.write_text(format_table([make_row(e, dict.fromkeys(columns, 1 / (e + 1))) for e in range(epochs)]))


def test_results_panels(figures: dict[str, Figure], tmp_path: Path) -> None:
    write_results(tmp_path / "results.csv", 6)
    assert results.plot_results(tmp_path / "results.csv") == tmp_path / "results.png"
    axes = figures["results.png"].axes
    assert [a.get_title() for a in axes] == ["train/box_loss", "metrics/precision", "val/box_loss", "metrics/mAP_0.5"]
    np.testing.assert_allclose(axes[0].lines[0].get_ydata(), 1 / np.arange(1, 7), rtol=1e-4)  # five digits
    assert len(axes[0].lines) == 2


def test_panels_of_columns_without_values_are_empty(figures: dict[str, Figure], tmp_path: Path) -> None:
    rows = [make_row(e, {"train/box_loss": 0.5, "val/box_loss": float("nan")}) for e in range(3)]
    (tmp_path / "results.csv").write_text(format_table(rows))
    results.plot_results(tmp_path / "results.csv")
    train, val = figures["results.png"].axes
    assert (train.axison, val.axison, val.get_title()) == (True, False, "val/box_loss")


@pytest.mark.parametrize("epochs", [0, 1])
def test_results_of_zero_and_one_epoch(tmp_path: Path, epochs: int) -> None:
    write_results(tmp_path / "results.csv", 1)
    if not epochs:
        (tmp_path / "results.csv").write_text("epoch, loss\n")
    assert read(results.plot_results(tmp_path / "results.csv")).size


def test_results_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        results.plot_results(tmp_path / "results.csv")


def test_smoothing_keeps_constants_and_length() -> None:
    np.testing.assert_allclose(results._smooth(np.full(5, 2.0)), 2.0)
    assert results._smooth(np.arange(200.0)).shape == (200,)


def test_study_reads_map_and_time(figures: dict[str, Figure], tmp_path: Path) -> None:
    rows = [[0.5, 0.5, 0.6, 0.4, 0, 0, 0, 1, 2, 0.5], [0.5, 0.5, 0.6, 0.5, 0, 0, 0, 1, 4, 0.5]]
    np.savetxt(tmp_path / "study_coco_yolov5n.txt", rows, fmt="%10.4g")
    plots.plot_study([tmp_path / "study_coco_yolov5n.txt"], tmp_path / "study.png", sizes=(320, 640))
    axes = figures["study.png"].axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[3.5, 40], [5.5, 50]]
    assert [text.get_text() for text in axes.texts] == ["320", "640"]
    assert axes.get_legend().get_texts()[0].get_text() == "coco_yolov5n"


def test_study_of_segmentation_shows_masks(figures: dict[str, Figure], tmp_path: Path) -> None:
    np.savetxt(tmp_path / "study_a.txt", [[0.5] * 7 + [0.3] + [0] * 4 + [1, 2, 0.5]], fmt="%10.4g")
    plots.plot_study([tmp_path / "study_a.txt"], tmp_path / "study.png", sizes=(320,))
    assert figures["study.png"].axes[0].lines[0].get_xydata().tolist() == [[3.5, pytest.approx(30)]]


@pytest.mark.parametrize(
    ("row", "drawn", "axis"),
    [
        pytest.param([0.5, 0.5, 0.6, 0.4, 0.7, 0.9] + [0] * 4, 40, "mAP 0.5:0.95, %", id="joint"),
        pytest.param([0.7, 0.9, 0], 70, "mIoU, %", id="semantic"),
    ],
)
def test_study_of_semantic_masks(
    row: list[float], drawn: float, axis: str, figures: dict[str, Figure], tmp_path: Path
) -> None:
    np.savetxt(tmp_path / "study_a.txt", [[*row, 1, 2, 0.5]], fmt="%10.4g")
    plots.plot_study([tmp_path / "study_a.txt"], tmp_path / "study.png", sizes=(320,))
    axes = figures["study.png"].axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[3.5, pytest.approx(drawn)]]
    assert axes.get_ylabel() == axis


@pytest.mark.parametrize(
    ("content", "message"), [("1 2 3", "3 columns, expected 10 or 15 or 13 or 6"), ("a b", "could not convert")]
)
def test_study_of_a_wrong_file(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "study.txt").write_text(content)
    with pytest.raises(InputError, match=rf"study\.txt: .*{message}"):
        plots.plot_study([tmp_path / "study.txt"], tmp_path / "study.png")


# -- feature maps -------------------------------------------------------------------------------------------------


def test_feature_maps_image_and_array(tmp_path: Path) -> None:
    maps = torch.randn(2, 40, 12, 6, dtype=torch.float16)
    file = plots.save_feature_maps(maps, "models.common.C3", 4, tmp_path / "bus")
    assert file == tmp_path / "bus" / "stage4_C3_features.png"
    assert read(file).shape == (4 * (96 + 2) - 2, 8 * (48 + 2) - 2, 3)  # 32 maps, enlarged eight times
    np.testing.assert_array_equal(np.load(file.with_suffix(".npy")), maps[0].float().numpy())


@pytest.mark.parametrize("output", [torch.zeros(1, 8, 1, 1), torch.zeros(1, 100, 85), [torch.zeros(1, 3, 4, 4)], None])
def test_other_outputs_are_skipped(tmp_path: Path, output: object) -> None:
    assert plots.save_feature_maps(output, "Detect", 24, tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_constant_maps_are_drawn(tmp_path: Path) -> None:
    file = plots.save_feature_maps(torch.ones(1, 3, 4, 4), "Conv", 0, tmp_path)
    assert file is not None
    assert read(file).shape == (96, 3 * 98 - 2, 3)


# -- figures ------------------------------------------------------------------------------------------------------


def draw_text_figure(tmp_path: Path, text: str, rotation: int) -> np.ndarray:
    figure = create_figure(2, 2, dpi=100)
    figure.text(0.5, 0.5, text, ha="center", va="center", rotation=rotation, color="red", parse_math=False)
    save_figure(figure, tmp_path / "名" / "t.png")
    ink = (read(tmp_path / "名" / "t.png") != 255).any(axis=2)
    rows, columns = np.nonzero(ink)
    assert 90 <= (rows.min() + rows.max()) / 2 <= 110
    assert 90 <= (columns.min() + columns.max()) / 2 <= 110
    return ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


@pytest.mark.parametrize("text", ["plain", "人人人人", "שלום", "$x", "a$b$"])
@pytest.mark.parametrize("rotation", [0, 90])
def test_text_in_figures_is_placed_and_rotated(tmp_path: Path, text: str, rotation: int) -> None:
    height, width = draw_text_figure(tmp_path, text, rotation).shape
    assert (height > width) == (rotation == 90)


def test_figures_do_not_draw_empty_glyph_boxes(tmp_path: Path) -> None:
    assert not np.array_equal(draw_text_figure(tmp_path, "人", 0), draw_text_figure(tmp_path, "火", 0))


def test_color_of_text_is_kept(tmp_path: Path) -> None:
    draw_text_figure(tmp_path, "人", 0)
    frame = read(tmp_path / "名" / "t.png")
    assert frame[..., 2].min() == 255  # red stays 255, blue and green decrease
    assert frame[..., 0].min() < 60
