"""Detect objects in images, videos and streams: `python detect.py --weights yolov5n.pt --source data/images`.

docs/sources.md lists the values of `--source`.

From Python: `import detect; detect.run(weights="yolov5n.pt", source="data/images", save_txt=True)`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__:  # imported as `yolov5.detect`: find the packages beside this file
    sys.path.append(str(Path(__file__).resolve().parent))

from utils.commands.detect import DETECT_ORDER, DetectCommand
from utils.config.detect import DetectConfig
from utils.core.script import run_script

FILE = Path(__file__).resolve()
ROOT = FILE.parent

command = DetectCommand(DetectConfig, DETECT_ORDER)
run, main, parse_opt = command.sign(command.run, __name__), command.main, command.parse_opt

if __name__ == "__main__":
    run_script(main)
