"""Settings of train.py for semantic and joint models."""

from __future__ import annotations

from utils.config.base import derive_config
from utils.config.train import TrainConfig

HYP_FILE = "data/hyps/hyp.joint.yaml"

SemanticTrainConfig = derive_config(TrainConfig, "Train a semantic segmentation model on a data set.", hyp=HYP_FILE)
