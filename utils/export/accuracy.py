"""Accuracy of FP16 and INT8 exports on a validation split."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.export.base import ExportJob
from utils.ops.network_input import images_to_device
from utils.tasks.options import DataOptions, TaskOptions
from utils.tasks.registry import find_task

BATCH_SIZE, MAX_IMAGES = 8, 512


class AccuracyMeter:
    """Measures mAP, top-1 accuracy or mIoU on up to 512 validation images of the job's data.

    Raises:
        InputError: data and model have different numbers of classes, or the data cannot be used.
    """

    def __init__(self, job: ExportJob) -> None:
        self.job, self.task_class = job, find_task(job.info.task)
        self.spec = self.task_class.load_data(job.options.data)
        num_classes = len(self.task_class.get_class_names(self.spec))
        if num_classes != len(job.info.names):
            raise InputError(
                f"{job.weights} has {len(job.info.names)} classes, {self.spec.path} names {num_classes}: "
                "give the data set the model was trained on"
            )

    @torch.inference_mode()
    def __call__(self, network: Callable[[Tensor], Any], fixed_hw: tuple[int, int] | None) -> dict[str, float]:
        """Metrics by title of a network that takes FP32 images on the CPU, all of size `fixed_hw` if it is given."""
        info, options = self.job.info, self.job.options
        data = DataOptions(
            imgsz=max(options.imgsz), batch_size=BATCH_SIZE, workers=0, stride=info.stride, fixed_hw=fixed_hw
        )
        task = self.task_class(self.spec, Hyperparameters(), TaskOptions(data), channels=info.channels)
        evaluator = task.build_evaluator()
        for batches in islice(task.build_eval_loader("val"), MAX_IMAGES // BATCH_SIZE):
            for batch in batches:
                images = images_to_device(batch.images, torch.device("cpu"), pixels=self.task_class.pixels)
                evaluator.update(task.postprocess(network(images), batch), batch)
        metrics = evaluator.compute().metrics
        return {title: metrics[name] for title, name in self.task_class.main_metrics}


def build_accuracy_meter(job: ExportJob) -> AccuracyMeter | None:
    """Build a meter for an FP16 or INT8 export with data; None for others."""
    options = job.options
    return AccuracyMeter(job) if options.data and (options.half or options.int8) else None
