"""Accuracy and time of tiled inference beside SAHI (arXiv:2202.06934) on large images with known objects.

    python tests/bench/large_images.py --data DATA.yaml --out big
    pip install sahi          # in an environment of its own, beside the requirements
    python tests/bench/bench_tiles.py --data big/data.yaml --weights best.pt [--tile 640] [--conf 0.1] [--repeats 3]

Both sides use the same model, tiles and thresholds; SAHI loads the model by its class for yolov5. The images are
decoded before the clock starts. Rows without a SAHI column say what whole-image inference gives.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import sys
import types
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import hubconf  # noqa: E402
from utils.core.types import Batch, Letterbox, Prediction  # noqa: E402
from utils.datasets.index.data_yaml import load_spec  # noqa: E402
from utils.datasets.index.labels import load_index  # noqa: E402
from utils.imaging.read import read_image  # noqa: E402
from utils.metrics.detection import DetectionEvaluator  # noqa: E402

Predict = Callable[[np.ndarray], np.ndarray]
IOU, MAX_DET = 0.5, 3000


def build_sahi(weights: str, tile: int, conf: float, kind: str, metric: str, full: bool) -> Predict:
    """Sliced prediction of SAHI on a BGR image; boxes (n, 6)."""
    module: Any = types.ModuleType("yolov5")  # what SAHI imports; the package openyolov5-compat provides the same
    module.__spec__ = importlib.machinery.ModuleSpec("yolov5", None)
    module.load = lambda path, device="": hubconf.custom(path, _verbose=False, device=device)
    sys.modules["yolov5"] = module
    from sahi import AutoDetectionModel
    from sahi.predict import get_sliced_prediction

    model = AutoDetectionModel.from_pretrained(
        "yolov5", model_path=weights, confidence_threshold=conf, device="cpu", image_size=tile
    )
    model.model.iou, model.model.max_det = IOU, MAX_DET

    def predict(frame: np.ndarray) -> np.ndarray:
        result: Any = get_sliced_prediction(
            np.ascontiguousarray(frame[..., ::-1]),
            model,
            slice_height=tile,
            slice_width=tile,
            perform_standard_pred=full,
            postprocess_type=kind,
            postprocess_match_metric=metric,
            postprocess_match_threshold=IOU,
            verbose=0,
        )
        rows = [[*o.bbox.to_xyxy(), o.score.value, o.category.id] for o in result.object_prediction_list]
        return np.array(rows, np.float32).reshape(-1, 6)

    return predict


def build_hub(weights: str, size: int, tile: int | None, conf: float, merge: str, full: bool) -> Predict:
    """The hub model on a BGR image."""
    model: Any = hubconf.custom(weights, _verbose=False)
    model.conf, model.iou, model.max_det = conf, IOU, MAX_DET
    model.tile_merge, model.tile_full = merge, full

    def predict(frame: np.ndarray) -> np.ndarray:
        rows: np.ndarray = model(np.ascontiguousarray(frame[..., ::-1]), size=size, tile=tile).xyxy[0].numpy()
        return rows

    return predict


def run(predicts: dict[str, Predict], data: Path, repeats: int) -> None:
    """Print AP and seconds per image of each way, measured in alternation."""
    index = load_index(load_spec(data), "test")
    frames = [read_image(path) for path in index.paths]
    evaluators = {name: DetectionEvaluator(index.names) for name in predicts}
    seconds: dict[str, list[float]] = {name: [] for name in predicts}
    for repeat in range(repeats):
        for i, frame in enumerate(frames):
            for name, predict in predicts.items():
                started = perf_counter()
                boxes = predict(frame)
                seconds[name].append(perf_counter() - started)
                if not repeat:
                    evaluators[name].update([Prediction(torch.from_numpy(boxes))], build_batch(index, i, frame))
    print(f"{'':24}{'mAP50':>8}{'mAP50-95':>10}{'s/image':>9}")
    for name, evaluator in evaluators.items():
        metrics = evaluator.compute().metrics
        ap = [metrics[f"metrics/mAP_{suffix}"] for suffix in ("0.5", "0.5:0.95")]
        print(f"{name:24}{ap[0]:8.3f}{ap[1]:10.3f}{median(seconds[name]):9.2f}")


def build_batch(index: Any, i: int, frame: np.ndarray) -> Batch:
    """Labels of image i for the evaluator."""
    classes, boxes, _ = index.labels(i)
    targets = np.concatenate([np.zeros((len(classes), 1)), classes[:, None], boxes], axis=1)
    height, width = frame.shape[:2]
    images = torch.zeros(1, 1, height, width, dtype=torch.uint8)
    return Batch(images, torch.from_numpy(targets).float(), [index.paths[i]], [Letterbox((height, width))])


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy and time of tiles beside SAHI")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--tile", type=int, default=640)
    parser.add_argument("--conf", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    common = {"size": args.tile, "conf": args.conf, "weights": args.weights}
    predicts = {"whole image": build_hub(**common, tile=None, merge="nms", full=False)}
    for full in (False, True):
        suffix = " + full" if full else ""
        for merge in ("nms", "wbf", "ios"):
            predicts[f"tiles {merge}{suffix}"] = build_hub(**common, tile=args.tile, merge=merge, full=full)
        for kind, metric in (("NMS", "IOU"), ("GREEDYNMM", "IOS")):
            name = f"SAHI {kind} {metric}{suffix}"
            predicts[name] = build_sahi(args.weights, args.tile, args.conf, kind, metric, full)
    run(predicts, args.data, args.repeats)


if __name__ == "__main__":
    main()
