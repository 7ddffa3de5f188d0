"""Detect objects in images, videos and streams: `python detect.py --weights yolov5n.pt --source data/images`.

docs/sources.md lists the values of `--source`.

From Python: `import detect; detect.run(weights="yolov5n.pt", source="data/images", save_txt=True)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from utils.config.detect import DetectConfig
from utils.core.script import EXIT_PROBLEM, run_script

if TYPE_CHECKING:
    from utils.predict.run import DetectSummary


def run(kind: type[DetectConfig] = DetectConfig, /, **options: Any) -> DetectSummary:
    """Detect with the options of the command line, as keyword arguments with underscores.

    Args:
        kind: config class, of this command or of one in segment/ or classify/.

    Raises:
        InputError: an option, file or value is invalid.
    """
    return detect(kind.from_kwargs(**options))


def detect(config: DetectConfig) -> DetectSummary:
    """Run the model on the images of the source."""
    from utils.predict import run as predict_run  # after the flags are parsed, because torch is slow to import

    return predict_run.detect(config)


def main(argv: Sequence[str] | None = None, *, kind: type[DetectConfig] = DetectConfig) -> int:
    """Command-line entry point; status 1 if some inputs failed."""
    return EXIT_PROBLEM if detect(kind.from_args(argv)).problems else 0


if __name__ == "__main__":
    run_script(main)
