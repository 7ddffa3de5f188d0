"""Plots of data sets, batches, training and evaluation, drawn from arrays and written to files."""

from __future__ import annotations

from utils.plots.annotator import Annotator, colors, save_one_box
from utils.plots.bars import plot_class_bars
from utils.plots.batches import MIN_SCORE, Painter, plot_batch, plot_captions
from utils.plots.curves import plot_confusion_matrix, plot_curves
from utils.plots.features import save_feature_maps
from utils.plots.labels import plot_anchors, plot_labels
from utils.plots.results import plot_results, plot_study

__all__ = [
    "MIN_SCORE",
    "Annotator",
    "Painter",
    "colors",
    "plot_anchors",
    "plot_batch",
    "plot_captions",
    "plot_class_bars",
    "plot_confusion_matrix",
    "plot_curves",
    "plot_labels",
    "plot_results",
    "plot_study",
    "save_feature_maps",
    "save_one_box",
]
