"""export.py."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from utils.commands.base import Command
from utils.config.export import ExportConfig
from utils.core.script import EXIT_PROBLEM

if TYPE_CHECKING:
    from utils.export.run import ExportSummary

EXPORT_ORDER = (
    "data weights imgsz batch_size device include half inplace keras optimize int8 dynamic simplify opset verbose "
    "workspace nms agnostic_nms topk_per_class topk_all iou_thres conf_thres"
)


class ExportCommand(Command[ExportConfig]):
    """Export checkpoints to the formats of other runtimes."""

    run_defaults: ClassVar[Mapping[str, Any]] = {"include": ["torchscript", "onnx"]}

    def run(self, *args: Any, **options: Any) -> list[str]:
        """Export with the options of the command line, as keyword arguments with underscores.

        Without `include` the formats are TorchScript and ONNX. Positional arguments are those of YOLOv5 v7.0: data,
        weights, imgsz, ...

        Returns:
            The exported files and folders.

        Raises:
            InputError: an option, file or value is invalid.
        """
        named = {**self.run_defaults, **self.name_options(args, options)}
        return list(export(self.kind.from_kwargs(**named)).files)

    def main(self, opt: Namespace | Sequence[str] | None = None) -> int:
        """Run a command line or the result of `parse_opt`; status 1 if some exports failed."""
        return EXIT_PROBLEM if export(self.read_config(opt)).problems else 0


def export(config: ExportConfig) -> ExportSummary:
    """Export all checkpoints in all formats."""
    from utils.export.run import export_all  # after the flags are parsed, because torch is slow to import

    return export_all(config)
