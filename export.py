"""Export checkpoints to other formats: `python export.py --weights yolov5n.pt --include onnx openvino`.

From Python: `import export; files = export.run(weights="yolov5n.pt", include=["onnx"], dynamic=True)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from utils.config.export import ExportConfig
from utils.core.script import EXIT_PROBLEM, run_script

if TYPE_CHECKING:
    from utils.export.run import ExportSummary


def run(**options: Any) -> list[str]:
    """Export with the options of the command line, as keyword arguments with underscores.

    Without `include` the formats are TorchScript and ONNX.

    Returns:
        The exported files and folders.

    Raises:
        InputError: an option, file or value is invalid.
    """
    return list(export(ExportConfig.from_kwargs(**{"include": ["torchscript", "onnx"], **options})).files)


def export(config: ExportConfig) -> ExportSummary:
    """Export all checkpoints in all formats."""
    from utils.export.run import export_all  # after the flags are parsed, because torch is slow to import

    return export_all(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Command-line entry point; status 1 if some exports failed."""
    return EXIT_PROBLEM if export(ExportConfig.from_args(argv)).problems else 0


if __name__ == "__main__":
    run_script(main)
