"""Settings of the commands in segment/."""

from __future__ import annotations

from utils.config.base import derive_config
from utils.config.detect import DetectConfig
from utils.config.train import TrainConfig
from utils.config.val import ValConfig

SegmentTrainConfig = derive_config(
    TrainConfig,
    "Train an instance segmentation model on a data set.",
    weights="yolov5s-seg.pt",
    data="data/coco128-seg.yaml",
    project="runs/train-seg",
    task="segment",
)
SegmentValConfig = derive_config(
    ValConfig,
    "Validate an instance segmentation model on a data set.",
    weights=["yolov5s-seg.pt"],
    data="data/coco128-seg.yaml",
    project="runs/val-seg",
)
SegmentPredictConfig = derive_config(
    DetectConfig,
    "Run instance segmentation on images, videos and streams.",
    weights=["yolov5s-seg.pt"],
    project="runs/predict-seg",
)
