"""Settings of the commands in segment/: those of train.py, val.py and detect.py with other defaults."""

from __future__ import annotations

from utils.config.base import TrainConfig, ValConfig, with_defaults
from utils.config.detect import DetectConfig

SegmentTrainConfig = with_defaults(
    TrainConfig,
    "Train an instance segmentation model on a data set.",
    weights="yolov5s-seg.pt",
    data="data/coco128-seg.yaml",
    project="runs/train-seg",
    task="segment",
)
SegmentValConfig = with_defaults(
    ValConfig,
    "Measure the boxes and masks of an instance segmentation model on a data set.",
    weights=["yolov5s-seg.pt"],
    data="data/coco128-seg.yaml",
    project="runs/val-seg",
)
SegmentPredictConfig = with_defaults(
    DetectConfig,
    "Draw the objects that an instance segmentation model finds in images, videos and streams.",
    weights=["yolov5s-seg.pt"],
    project="runs/predict-seg",
)
