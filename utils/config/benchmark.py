"""Settings of benchmarks.py."""

from __future__ import annotations

from dataclasses import dataclass, replace

from utils.config.base import IMG_FLAGS, BaseConfig, option, switch
from utils.config.flag_types import not_negative_int, positive_int
from utils.core.errors import InputError


@dataclass(frozen=True)
class BenchmarkConfig(BaseConfig):
    """Export a checkpoint to every format and compare size, accuracy and speed."""

    weights: str = option("yolov5s.pt", "--weights", help="checkpoint; the exports are written beside it")
    imgsz: int = option(640, *IMG_FLAGS, type=positive_int, help="side of the square network input, pixels")
    batch_size: int = option(1, "--batch-size", type=positive_int, help="images per run")
    data: str = option("data/coco128.yaml", "--data", help="data set YAML that mAP is measured on")
    device: str = option("", "--device", help="cpu or a CUDA index; empty takes the best there is")
    half: bool = switch("--half", help="FP16 where a format has it")
    test: bool = switch("--test", help="write and check the exports, measure nothing")
    pt_only: bool = switch("--pt-only", help="measure the checkpoint, export nothing")
    hard_fail: str | float | bool = option(
        False, "--hard-fail", nargs="?", const=True, help="status 1 if a format fails or its mAP50-95 is below a number"
    )
    workers: int = option(8, "--workers", type=not_negative_int, help="loader processes, at most")
    project: str = option("runs/benchmark", "--project", help="folder of runs")
    name: str = option("exp", "--name", help="run folder")
    exist_ok: bool = switch("--exist-ok", help="write into an existing run folder")

    def check(self) -> BenchmarkConfig:
        """The same settings, `hard_fail` as a switch or a number; InputError for one that cannot be used."""
        if self.test and self.pt_only:
            raise InputError("--test checks exports, --pt-only makes none: give one of the two")
        return replace(self, hard_fail=self.hard_fail if isinstance(self.hard_fail, bool) else self._number())

    @property
    def floor(self) -> float:
        """The mAP50-95 below which a format counts as failed."""
        return 0.0 if isinstance(self.hard_fail, bool) else float(self.hard_fail)

    def _number(self) -> float:
        try:
            value = float(self.hard_fail)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise InputError(f"--hard-fail {self.hard_fail}: expected nothing, or the lowest mAP50-95 from 0 to 1")
        return value
