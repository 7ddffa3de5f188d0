"""TorchScript files: the traced network, with its description in the extra file `config.txt`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.export.base import ExportJob

CONFIG_FILE = "config.txt"


def export_torchscript(job: ExportJob) -> Path:
    """Write `<stem>.torchscript`; with `optimize` for mobile processors, which other ones run too.

    Raises:
        InputError: `optimize` on another device than the CPU, with `half`, or of a torch that cannot.
    """
    options = job.options
    if options.optimize and (options.device.type != "cpu" or options.half):
        raise InputError("--optimize: made for mobile processors, in FP32; leave out --half, give --device cpu")
    network = job.halved() if options.half else job.network
    sample = job.example.half() if options.half else job.example
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notes on its own future and on shapes that become constants
        network(sample)  # a fixed graph takes the grids of this size as constants
        traced = torch.jit.trace(network, sample, strict=False, check_trace=False)
        extra = {CONFIG_FILE: json.dumps(description(job))}
        target = job.target(".torchscript")
        with atomic_write(target) as temporary:
            if options.optimize:
                _for_mobile(traced)._save_for_lite_interpreter(str(temporary), _extra_files=extra)
            else:
                traced.save(str(temporary), _extra_files=extra)
    return target


def _for_mobile(traced: Any) -> Any:
    """The graph with the operators of mobile processors; InputError where this torch has none."""
    from torch.utils.mobile_optimizer import optimize_for_mobile

    try:
        return optimize_for_mobile(traced)
    except RuntimeError as error:
        if "XNNPACK is not enabled" not in str(error):
            raise
        version = torch.__version__
        raise InputError(
            f"--optimize: torch {version} was built without XNNPACK, which it needs; leave it out"
        ) from error


def description(job: ExportJob) -> dict[str, object]:
    """The values of `config.txt`: the original's shape, stride and names, and ours."""
    shape = [job.options.batch, job.info.channels, *job.options.imgsz]
    return {"shape": shape, **job.info.to_values()}
