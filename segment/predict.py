"""Segment objects in images and videos: `python segment/predict.py --weights yolov5s-seg.pt --source data/images`.

From Python: `from segment import predict; predict.run(weights="yolov5s-seg.pt", source="data/images", save_txt=True)`.
It is detect.py with other defaults; detect.py supports these models too.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # import from the project folder, not from this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])
else:  # perhaps imported as `yolov5.segment.predict`
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from utils.commands.detect import DETECT_ORDER, DetectCommand
from utils.config.segment import SegmentPredictConfig
from utils.core.script import run_script

FILE = Path(__file__).resolve()
ROOT = FILE.parents[1]

command = DetectCommand(SegmentPredictConfig, DETECT_ORDER)
run, main, parse_opt = command.sign(command.run, __name__), command.main, command.parse_opt

if __name__ == "__main__":
    run_script(main)
