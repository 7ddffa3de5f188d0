"""Classify images, videos and streams: `python classify/predict.py --weights yolov5n-cls.pt --source data/images`.

From Python: `from classify import predict; predict.run(weights="yolov5n-cls.pt", source="data/images", save_txt=True)`.
It is detect.py with other defaults; detect.py supports classifiers too.
"""

from __future__ import annotations

if __name__ == "__main__":  # import from the project folder, not from this one
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

from functools import partial

import detect
from utils.config.classify import ClassifyPredictConfig
from utils.core.script import run_script

run = partial(detect.run, ClassifyPredictConfig)
main = partial(detect.main, kind=ClassifyPredictConfig)

if __name__ == "__main__":
    run_script(main)
