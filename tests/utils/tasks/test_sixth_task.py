"""A task beyond the five, defined in this file: it counts objects by the peaks of a heat map (arXiv:1904.07850).

No other file knows of it; yet it trains, resumes, validates, predicts, exports and runs as an exported file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import detect
import export
import hubconf
import train
import val
from models.checkpoint import load_training_state
from models.layers import LayerSpec
from models.yolo import NETWORK_LAYERS, BaseModel
from utils import plots
from utils.config.export import ExportConfig
from utils.core.errors import InputError
from utils.core.results_csv import read_rows
from utils.core.types import Batch, EvalResult, Prediction
from utils.export.run import build_export_options, build_job
from utils.export.verify import MismatchError, check_export
from utils.losses.result import LossResult, Reduce, count_images, keep_local
from utils.metrics.agreement import Agreement, Tolerance
from utils.ops.boxes import undo_letterbox
from utils.tasks import registry
from utils.tasks.base import Postprocess, PredictionFiles, Sink
from utils.tasks.detect import DetectionTask
from utils.tasks.networks import load_checkpoint, load_model
from utils.tasks.options import NO_OVERRIDES, Overrides, PostprocessOptions
from utils.tasks.registry import register_task
from utils.tasks.results import DrawStyle, Result
from utils.train.trainer import Trainer

STRIDE = 4
GRAPH = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": 3,
    "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "C3", [32]]],
    "head": [[-1, 1, "PeakHead", ["nc"]]],
}


# -- network -----------------------------------------------------------------------------------------------------------


class PeakHead(nn.Module):
    """(B, C, H, W) -> logits (B, nc, H, W) of an object's center."""

    def __init__(self, channels: int, nc: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, nc, 1)
        nn.init.constant_(self.conv.bias, -4.6)  # score 0.01

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class PeakModel(BaseModel):
    """A backbone with a `PeakHead`."""

    task = "peaks"
    layer_table = {  # noqa: RUF012
        **NETWORK_LAYERS,
        "PeakHead": LayerSpec(PeakHead, lambda args, context: ([context.inputs[0], context.num_classes], 1)),
    }

    def __init__(self, graph: Mapping[str, Any], ch: int = 3, nc: int | None = None) -> None:
        super().__init__()
        self._build({**graph, "nc": nc or graph["nc"]}, ch)
        self.nc = self.yaml["nc"]
        self.names = {i: str(i) for i in range(self.nc)}
        self.stride = torch.tensor([float(STRIDE)], device="cpu")


# -- task --------------------------------------------------------------------------------------------------------------


class PeakTask(DetectionTask):
    """Counts objects; its data are those of detection."""

    name = "peaks"
    graph_needs = "PeakHead as its last layer"
    loss_names = ("peak_loss",)
    main_metrics = (("count score", "metrics/count_score"),)
    supports_nms = False
    supports_int8 = False
    in_original = False

    @classmethod
    def matches_graph(cls, layers: frozenset[str], source: str) -> bool:
        return "PeakHead" in layers

    @classmethod
    def build_network(cls, graph: Any, ch: int = 3, overrides: Overrides = NO_OVERRIDES) -> BaseModel:
        return PeakModel(graph, ch, overrides.nc)

    def build_model(self, cfg: Any) -> BaseModel:
        model = self.build_network(self.load_graph(cfg), self.channels, Overrides(len(self.class_names)))
        model.names = dict(self.class_names)
        return model

    def prepare_training(self, model: BaseModel, save_dir: Path, *, anchors: bool, plots: bool) -> None: ...
    def bind(self, model: BaseModel) -> None: ...

    def losses(self, preds: Any, batch: Batch, *, reduce: Reduce = keep_local) -> LossResult | None:
        heat = torch.zeros_like(preds)
        height, width = preds.shape[2:]
        number, label, x, y = batch.targets[:, :4].T
        heat[number.long(), label.long(), (y * height).long(), (x * width).long()] = 1
        total = F.binary_cross_entropy_with_logits(preds, heat, pos_weight=heat.new_tensor(50.0), reduction="sum")
        images = count_images(preds, reduce)
        return LossResult.from_items({"peak_loss": total / images / 100}, images)

    @classmethod
    def outputs_agree(cls, exact: Any, mixed: Any) -> bool:
        return bool((exact.sigmoid() - mixed.float().sigmoid()).abs().max() < 0.1)

    @classmethod
    def build_postprocess(cls, options: PostprocessOptions) -> Postprocess:
        def postprocess(logits: Tensor, batch: Batch) -> list[Prediction]:
            return [
                Prediction(extra={"points": find_peaks(own, batch, number, original=options.original)})
                for number, own in enumerate(logits.cpu())
            ]

        return postprocess

    def build_evaluator(self) -> PeakEvaluator:  # type: ignore[override]
        return PeakEvaluator()

    def build_sinks(self, files: PredictionFiles, split: str) -> list[Sink]:
        return []

    def plot_batch(self, batch: Batch, file: Path, predictions: Sequence[Prediction] | None = None) -> None:
        plots.plot_batch(batch.images, batch.targets, batch.paths, self.class_names, file)

    @classmethod
    def build_result(cls, item: Any, prediction: Prediction, names: Any, input_hw: Any, ms: Any, semantic: Any = None):  # type: ignore[no-untyped-def]
        return PeakResult(item, prediction.extra["points"].numpy(), names, input_hw, ms)

    @classmethod
    def matches_outputs(cls, info: Any, outputs: Sequence[Tensor]) -> bool:
        return outputs[0].ndim == 4 and outputs[0].shape[1] == len(info.names)

    @classmethod
    def compare_outputs(
        cls, reference: Sequence[Tensor], outputs: Any, size_hw: Any, tolerance: Tolerance, nms: Any
    ) -> Agreement:
        gaps = (reference[0].sigmoid() - outputs[0].sigmoid()).abs().flatten(1).amax(dim=1)
        return Agreement.count(gaps <= tolerance.score)


