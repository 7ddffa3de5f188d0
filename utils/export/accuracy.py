"""mAP of a function of pictures on a validation split: what quantisation may cost at most is told by it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from utils.datasets.spec import load_spec
from utils.errors import InputError
from utils.export.base import ExportJob
from utils.hyp import Hyperparameters
from utils.tasks.base import TaskOptions, images_to_device
from utils.tasks.registry import TASKS, build_task

BATCH, MOST_PICTURES = 8, 512
METRIC = "metrics/mAP_0.5:0.95"


class AccuracyMeter:
    """Measures mAP50-95 on up to 512 pictures of the validation split of the job's data.

    Raises:
        InputError: the classes of data and model differ, or the data cannot be used.
    """

    def __init__(self, job: ExportJob) -> None:
        self.job, self.spec = job, load_spec(job.options.data)
        if self.spec.num_classes != len(job.info.names):
            raise InputError(
                f"{job.weights} has {len(job.info.names)} classes, {self.spec.path} names {self.spec.num_classes}: "
                "give the data set the model was trained on"
            )

    @torch.inference_mode()
    def __call__(self, network: Callable[[Tensor], Any], fixed_hw: tuple[int, int] | None) -> float:
        """mAP50-95 of a function of FP32 pictures on the CPU, all of size `fixed_hw` where that is given."""
        info, options = self.job.info, self.job.options
        settings = TaskOptions(
            imgsz=max(options.imgsz), batch_size=BATCH, workers=0, stride=info.stride, fixed_hw=fixed_hw
        )
        task = build_task(info.task, self.spec, Hyperparameters(), settings, channels=info.channels)
        evaluator = task.build_evaluator()
        for batches in islice(task.eval_loader("val"), MOST_PICTURES // BATCH):
            for batch in batches:
                images = images_to_device(batch.images, torch.device("cpu"))
                evaluator.update(task.postprocess(network(images), batch), batch)
        return evaluator.compute().metrics[METRIC]


def accuracy_meter(job: ExportJob) -> AccuracyMeter | None:
    """A meter for tasks that can be measured, where the user named data."""
    return AccuracyMeter(job) if job.options.data and job.info.task in TASKS else None
