"""Accuracy of a function of images on a validation split: what quantization may cost at most is told by it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.export.base import ExportJob
from utils.tasks.base import TaskOptions, images_to_device
from utils.tasks.registry import TASKS, build_task, find_task

BATCH, MOST_IMAGES = 8, 512


class AccuracyMeter:
    """Measures mAP, or top-1 accuracy, on up to 512 images of the validation split of the job's data.

    Raises:
        InputError: the classes of data and model differ, or the data cannot be used.
    """

    def __init__(self, job: ExportJob) -> None:
        self.job, self.kind = job, find_task(job.info.task)
        self.spec = self.kind.load_data(job.options.data)
        known = len(self.kind.names_in(self.spec))
        if known != len(job.info.names):
            raise InputError(
                f"{job.weights} has {len(job.info.names)} classes, {self.spec.path} names {known}: "
                "give the data set the model was trained on"
            )

    @torch.inference_mode()
    def __call__(self, network: Callable[[Tensor], Any], fixed_hw: tuple[int, int] | None) -> dict[str, float]:
        """What a function of FP32 images on the CPU gives, by title; all are of size `fixed_hw` if there is one."""
        info, options = self.job.info, self.job.options
        settings = TaskOptions(
            imgsz=max(options.imgsz), batch_size=BATCH, workers=0, stride=info.stride, fixed_hw=fixed_hw
        )
        task = build_task(info.task, self.spec, Hyperparameters(), settings, channels=info.channels)
        evaluator = task.build_evaluator()
        for batches in islice(task.eval_loader("val"), MOST_IMAGES // BATCH):
            for batch in batches:
                images = images_to_device(batch.images, torch.device("cpu"), pixels=self.kind.traits.pixels)
                evaluator.update(task.postprocess(network(images), batch), batch)
        metrics = evaluator.compute().metrics
        return {title: metrics[name] for title, name in self.kind.traits.qualities}


def accuracy_meter(job: ExportJob) -> AccuracyMeter | None:
    """A meter for tasks that can be measured, where the user named data."""
    return AccuracyMeter(job) if job.options.data and job.info.task in TASKS else None
