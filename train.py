"""Train a YOLOv5 model: `python train.py --data shapes.yaml --weights '' --cfg yolov5n.yaml --imgsz 320`.

From Python: `import train; train.run(data="shapes.yaml", weights="", cfg="yolov5n.yaml", imgsz=320)`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__:  # imported as `yolov5.train`: find the packages beside this file
    sys.path.append(str(Path(__file__).resolve().parent))

from utils.commands.train import SCRIPT_NAMES, TrainCommand
from utils.config.train import TrainConfig
from utils.core.lazy import lazy_exports
from utils.core.script import run_script

FILE = Path(__file__).resolve()
ROOT = FILE.parent

command = TrainCommand(TrainConfig)
run = command.sign(command.run, __name__)
main, parse_opt, train = command.main, command.parse_opt, command.train
__getattr__ = lazy_exports(__name__, SCRIPT_NAMES)

if __name__ == "__main__":
    run_script(main)
