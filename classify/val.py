"""Validate a classifier: `python classify/val.py --weights best.pt --data imagenette160 --imgsz 224`.

From Python: `from classify import val; top1, top5, loss = val.run(weights="best.pt", data="imagenette160")`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # import from the project folder, not from this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])
else:  # perhaps imported as `yolov5.classify.val`
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from utils.commands.val import CLASSIFY_ORDER, ClassifyValCommand
from utils.config.classify import ClassifyValConfig
from utils.core.script import run_script

FILE = Path(__file__).resolve()
ROOT = FILE.parents[1]

command = ClassifyValCommand(ClassifyValConfig, CLASSIFY_ORDER)
run, main, parse_opt = command.sign(command.run, __name__), command.main, command.parse_opt

if __name__ == "__main__":
    run_script(main)
