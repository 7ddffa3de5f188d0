"""Settings of train.py for networks with a semantic head, alone or beside a detector: another recipe by default."""

from __future__ import annotations

from utils.config.base import TrainConfig, with_defaults

RECIPE = "data/hyps/hyp.joint.yaml"

SemanticTrainConfig = with_defaults(TrainConfig, "Train a semantic segmentation model on a data set.", hyp=RECIPE)
