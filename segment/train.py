"""Train an instance segmentation model: `python segment/train.py --data coco128-seg.yaml --weights yolov5s-seg.pt`.

From Python: `from segment import train; train.run(data="coco128-seg.yaml", weights="yolov5s-seg.pt")`.
It is train.py with other defaults; train.py supports these models too.
"""

from __future__ import annotations

if __name__ == "__main__":  # import from the project folder, not from this one
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

from functools import partial

import train
from utils.config.segment import SegmentTrainConfig
from utils.core.script import run_script

run = partial(train.run, SegmentTrainConfig)
main = partial(train.main, kind=SegmentTrainConfig)

if __name__ == "__main__":
    run_script(main)
