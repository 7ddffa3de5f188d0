"""benchmarks.py."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from utils.commands.base import Command
from utils.config.benchmark import BenchmarkConfig
from utils.core.script import EXIT_PROBLEM

if TYPE_CHECKING:
    from pandas import DataFrame

BENCHMARK_ORDER = "weights imgsz batch_size data device half test pt_only hard_fail"


class BenchmarkCommand(Command[BenchmarkConfig]):
    """Benchmark a checkpoint in all formats."""

    def run(self, *args: Any, **options: Any) -> DataFrame:
        """Benchmark with the options of the command line, as keyword arguments with underscores.

        Returns:
            A row per format: Format, Size (MB), mAP50-95, Inference time (ms), Load time (s), Note. NaN: not measured.

        Raises:
            InputError: an option, file or value is invalid.
            RuntimeError: with `hard_fail`, a format failed or its mAP50-95 is too low.
        """
        config = self.kind.from_kwargs(**self.name_options(args, options)).check()
        from utils.evaluate.benchmark import benchmark, find_problems, to_dataframe  # torch is slow to import

        rows = benchmark(config)
        if config.hard_fail and (problems := find_problems(rows, config.floor)):
            raise RuntimeError("; ".join(problems))
        return to_dataframe(rows)

    def test(self, *args: Any, **options: Any) -> DataFrame:
        """As `run` with `test`: only export and check the files."""
        return self.run(**{**self.name_options(args, options), "test": True})

    def main(self, opt: Namespace | Sequence[str] | None = None) -> int:
        """Run a command line or the result of `parse_opt`; with `--hard-fail` status 1 if a format failed."""
        config = self.read_config(opt).check()
        from utils.evaluate.benchmark import benchmark, find_problems

        rows = benchmark(config)
        return EXIT_PROBLEM if config.hard_fail and find_problems(rows, config.floor) else 0
