"""Export checkpoints to other formats: `python export.py --weights yolov5n.pt --include onnx openvino`.

From Python: `import export; files = export.run(weights="yolov5n.pt", include=["onnx"], dynamic=True)`.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

if __package__:  # imported as `yolov5.export`: find the packages beside this file
    sys.path.append(str(Path(__file__).resolve().parent))

from utils.commands.export import EXPORT_ORDER, ExportCommand
from utils.config.export import ExportConfig
from utils.core.lazy import lazy_exports
from utils.core.script import run_script

FILE = Path(__file__).resolve()
ROOT = FILE.parent
MACOS = platform.system() == "Darwin"
FUNCTIONS = (
    *("add_tflite_metadata", "export_coreml", "export_edgetpu", "export_engine", "export_formats", "export_onnx"),
    *("export_openvino", "export_paddle", "export_pb", "export_saved_model", "export_tfjs", "export_tflite"),
    *("export_torchscript", "try_export"),
)

command = ExportCommand(ExportConfig, EXPORT_ORDER)
run, main, parse_opt = command.sign(command.run, __name__), command.main, command.parse_opt
__getattr__ = lazy_exports(__name__, dict.fromkeys(FUNCTIONS, "utils.export.script_exports"))
__all__ = ["FILE", "MACOS", "ROOT", "main", "parse_opt", "run"]
__all__ += FUNCTIONS

if __name__ == "__main__":
    run_script(main)