def find_peaks(logits: Tensor, batch: Batch, number: int, *, original: bool) -> Tensor:
    """(n, 6) x, y, x, y in pixels, score, class of the local maxima above a score of one half."""
    scores = logits.sigmoid()
    is_peak = (scores == F.max_pool2d(scores, 5, stride=1, padding=2)) & (scores > 0.5)
    label, y, x = is_peak.nonzero(as_tuple=True)
    center = torch.stack([x, y, x, y], dim=1) * STRIDE + STRIDE / 2
    points = torch.cat([center, scores[is_peak][:, None], label[:, None]], dim=1)
    fit = batch.letterboxes[number] if original else None
    return points if fit is None else undo_letterbox(points, fit)


class PeakEvaluator:
    """Mean absolute error of the number of objects."""

    def __init__(self) -> None:
        self.errors: list[float] = []

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        for number, prediction in enumerate(predictions):
            count = int((batch.targets[:, 0] == number).sum())
            self.errors.append(abs(len(prediction.extra["points"]) - count))

    def state(self) -> dict[str, np.ndarray]:
        return {"errors": np.array(self.errors)}

    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.errors = [error for state in states for error in state["errors"].tolist()]

    def compute(self) -> EvalResult:
        error = float(np.mean(self.errors))
        metrics = {"metrics/count_error": error, "metrics/count_score": 1 / (1 + error)}
        return EvalResult(metrics, metrics["metrics/count_score"], np.zeros(2), f"count error {error:.3f}")

    def plot(self, save_dir: Path) -> None: ...


class PeakResult(Result):
    """Points instead of boxes."""

    def to_text_lines(self, *, with_score: bool = False, corners: bool = False) -> list[str]:
        return [f"{int(row[5])} {row[0]:g} {row[1]:g}" for row in self.boxes]

    def draw(self, style: DrawStyle) -> np.ndarray:
        canvas = self.source.frame.copy()
        for x, y in self.boxes[:, :2].round().astype(int).tolist():
            cv2.circle(canvas, (x, y), 3, (0, 0, 255), -1)
        return canvas


# -- proof -------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    register_task(PeakTask)
    yield
    del registry._registered["peaks"]


