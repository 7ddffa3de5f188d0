"""Segment objects in images and videos: `python segment/predict.py --weights yolov5s-seg.pt --source data/images`.

From Python: `from segment import predict; predict.run(weights="yolov5s-seg.pt", source="data/images", save_txt=True)`.
It is detect.py with other defaults; detect.py supports these models too.
"""

from __future__ import annotations

if __name__ == "__main__":  # import from the project folder, not from this one
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

from functools import partial

import detect
from utils.config.segment import SegmentPredictConfig
from utils.core.script import run_script

run = partial(detect.run, SegmentPredictConfig)
main = partial(detect.main, kind=SegmentPredictConfig)

if __name__ == "__main__":
    run_script(main)
