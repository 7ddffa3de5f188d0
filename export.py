"""Write checkpoints for other runtimes: `python export.py --weights yolov5n.pt --include onnx openvino`.

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
    """Export with the options of the command line, underscores for hyphens; the files and folders that succeeded.

    Without `include` it writes TorchScript and ONNX. InputError for options that cannot be used.
    """
    return list(export(ExportConfig.from_kwargs(**{"include": ["torchscript", "onnx"], **options})).files)


def export(config: ExportConfig) -> ExportSummary:
    """Export as `config` says."""
    from utils.export.run import export_all  # torch takes seconds to import: only once the flags are known to be right

    return export_all(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; status 1 where some of the exports failed."""
    return EXIT_PROBLEM if export(ExportConfig.from_args(argv)).problems else 0


if __name__ == "__main__":
    run_script(main)