@pytest.fixture(scope="module")
def settings(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cfg = tmp_path_factory.mktemp("graph") / "peaks.yaml"
    cfg.write_text("\n".join(f"{key}: {value}" for key, value in GRAPH.items()))
    return {
        **{"data": str(tiny_data), "weights": "", "cfg": str(cfg), "imgsz": 96, "batch_size": 4, "workers": 0},
        **{"device": "cpu", "epochs": 40, "optimizer": "AdamW", "noautoanchor": True},
        "hyp": {
            "lr0": 0.01,
            "warmup_iterations": 0,
            "warmup_epochs": 0,
            "nominal_batch": 4,
            "mosaic": 0.0,
            "scale": 0.0,
        },
    }


@pytest.fixture(scope="module")
def best(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained checkpoint; the task follows from the model YAML."""
    result: Any = train.run(**settings, project=str(tmp_path_factory.mktemp("runs")), noval=True)
    return result.best or result.last


def test_it_learns_to_count(best: Path, tiny_data: Path, tmp_path: Path) -> None:
    row = read_rows(best.parents[1] / "results.csv")[-1]
    assert {"train/peak_loss", "metrics/count_error", "val/peak_loss"} <= row.keys()
    assert (best.parents[1] / "train_batch0.jpg").is_file() and (best.parents[1] / "val_batch0_pred.jpg").is_file()
    checkpoint = load_checkpoint(best)
    assert (checkpoint.task, checkpoint.names) == ("peaks", {0: "square", 1: "disc"})
    (count_error, count_score, *_), _, _ = val.run(
        weights=str(best), data=str(tiny_data), imgsz=96, workers=0, device="cpu", project=str(tmp_path)
    )
    assert count_error < 1.5
    assert count_score == pytest.approx(1 / (1 + count_error))


def test_a_resumed_run_equals_an_uninterrupted_one(settings: dict[str, Any], tmp_path: Path) -> None:
    quick = settings | {"epochs": 2, "noplots": True}
    whole: Any = train.run(**quick, project=str(tmp_path / "whole"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.train.trainer.Trainer._train_epoch", _fail_in_second_epoch())
        with pytest.raises(InputError, match="interrupted"):
            train.run(**quick, project=str(tmp_path / "broken"))
    last = tmp_path / "broken/exp/weights/last.pt"
    assert load_training_state(last)["epoch"] == 0
    resumed: Any = train.run(resume=str(last))
    first, second = (load_training_state(run.last) for run in (whole, resumed))
    assert all(torch.equal(value, second["model"][key]) for key, value in first["model"].items())


def _fail_in_second_epoch() -> Any:
    original = Trainer._train_epoch

    def train_epoch(self: Trainer, epoch: int) -> dict[str, float]:
        if epoch == 1:
            raise InputError("interrupted")
        return original(self, epoch)

    return train_epoch


def read_points(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted((folder / "exp/labels").glob("*.txt"))}


@pytest.mark.usefixtures("restore_log")
def test_detect_hub_and_an_exported_file_agree(best: Path, tiny_data: Path, tmp_path: Path) -> None:
    images = tiny_data.parent / "images/val"
    options: dict[str, Any] = {"source": str(images), "imgsz": [96], "device": "cpu", "save_txt": True}
    summary = detect.run(weights=[str(best)], project=str(tmp_path / "pt"), **options)
    assert (summary.images, summary.problems) == (6, ())
    points = read_points(tmp_path / "pt")
    assert sum(text.count("\n") for text in points.values()) >= 8  # of 15 objects
    assert len(list((tmp_path / "pt/exp").glob("*.jpg"))) == 6

    model = hubconf.custom(str(best), _verbose=False, device="cpu")
    results = model([str(file) for file in sorted(images.glob("*.jpg"))], size=96)
    assert len(results.predictions) == 6
    assert sum(len(p.extra["points"]) for p in results.predictions) == sum(t.count("\n") for t in points.values())

    weights = tmp_path / "best.pt"
    weights.write_bytes(best.read_bytes())
    (file,) = export.run(weights=str(weights), include=["onnx"], imgsz=[96], device="cpu", dynamic=True)
    detect.run(weights=[file], project=str(tmp_path / "onnx"), **options)
    exported = read_points(tmp_path / "onnx")
    assert exported.keys() == points.keys()
    for name, text in points.items():
        assert np.allclose(
            [[float(v) for v in line.split()] for line in text.splitlines()],
            [[float(v) for v in line.split()] for line in exported[name].splitlines()],
            atol=1e-3,
        )


def test_a_file_that_computes_something_else_fails_the_export(best: Path, tmp_path: Path) -> None:
    weights = tmp_path / "best.pt"
    weights.write_bytes(best.read_bytes())
    (file,) = export.run(weights=str(weights), include=["torchscript"], imgsz=[96], device="cpu")
    device = torch.device("cpu")
    model: Any = load_model(weights, device=device)
    options = build_export_options(ExportConfig.from_kwargs(weights=[str(weights)], imgsz=[96]).check(), model, device)
    job = build_job(weights, model, options)
    assert check_export(job, Path(file)).relative is not None
    with torch.no_grad():
        model.model[-1].conv.bias += 0.5
    with pytest.raises(MismatchError, match="does not agree with PyTorch"):
        check_export(job, Path(file))
