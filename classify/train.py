"""Train a classifier: `python classify/train.py --model yolov5n-cls.pt --data imagenette160 --imgsz 224`.

From Python: `from classify import train; train.run(model="yolov5n-cls.pt", data="imagenette160")`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # import from the project folder, not from this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])
else:  # perhaps imported as `yolov5.classify.train`
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from utils.commands.train import SCRIPT_NAMES, ClassifyTrainCommand
from utils.config.classify import ClassifyTrainConfig
from utils.core.lazy import lazy_exports
from utils.core.script import run_script

FILE = Path(__file__).resolve()
ROOT = FILE.parents[1]

command = ClassifyTrainCommand(ClassifyTrainConfig)
run = command.sign(command.run, __name__)
main, parse_opt, train = command.main, command.parse_opt, command.train
__getattr__ = lazy_exports(__name__, SCRIPT_NAMES)

if __name__ == "__main__":
    run_script(main)
