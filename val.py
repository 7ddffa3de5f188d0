"""Validate a YOLOv5 model: `python val.py --weights best.pt --data shapes.yaml --imgsz 320`.

From Python: `import val; val.run(weights="best.pt", data="shapes.yaml", imgsz=320)`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__:  # imported as `yolov5.val`: find the packages beside this file
    sys.path.append(str(Path(__file__).resolve().parent))

from utils.commands.val import VAL_ORDER, ValCommand
from utils.config.val import ValConfig
from utils.core.lazy import lazy_exports
from utils.core.script import run_script

FILE = Path(__file__).resolve()
ROOT = FILE.parent

command = ValCommand(ValConfig, VAL_ORDER)
run, main, parse_opt = command.sign(command.run, __name__), command.main, command.parse_opt
__getattr__ = lazy_exports(
    __name__, dict.fromkeys(("process_batch", "save_one_json", "save_one_txt"), "utils.evaluate.script_metrics")
)

if __name__ == "__main__":
    run_script(main)
