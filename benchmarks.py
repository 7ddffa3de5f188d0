"""Benchmark a checkpoint in all formats: `python benchmarks.py --weights yolov5n.pt --data shapes.yaml --imgsz 320`.

From Python: `import benchmarks; table = benchmarks.run(weights="yolov5n.pt", data="shapes.yaml")`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from utils.config.benchmark import BenchmarkConfig
from utils.core.script import EXIT_PROBLEM, run_script

if TYPE_CHECKING:
    from pandas import DataFrame


def run(**options: Any) -> DataFrame:
    """Benchmark with the options of the command line, as keyword arguments with underscores.

    Returns:
        A row per format: Format, Size (MB), mAP50-95, Inference time (ms), Load time (s), Note. NaN if not measured.

    Raises:
        InputError: an option, file or value is invalid.
        RuntimeError: with `hard_fail`, a format failed or its mAP50-95 is too low.
    """
    config = BenchmarkConfig.from_kwargs(**options).check()
    from utils.evaluate.benchmark import benchmark, find_problems, to_dataframe  # torch is slow to import

    rows = benchmark(config)
    if config.hard_fail and (problems := find_problems(rows, config.floor)):
        raise RuntimeError("; ".join(problems))
    return to_dataframe(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Command-line entry point; with `--hard-fail` status 1 if a format failed."""
    config = BenchmarkConfig.from_args(argv).check()
    from utils.evaluate.benchmark import benchmark, find_problems

    rows = benchmark(config)
    return EXIT_PROBLEM if config.hard_fail and find_problems(rows, config.floor) else 0


if __name__ == "__main__":
    run_script(main)
