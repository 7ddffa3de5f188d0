"""Compare a checkpoint in every format: `python benchmarks.py --weights yolov5n.pt --data shapes.yaml --imgsz 320`.

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
    """Measure with the options of the command line, underscores for hyphens.

    Returns:
        A row per format: Format, Size (MB), mAP50-95, Inference time (ms), Load time (s), Note. NaN where nothing was
        measured.

    Raises:
        RuntimeError: with `hard_fail`, a format failed or its mAP50-95 is below the floor.
    """
    config = BenchmarkConfig.from_kwargs(**options).check()
    from utils.evaluate.benchmark import as_table, benchmark, problems  # torch takes seconds: once the flags are right

    rows = benchmark(config)
    if config.hard_fail and (found := problems(rows, config.floor)):
        raise RuntimeError("; ".join(found))
    return as_table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; with `--hard-fail` status 1 where a format failed."""
    config = BenchmarkConfig.from_args(argv).check()
    from utils.evaluate.benchmark import benchmark, problems

    rows = benchmark(config)
    return EXIT_PROBLEM if config.hard_fail and problems(rows, config.floor) else 0


if __name__ == "__main__":
    run_script(main)
