"""Classify images, videos and streams: `python classify/predict.py --weights yolov5n-cls.pt --source data/images`.

From Python: `from classify import predict; predict.run(weights="yolov5n-cls.pt", source="data/images", save_txt=True)`.
It is detect.py with other defaults; detect.py supports classifiers too.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # import from the project folder, not from this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])
else:  # perhaps imported as `yolov5.classify.predict`
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from utils.commands.detect import CLASSIFY_ORDER, DetectCommand
from utils.config.classify import ClassifyPredictConfig
from utils.core.script import run_script

FILE = Path(__file__).resolve()
ROOT = FILE.parents[1]

command = DetectCommand(ClassifyPredictConfig, CLASSIFY_ORDER)
run, main, parse_opt = command.sign(command.run, __name__), command.main, command.parse_opt

if __name__ == "__main__":
    run_script(main)
