"""Train an instance segmentation model: `python segment/train.py --data coco128-seg.yaml --weights yolov5s-seg.pt`.

From Python: `from segment import train; train.run(data="coco128-seg.yaml", weights="yolov5s-seg.pt")`.
It is train.py with other defaults; train.py supports these models too.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # import from the project folder, not from this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])
else:  # perhaps imported as `yolov5.segment.train`
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from utils.commands.train import SCRIPT_NAMES, TrainCommand
from utils.config.segment import SegmentTrainConfig
from utils.core.lazy import lazy_exports
from utils.core.script import run_script

FILE = Path(__file__).resolve()
ROOT = FILE.parents[1]

command = TrainCommand(SegmentTrainConfig)
run = command.sign(command.run, __name__)
main, parse_opt, train = command.main, command.parse_opt, command.train
__getattr__ = lazy_exports(__name__, SCRIPT_NAMES)

if __name__ == "__main__":
    run_script(main)
