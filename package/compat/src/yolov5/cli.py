"""Command `yolov5`: the commands of `openyolov5`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from openyolov5.cli import main as run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status."""
    run_command(split_include(sys.argv[1:] if argv is None else argv))


def split_include(words: Sequence[str]) -> list[str]:
    """The words with `--include onnx,torchscript` as `--include onnx torchscript`."""
    result: list[str] = []
    for word in words:
        is_value = bool(result) and result[-1] == "--include"
        result += word.split(",") if is_value else [word]
    return result


if __name__ == "__main__":
    main()
