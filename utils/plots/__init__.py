"""Plots of data sets, batches, training and evaluation, drawn from arrays and written to files.

Names that other programs import from here (`from utils.plots import plot_images`) come from `utils.plots.classic`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.core.lazy import OUTSIDE, lazy_exports

if TYPE_CHECKING:
    from utils.plots.annotator import Annotator, Colors, colors, save_one_box
    from utils.plots.bars import plot_class_bars
    from utils.plots.batches import MIN_SCORE, Painter, plot_batch, plot_captions
    from utils.plots.curves import plot_confusion_matrix, plot_curves
    from utils.plots.features import save_feature_maps
    from utils.plots.labels import plot_anchors
    from utils.plots.results import plot_study

OWN_NAMES = {  # imported when they are used: matplotlib takes a quarter of a second
    "MIN_SCORE": "batches",
    "Annotator": "annotator",
    "Colors": "annotator",
    "Painter": "batches",
    "colors": "annotator",
    "plot_anchors": "labels",
    "plot_batch": "batches",
    "plot_captions": "batches",
    "plot_class_bars": "bars",
    "plot_confusion_matrix": "curves",
    "plot_curves": "curves",
    "plot_study": "results",
    "save_feature_maps": "features",
    "save_one_box": "annotator",
}
__all__ = [
    "MIN_SCORE",
    "Annotator",
    "Colors",
    "Painter",
    "colors",
    "plot_anchors",
    "plot_batch",
    "plot_captions",
    "plot_class_bars",
    "plot_confusion_matrix",
    "plot_curves",
    "plot_study",
    "save_feature_maps",
    "save_one_box",
]
PUBLIC_NAMES = (
    *("RANK", "butter_lowpass_filtfilt", "check_font", "check_pil_font", "color_list", "feature_visualization"),
    *("hist2d", "imshow_cls", "output_to_target", "plot_evolution", "plot_evolve", "plot_images", "plot_labels"),
    *("plot_lr_scheduler", "plot_one_box", "plot_one_box_PIL", "plot_results", "plot_results_overlay"),
    *("plot_study_txt", "plot_targets_txt", "plot_test_txt", "plot_val_study", "plot_val_txt", "plot_wh_methods"),
    *("profile_idetection",),
)
GENERAL_NAMES = (  # which the original imports there
    *("LOGGER", "clip_boxes", "clip_coords", "increment_path", "is_ascii", "is_chinese", "scale_coords"),
    *("user_config_dir", "xywh2xyxy", "xyxy2xywh"),
)
MODULES = (
    *("Image", "ImageDraw", "ImageFont", "Path", "cv2", "glob", "math", "matplotlib", "np", "os", "pd", "plt"),
    *("random", "torch", "yaml"),
)
__all__ += (*PUBLIC_NAMES, *GENERAL_NAMES, *MODULES)

__getattr__ = lazy_exports(
    __name__,
    {name: f"utils.plots.{module}" for name, module in OWN_NAMES.items()}
    | dict.fromkeys(PUBLIC_NAMES, "utils.plots.classic")
    | dict.fromkeys(("CONFIG_DIR", *GENERAL_NAMES), "utils.general")
    | {"fitness": "utils.metrics.classic"}
    | {name: OUTSIDE[name] for name in MODULES},
)
