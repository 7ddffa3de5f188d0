"""Export to TorchScript, with metadata in the extra file `config.txt`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.yolo import Detect
from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.export.base import ExportJob

CONFIG_FILE = "config.txt"


def export_torchscript(job: ExportJob) -> Path:
    """Write `<stem>.torchscript`; with `optimize`, for the mobile interpreter.

    Raises:
        InputError: `optimize` on a GPU, with `half`, or with a torch that does not support it.
    """
    options = job.options
    if options.optimize and (options.device.type != "cpu" or options.half):
        raise InputError("--optimize supports FP32 on the CPU only; leave out --half and give --device cpu")
    network = job.build_half_network() if options.half else job.network
    sample = job.example.half() if options.half else job.example
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations, and shapes that become constants
        network(sample)  # caches the grids of this size, constants of a static graph
        has_boxes = any(isinstance(module, Detect) for module in network.modules())
        program = BoxesInTuple(network) if has_boxes and not job.info.nms else network
        traced = torch.jit.trace(program, sample, strict=False, check_trace=False)
        extra = {CONFIG_FILE: json.dumps(build_metadata(job))}
        target = job.get_path(".torchscript")
        if options.optimize:
            content = _optimize_for_mobile(traced)._save_to_buffer_for_lite_interpreter(_extra_files=extra)
        else:
            content = traced.save_to_buffer(_extra_files=extra)  # save() ends the process if the disk is full
    with atomic_write(target) as temporary:
        temporary.write_bytes(content)
    return target


class BoxesInTuple(nn.Module):
    """The outputs of a network as a tuple, also for one: what programs that load exports of YOLOv5 index."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(images)
        return outputs if isinstance(outputs, tuple) else (outputs,)


def _optimize_for_mobile(traced: Any) -> Any:
    """Optimize the graph for mobile CPUs; InputError if this torch lacks XNNPACK."""
    from torch.utils.mobile_optimizer import optimize_for_mobile

    try:
        return optimize_for_mobile(traced)
    except RuntimeError as error:
        if "XNNPACK is not enabled" not in str(error):
            raise
        version = torch.__version__
        raise InputError(f"--optimize needs XNNPACK, which torch {version} was built without; leave it out") from error


def build_metadata(job: ExportJob) -> dict[str, object]:
    """Content of `config.txt`: shape, stride and names as in YOLOv5, and further metadata."""
    shape = [job.options.batch, job.info.channels, *job.options.imgsz]
    return {"shape": shape, **job.info.to_values()}
