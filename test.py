"""The name of val.py in releases up to 5.0: `python test.py --weights best.pt --data shapes.yaml`.

From Python: `import test; test.test(data="shapes.yaml", weights="best.pt")`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__:  # imported as `yolov5.test`: find the packages beside this file
    sys.path.append(str(Path(__file__).resolve().parent))

from utils.commands.val import ValCommand
from utils.config.val import ValConfig
from utils.core.script import run_script

command = ValCommand(ValConfig)
test, main = command.test, command.main

if __name__ == "__main__":
    run_script(main)
