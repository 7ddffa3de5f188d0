"""Settings of segment/train.py and segment/val.py: those of train.py and val.py with other defaults."""

from __future__ import annotations

from utils.config import TrainConfig, ValConfig, with_defaults

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
