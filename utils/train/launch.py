"""Multi-GPU launch: one process per device of `--device 0,1`, as torchrun does."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.core.hardware import available_cpus, parse_devices
from utils.core.logging import LOGGER
from utils.core.script import EXIT_LOST, EXIT_PROBLEM

COMMAND = "openyolov5"  # of the installed package


def list_launch_devices(device: str) -> list[str]:
    """Devices of a `--device` value with several; empty for a single one or if a launcher started this process."""
    devices = parse_devices(str(device))
    return devices if len(devices) > 1 and "LOCAL_RANK" not in os.environ else []


def list_entry(program: str) -> list[str]:
    """Arguments of Python that start the current command.

    Args:
        program: `sys.argv[0]`: a script, or a command with its words, such as "openyolov5 segment train".
    """
    words = program.split()
    if len(words) > 1 and words[0] == COMMAND and not os.path.exists(program):  # noqa: PTH110
        return ["-m", *words]
    return [str(Path(program).resolve())]


def launch(arguments: Sequence[str], devices: Sequence[str]) -> int:
    """Run the current script in one process per device; the exit status of the first process that failed, or 0.

    Args:
        arguments: of its command line.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    entry = list_entry(sys.argv[0])
    count = len(devices)
    command = shlex.join(["python", "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"])
    name = shlex.join([*entry[:-1], Path(entry[-1]).name])
    LOGGER.info(f"--device {','.join(devices)}: starting {count} processes, as `{command} {name} ...` does")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cpus() // count)))  # inherited by the processes
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=f"openyolov5-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-u", *entry, *arguments)
    except ChildFailedError as error:
        causes = [failure for failure in error.failures.values() if failure.exitcode != EXIT_LOST]
        first = min(causes or error.failures.values(), key=lambda failure: failure.timestamp)
        return first.exitcode if first.exitcode > 0 else EXIT_PROBLEM
    return 0
