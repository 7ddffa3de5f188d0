from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageFont

from utils import plots
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.results_csv import format_table
from utils.plots import batches, classic
from utils.search.genes import GENES


def read(file: Path) -> np.ndarray:
    frame = cv2.imread(str(file))
    assert frame is not None, file
    return frame


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Figures by file name, besides being written."""
    saved: dict[str, Figure] = {}
    write: Callable[[Figure, Path], None] = classic.save_figure

    def save(figure: Figure, file: Path) -> None:
        saved[file.name] = figure
        write(figure, file)

    for module in ("classic", "labels", "results"):
        monkeypatch.setattr(f"utils.plots.{module}.save_figure", save)
    monkeypatch.setattr("utils.search.plot.save_figure", save)
    return saved


# -- colors, fonts, annotator -----------------------------------------------------------------------------------------


def test_colors() -> None:
    assert isinstance(plots.colors, plots.Colors)
    assert plots.colors(3) == plots.colors(torch.tensor(3.0), bgr=True)[::-1] == plots.colors.palette[3]
    assert len(set(plots.colors.palette)) == plots.colors.n == 20
    assert plots.Colors().hex2rgb("#FF7F50") == (255, 127, 80)
    assert plots.color_list() == plots.colors.palette[:10]


def test_check_pil_font(tmp_path: Path) -> None:
    font = plots.check_pil_font("no such font.ttf", size=17)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert (font.size, font.getname()[0]) == (17, "DejaVu Sans")
    assert plots.check_font(font.path, 9).size == 9


def test_annotator_masks() -> None:
    """Two masks that overlap in one column, the second one above."""
    frame = np.full((2, 3, 3), 100, np.uint8)
    annotator = plots.Annotator(frame)
    masks = torch.tensor([[[1, 1, 0], [1, 1, 0]], [[0, 1, 0], [0, 1, 0]]]).float()
    annotator.masks(masks, colors=[(200, 0, 0), (0, 0, 40)], im_gpu=torch.zeros(3, 2, 3), alpha=0.5)
    assert annotator.result() is frame
    # 100 / 2 + 200 / 2, 100 / 2; then half of it and half of the second color
    assert frame.tolist() == [[[150, 50, 50], [75, 25, 45], [100, 100, 100]]] * 2
    annotator.masks(torch.zeros(0, 2, 3), [])
    assert frame[0, 2].tolist() == [100] * 3


def test_annotator_masks_of_the_letterboxed_size() -> None:
    """A 40x80 image in a 64x64 input: 32 rows, 16 rows of border above and below."""
    frame = np.zeros((40, 80, 3), np.uint8)
    mask = np.zeros((1, 64, 64), np.float32)
    mask[:, :16] = 1  # the border only
    mask[:, 16:48, 32:] = 1  # the right half
    plots.Annotator(frame).masks(mask, [(10, 20, 30)], alpha=1.0)
    assert not frame[:, :39].any()
    assert (frame[:, 41:] == (10, 20, 30)).all()


def test_annotator_rectangle() -> None:
    annotator = plots.Annotator(np.zeros((20, 30, 3), np.uint8))
    annotator.rectangle([2.0, 3, 8, 9], fill=(1, 2, 3))
    annotator.rectangle(torch.tensor([12, 3, 18, 9]), outline=(4, 5, 6), width=1)
    annotator.rectangle([20, 3, 25, 9])
    im = annotator.result()
    assert (im[3:10, 2:9] == (1, 2, 3)).all()
    assert (im[3, 12:19] == (4, 5, 6)).all()
    assert not im[5, 15].any()
    assert not im[:, 20:].any()


def test_annotator_attributes() -> None:
    annotator = plots.Annotator(
        np.zeros((600, 600, 3), np.uint8), pil=True, font="Arial.ttf", font_size=12, example="猫"
    )
    assert annotator.lw == 2  # by default proportional to the image
    other = np.full((4, 4, 3), 9, np.uint8)
    annotator.fromarray(other)
    assert annotator.result() is other
    annotator.fromarray(Image.new("RGB", (5, 6)))
    assert annotator.result().shape == (6, 5, 3)


def test_plot_one_box() -> None:
    frame = np.zeros((60, 80, 3), np.uint8)
    plots.plot_one_box(torch.tensor([20.0, 20, 60, 50]), frame, color=[1, 2, 250], label="", line_thickness=1)
    assert frame[20, 30].tolist() == frame[35, 20].tolist() == [1, 2, 250]
    assert not frame[35, 40].any()
    gray = np.zeros((60, 80), np.uint8)[..., None].repeat(3, 2)[:, ::-1]  # not contiguous
    plots.plot_one_box([20, 20, 60, 50], gray, (5, 6, 7), None)
    assert gray[20, 30].tolist() == [5, 6, 7]
    copy = plots.plot_one_box_PIL([20, 20, 60, 50], np.zeros_like(frame), color=(9, 8, 7), label="cat")
    assert copy[50, 40].tolist() == [9, 8, 7]
    assert copy[:20].any()  # the label
    plots.plot_one_box([0, 0, 79, 59], frame)  # a random color


# -- batches ----------------------------------------------------------------------------------------------------------


def test_output_to_target() -> None:
    output = [torch.tensor([[0.0, 10, 20, 50, 0.9, 3], [0, 0, 2, 2, 0.8, 1], [0, 0, 4, 4, 0.7, 1]]), torch.zeros(0, 6)]
    output.append(torch.tensor([[1.0, 1, 3, 5, 0.5, 2, 7, 7]]))  # with mask coefficients
    rows = plots.output_to_target(output, max_det=2)
    expected = [[0, 3, 10, 30, 20, 40, 0.9], [0, 1, 1, 1, 2, 2, 0.8], [2, 2, 2, 3, 2, 4, 0.5]]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    assert rows.dtype == np.float32
    assert plots.output_to_target([torch.zeros(0, 6)]).shape == (0, 7)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, list[str]]]:
    """Boxes and labels that a grid of images draws, by image."""
    calls: list[tuple[np.ndarray, list[str]]] = []
    draw: Callable[..., np.ndarray] = batches.draw_boxes

    def record(frame: np.ndarray, boxes: Any, labels: list[str], *arguments: Any, **options: Any) -> np.ndarray:
        calls.append((np.asarray(boxes), labels))
        return draw(frame, boxes, labels, *arguments, **options)

    monkeypatch.setattr(batches, "draw_boxes", record)
    return calls


@pytest.mark.parametrize("scale", [1, 64])
def test_plot_images_with_targets(scale: int, tmp_path: Path, drawn: list[tuple[np.ndarray, list[str]]]) -> None:
    """Boxes normalized or in pixels of 64x64 images."""
    images = torch.rand(3, 3, 64, 64)
    boxes = np.array([[0.5, 0.5, 0.25, 0.5], [0.25, 0.5, 0.5, 0.5]]) * scale
    targets = torch.tensor(np.column_stack([[0, 2], [1, 0], boxes]))
    plots.plot_images(images, targets, ["a/x.jpg", "y.jpg", "z.jpg"], tmp_path / "new" / "grid.jpg", names=["a", "b"])
    assert read(tmp_path / "new" / "grid.jpg").shape == (2 * 64 + 2, 2 * 64 + 2, 3)
    np.testing.assert_allclose(drawn[0][0], [[24, 16, 40, 48]], atol=1e-3)
    np.testing.assert_allclose(drawn[2][0], [[0, 16, 32, 48]], atol=1e-3)
    assert [labels for _, labels in drawn] == [["b"], [], ["a"]]


def test_plot_images_with_predictions(tmp_path: Path, drawn: list[tuple[np.ndarray, list[str]]]) -> None:
    images = np.full((20, 3, 32, 64), 200, np.uint8)
    output = [torch.tensor([[8.0, 8, 24, 16, 0.9, 0], [0, 0, 9, 9, 0.1, 1]])] + [torch.zeros(0, 6)] * 19
    plots.plot_images(images, plots.output_to_target(output), None, str(tmp_path / "p.png"), {0: "cat"}, max_subplots=4)
    assert len(drawn) == 4
    np.testing.assert_allclose(drawn[0][0], [[8, 8, 24, 16]], atol=1e-3)
    assert drawn[0][1] == ["cat 0.90"]  # the other one is below 0.25
    grid = read(tmp_path / "p.png")
    assert grid[20, 50].tolist() == [200, 200, 200]
    plots.plot_images(images.astype(np.float32), np.zeros((0, 6)), fname=tmp_path / "f.png")  # float up to 255
    assert read(tmp_path / "f.png")[20, 50].tolist() == [200, 200, 200]


def test_imshow_cls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(classic, "plot_captions", lambda *arguments, wrong: calls.append((*arguments, list(wrong))))
    mean, std = (np.array(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = np.random.default_rng(0).random((3, 3, 8, 8))
    batch = torch.from_numpy((pixels - mean) / std).float()
    caplog.set_level("INFO", LOGGER.name)
    labels, guesses = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    file = plots.imshow_cls(batch, labels, guesses, names=["cat", "dog"], nmax=2, verbose=True, f=tmp_path / "a.jpg")
    images, captions, target, wrong = calls[0]
    np.testing.assert_allclose(images, pixels[:2], atol=1e-6)
    assert (captions, target, wrong) == (["cat - cat", "dog - cat"], file, [False, True])
    assert caplog.messages == [f"{file}: cat - cat, dog - cat"]
    plots.imshow_cls(batch, labels)
    assert calls[1][1:] == (["class0", "class1", "class1"], Path("images.jpg"), [])


def test_imshow_cls_writes_a_file(tmp_path: Path) -> None:
    assert plots.imshow_cls(torch.zeros(2, 3, 32, 32), f=tmp_path / "a.jpg") == tmp_path / "a.jpg"
    assert read(tmp_path / "a.jpg").shape == (32, 66, 3)


def test_feature_visualization(tmp_path: Path) -> None:
    maps = torch.arange(2 * 6 * 4 * 4.0).reshape(2, 6, 4, 4)
    plots.feature_visualization(maps, "models.common.Conv", 3, n=2, save_dir=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "stage3_Conv_features.npy"), maps[0])
    assert read(tmp_path / "stage3_Conv_features.png").shape == (96, 2 * 96 + 2, 3)
    plots.feature_visualization(maps, "models.yolo.Detect", 24, save_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


# -- training ---------------------------------------------------------------------------------------------------------


def test_plot_labels(tmp_path: Path, figures: dict[str, Figure]) -> None:
    labels = np.array([[0, 0.5, 0.5, 0.1, 0.2], [2, 0.5, 0.5, 0.1, 0.2], [2, 0.1, 0.1, 0.1, 0.1]])
    plots.plot_labels(labels, ["a", "b", "c"], tmp_path)
    heights = [bar.get_height() for bar in figures["labels.jpg"].axes[0].patches]
    assert heights == [1, 0, 2]
    assert (tmp_path / "labels_correlogram.jpg").is_file()


def test_plot_results(tmp_path: Path, figures: dict[str, Figure]) -> None:
    rows = [{"epoch": str(i), "train/loss": f"{1 / (i + 1)}", "metrics/mAP_0.5": f"{i}"} for i in range(3)]
    (tmp_path / "results.csv").write_text(format_table(rows))
    assert plots.plot_results(tmp_path / "results.csv") is None
    (line,) = figures["results.png"].axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), [1, 1 / 2, 1 / 3])
    (tmp_path / "results.png").unlink()
    (tmp_path / "results2.csv").write_text(format_table(rows))
    plots.plot_results(dir=tmp_path)
    assert {p.name for p in tmp_path.glob("*.png")} == {"results.png", "results2.png"}
    plots.plot_results(save_dir=tmp_path)  # the name of 5.0
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no results\*.csv in this folder"):
        plots.plot_results(dir=tmp_path / "empty")


def test_plot_lr_scheduler(tmp_path: Path, figures: dict[str, Figure]) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - epoch / 10)
    plots.plot_lr_scheduler(optimizer, scheduler, epochs=4, save_dir=tmp_path)
    (line,) = figures["LR.png"].axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), [0.45, 0.4, 0.35, 0.3])
    assert (optimizer.param_groups[0]["lr"], scheduler.last_epoch) == (0.5, 0)  # unchanged
    assert (tmp_path / "LR.png").is_file()


def write_evolution(file: Path, **extra: str) -> None:
    results = {f"metrics/{name}": "0.1" for name in ("precision", "recall")}
    rows = [
        {**results, "metrics/mAP_0.5": f"{m}", "metrics/mAP_0.5:0.95": f"{m}", "val/box_loss": "1", "val/obj_loss": "1"}
        | {"val/cls_loss": "1", "lr0": f"{0.01 + m}", "momentum": "0.9", **extra}
        for m in (0.2, 0.6, 0.4)
    ]
    file.write_text(format_table(rows))


@pytest.mark.parametrize("extra", [{}, {"fitness": "0.5", "generation": "1"}])
def test_plot_evolve(
    extra: dict[str, str], tmp_path: Path, figures: dict[str, Figure], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", LOGGER.name)
    write_evolution(tmp_path / "evolve.csv", **extra)
    plots.plot_evolve(tmp_path / "evolve.csv")
    titles = [axes.get_title() for axes in figures["evolve.png"].axes]
    if extra:
        assert "3 generations is number 1, fitness 0.5" in caplog.text
    else:
        assert titles == ["generation 2 of 3", "lr0 = 0.61", "momentum = 0.9"]
        assert "3 generations is number 2, fitness 0.6" in caplog.text
    assert (tmp_path / "evolve.png").is_file()


def test_plot_evolve_without_rows(tmp_path: Path) -> None:
    (tmp_path / "evolve.csv").write_text("metrics/mAP_0.5, lr0\n")
    with pytest.raises(InputError, match=r"evolve.csv: no generations"):
        plots.plot_evolve(tmp_path / "evolve.csv")
    with pytest.raises(InputError, match=r"missing.csv: cannot be read"):
        plots.plot_evolve(tmp_path / "missing.csv")


def test_plot_evolution_of_5_0(tmp_path: Path, figures: dict[str, Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = list(GENES)[:2]
    Path("hyp.yaml").write_text("".join(f"{name}: 0.5\n" for name in names))
    np.savetxt("evolve.txt", [[0.1, 0.1, m, m, 1, 1, 1, m, 0.5] for m in (0.3, 0.2)])
    plots.plot_evolution("hyp.yaml")
    assert [axes.get_title() for axes in figures["evolve.png"].axes][1] == f"{names[0]} = 0.3"
    Path("hyp.yaml").write_text("lr0: 1\n")
    with pytest.raises(InputError, match=r"9 columns, but hyp\.yaml has 1 hyperparameters"):
        plots.plot_evolution("hyp.yaml")


def test_plot_val_study(tmp_path: Path, figures: dict[str, Figure]) -> None:
    for name, best in (("s", 0.5), ("m", 0.6)):
        rows = [[0.1, 0.1, 0.5, best - 0.1 * k, 0, 0, 0, 1, 2 + k, 3] for k in range(2)]
        np.savetxt(tmp_path / f"study_{name}.txt", rows)
    plots.plot_val_study(dir=tmp_path, x=[320, 640])
    axes = figures["study.png"].axes[0]
    assert [line.get_label() for line in axes.lines] == ["m", "s"]
    np.testing.assert_allclose(axes.lines[1].get_xdata(), [6, 7])
    np.testing.assert_allclose(axes.lines[1].get_ydata(), [50, 40])
    assert [text.get_text() for text in axes.texts][:2] == ["320", "640"]
    plots.plot_val_study(file=tmp_path / "study_s.txt")
    assert len(figures["study.png"].axes[0].lines) == 1
    plots.plot_study_txt(path=tmp_path)
    assert len(figures["study.png"].axes[0].lines) == 2
    assert (tmp_path / "study.png").is_file()


# -- arrays of numbers ------------------------------------------------------------------------------------------------


def test_hist2d() -> None:
    x, y = np.array([0.0, 0.1, 0.2, 10.0]), np.array([0.0, 0.1, 0.0, 10.0])
    np.testing.assert_allclose(plots.hist2d(x, y, n=4), np.log([3, 3, 3, 1]))


def test_butter_lowpass_filtfilt() -> None:
    pytest.importorskip("scipy")
    time = np.arange(0, 0.1, 1 / 50000)
    low, high = np.sin(2 * np.pi * 100 * time), np.sin(2 * np.pi * 10000 * time)
    filtered = plots.butter_lowpass_filtfilt(low + high)
    np.testing.assert_allclose(filtered[500:-500], low[500:-500], atol=0.01)


def test_butter_lowpass_filtfilt_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    monkeypatch.setitem(__import__("sys").modules, "scipy.signal", None)
    with pytest.raises(InputError, match="scipy"):
        plots.butter_lowpass_filtfilt(np.zeros(100))


def test_plots_of_text_files(tmp_path: Path, figures: dict[str, Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"val.txt: .*expected rows of numbers"):
        plots.plot_val_txt()
    np.savetxt("val.txt", [[0, 0, 2, 4], [0, 0, 4, 4]])
    np.savetxt("test.txt", [[0, 0, 2, 4]])
    np.savetxt("targets.txt", [[1, 2, 3, 4], [3, 2, 3, 4]])
    plots.plot_val_txt()
    low, high = figures["hist1d.png"].axes[0].get_xlim()
    assert 0.5 < low < 1 < 2 < high < 2.5  # centers at x = 1 and 2
    plots.plot_test_txt()
    low, high = figures["hist1d.png"].axes[1].get_xlim()
    assert low < 2 < high  # one center at y = 2
    plots.plot_targets_txt()
    assert figures["targets.jpg"].axes[0].get_legend().get_texts()[0].get_text() == "2 +- 1"
    plots.plot_wh_methods()
    assert len(figures["comparison.png"].axes[0].lines) == 3
    assert {p.name for p in tmp_path.iterdir()} >= {"hist2d.png", "hist1d.png", "targets.jpg", "comparison.png"}


def test_names_that_cannot_be_served_say_so() -> None:
    with pytest.raises(InputError, match="use plot_results"):
        plots.plot_results_overlay(0, 10)
    with pytest.raises(InputError, match="iDetection app are not supported"):
        plots.profile_idetection(save_dir="logs")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = plots.nothing
    assert plots.RANK == -1
