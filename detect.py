"""Find objects in images, videos and streams: `python detect.py --weights yolov5n.pt --source data/images`.

docs/sources.md lists what `--source` takes.

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
    """Detect with the options of the command line, underscores for hyphens; InputError for what cannot be used.

    Args:
        kind: settings of another task's command.
    """
    return detect(kind.from_kwargs(**options))


def detect(config: DetectConfig) -> DetectSummary:
    """Look at every image of the source as `config` says."""
    from utils.predict import (
        run as detect_run,  # torch takes seconds to import: only once the flags are known to be right
    )

    return detect_run.detect(config)


def main(argv: Sequence[str] | None = None, *, kind: type[DetectConfig] = DetectConfig) -> int:
    """Command line entry; status 1 where some of the inputs could not be used."""
    return EXIT_PROBLEM if detect(kind.from_args(argv)).problems else 0


if __name__ == "__main__":
    run_script(main)
