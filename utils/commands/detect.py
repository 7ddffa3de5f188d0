"""detect.py, segment/predict.py and classify/predict.py."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.commands.base import Command
from utils.config.detect import DetectConfig
from utils.core.script import EXIT_PROBLEM

if TYPE_CHECKING:
    from utils.predict.run import DetectSummary

DETECT_ORDER = (
    "weights source data imgsz conf_thres iou_thres max_det device view_img save_txt save_conf save_crop nosave "
    "classes agnostic_nms augment visualize update project name exist_ok line_thickness hide_labels hide_conf half dnn "
    "vid_stride retina_masks"
)
CLASSIFY_ORDER = (
    "weights source data imgsz device view_img save_txt nosave augment visualize update project name exist_ok half dnn "
    "vid_stride"
)
DATA_POSITION = 2  # release 6.0 had no `data`


class DetectCommand(Command[DetectConfig]):
    """Run a model on images, videos and streams."""

    def run(self, *args: Any, **options: Any) -> DetectSummary:
        """Detect with the options of the command line, as keyword arguments with underscores.

        Positional arguments are those of YOLOv5 v7.0 (weights, source, data, imgsz, ...) or v6.0 (without data).

        Raises:
            InputError: an option, file or value is invalid.
        """
        if len(args) > DATA_POSITION and not isinstance(args[DATA_POSITION], str | Path | None):
            args = (*args[:DATA_POSITION], None, *args[DATA_POSITION:])
        return detect(self.kind.from_kwargs(**self.name_options(args, options)))

    def main(self, opt: Namespace | Sequence[str] | None = None) -> int:
        """Run a command line or the result of `parse_opt`; status 1 if some inputs failed."""
        return EXIT_PROBLEM if detect(self.read_config(opt)).problems else 0


def detect(config: DetectConfig) -> DetectSummary:
    """Run the model on the images of the source."""
    from utils.predict import run as predict_run  # after the flags are parsed, because torch is slow to import

    return predict_run.detect(config)
