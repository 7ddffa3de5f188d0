"""Tell what pictures show: `python classify/predict.py --weights yolov5n-cls.pt --source data/images --save-txt`.

From Python: `from classify import predict; predict.run(weights="yolov5n-cls.pt", source="data/images")`.
It is detect.py with other defaults, which takes classifiers as well.
"""

from __future__ import annotations

if __name__ == "__main__":  # as a script the project's own folder comes first
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from detect import detect
from utils.config_classify import ClassifyPredictConfig
from utils.script import EXIT_PROBLEM, run_script

if TYPE_CHECKING:
    from utils.engine.detect_run import DetectSummary


def run(**options: Any) -> DetectSummary:
    """Predict with the options of the command line, underscores for hyphens; InputError for what cannot be used."""
    return detect(ClassifyPredictConfig.from_kwargs(**options))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; status 1 where some of the inputs could not be used."""
    return EXIT_PROBLEM if detect(ClassifyPredictConfig.from_args(argv)).problems else 0


if __name__ == "__main__":
    run_script(main)
