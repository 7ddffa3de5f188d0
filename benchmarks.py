"""Benchmark a checkpoint in all formats: `python benchmarks.py --weights yolov5n.pt --data shapes.yaml --imgsz 320`.

From Python: `import benchmarks; table = benchmarks.run(weights="yolov5n.pt", data="shapes.yaml")`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__:  # imported as `yolov5.benchmarks`: find the packages beside this file
    sys.path.append(str(Path(__file__).resolve().parent))

from utils.commands.benchmarks import BENCHMARK_ORDER, BenchmarkCommand
from utils.config.benchmark import BenchmarkConfig
from utils.core.script import run_script

FILE = Path(__file__).resolve()
ROOT = FILE.parent

command = BenchmarkCommand(BenchmarkConfig, BENCHMARK_ORDER)
run, test = (command.sign(function, __name__) for function in (command.run, command.test))
main, parse_opt = command.main, command.parse_opt

if __name__ == "__main__":
    run_script(main)
