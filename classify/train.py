"""Train a classifier: `python classify/train.py --model yolov5n-cls.pt --data imagenette160 --imgsz 224`.

From Python: `from classify import train; train.run(model="yolov5n-cls.pt", data="imagenette160")`.
"""

from __future__ import annotations

if __name__ == "__main__":  # import from the project folder, not from this one
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

from functools import partial

import train
from utils.config.classify import ClassifyTrainConfig
from utils.core.script import run_script

run = partial(train.run, ClassifyTrainConfig)
main = partial(train.main, kind=ClassifyTrainConfig)

if __name__ == "__main__":
    run_script(main)
