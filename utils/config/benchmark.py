"""Settings of benchmarks.py."""

from __future__ import annotations

from dataclasses import dataclass

from utils.config.base import IMG_FLAGS, BaseConfig, option, switch
from utils.config.flag_types import fraction, not_negative_int, positive_int
from utils.core.errors import InputError


@dataclass(frozen=True)
class BenchmarkConfig(BaseConfig):
    """Export a checkpoint to every format and compare size, accuracy and speed."""

    weights: str = option("yolov5s.pt", "--weights", help="checkpoint; exports are written to the run folder")
    imgsz: int = option(640, *IMG_FLAGS, type=positive_int, help="image size in pixels")
    batch_size: int = option(1, "--batch-size", type=positive_int, help="images per run")
    data: str = option("data/coco128.yaml", "--data", help="data set YAML for mAP")
    device: str = option("", "--device", help="cpu or a CUDA index; empty: CUDA if available")
    half: bool = switch("--half", help="FP16 in formats that support it")
    test: bool = switch("--test", help="only export and check the files")
    pt_only: bool = switch("--pt-only", help="benchmark only the checkpoint")
    hard_fail: float | bool = option(
        False,
        "--hard-fail",
        nargs="?",
        const=True,
        type=fraction,
        help="exit with status 1 if a format fails or its mAP50-95 is below the value",
    )
    workers: int = option(8, "--workers", type=not_negative_int, help="maximum number of loader processes")
    project: str = option("runs/benchmark", "--project", help="parent folder of runs")
    name: str = option("exp", "--name", help="name of the run folder")
    exist_ok: bool = switch("--exist-ok", help="use an existing run folder")

    def check(self) -> BenchmarkConfig:
        """Return the settings; InputError if two contradict each other."""
        if self.test and self.pt_only:
            raise InputError("--test and --pt-only cannot be combined; use one of them")
        return self

    @property
    def floor(self) -> float:
        """Minimum mAP50-95 of a format."""
        return 0.0 if isinstance(self.hard_fail, bool) else self.hard_fail
