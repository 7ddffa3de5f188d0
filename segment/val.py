"""Validate an instance segmentation model: `python segment/val.py --weights best.pt --data coco128-seg.yaml`.

From Python: `from segment import val; val.run(weights="best.pt", data="coco128-seg.yaml")`.
It is val.py with other defaults; val.py supports these models too.
"""

from __future__ import annotations

if __name__ == "__main__":  # import from the project folder, not from this one
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

from functools import partial

import val
from utils.config.segment import SegmentValConfig
from utils.core.script import run_script

run = partial(val.run, SegmentValConfig)
main = partial(val.main, kind=SegmentValConfig)

if __name__ == "__main__":
    run_script(main)
