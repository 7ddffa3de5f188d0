"""Validate an instance segmentation model: `python segment/val.py --weights best.pt --data coco128-seg.yaml`.

From Python: `from segment import val; val.run(weights="best.pt", data="coco128-seg.yaml")`.
It is val.py with other defaults; val.py supports these models too.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # import from the project folder, not from this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])
else:  # perhaps imported as `yolov5.segment.val`
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from utils.commands.val import SEGMENT_ORDER, ValCommand
from utils.config.segment import SegmentValConfig
from utils.core.lazy import lazy_exports
from utils.core.script import run_script

FILE = Path(__file__).resolve()
ROOT = FILE.parents[1]

command = ValCommand(SegmentValConfig, SEGMENT_ORDER)
run, main, parse_opt = command.sign(command.run, __name__), command.main, command.parse_opt

__getattr__ = lazy_exports(
    __name__, dict.fromkeys(("process_batch", "save_one_json", "save_one_txt"), "utils.evaluate.script_mask_metrics")
)

if __name__ == "__main__":
    run_script(main)
