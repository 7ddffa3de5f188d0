"""Measure an instance segmenter: `python segment/val.py --weights best.pt --data coco128-seg.yaml --imgsz 640`.

From Python: `from segment import val; val.run(weights="best.pt", data="coco128-seg.yaml")`.
It is val.py with other defaults, which measures segmenters as well.
"""

from __future__ import annotations

if __name__ == "__main__":  # as a script the project's own folder comes first
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
