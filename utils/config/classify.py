"""Settings of the classification commands.

They inherit those of train.py, val.py and detect.py; settings that do not apply to classification have no flag.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.config.base import IMG_FLAGS, option, switch
from utils.config.detect import DetectConfig
from utils.config.flag_types import fraction, not_negative_float, positive_int
from utils.config.train import TrainConfig
from utils.config.val import ValConfig

CROP_AREA = 0.08  # (Szegedy et al. 2015, arXiv:1409.4842, sec. 6)
JITTER = 0.4
SMOOTHING = 0.1
MOMENTUM, FINAL_LR_FACTOR = 0.9, 0.01  # beta1 of Adam; final learning rate relative to lr0
YES, NO = ("true", "yes", "1"), ("false", "no", "0")


def parse_bool(text: str) -> bool:
    """argparse type of True and False."""
    if text.lower() not in YES + NO:
        raise argparse.ArgumentTypeError("must be True or False")
    return text.lower() in YES


@dataclass(frozen=True)
class ClassifyTrainConfig(TrainConfig):
    """Train a classifier on folders of images."""

    hidden = frozenset({
        "autobalance", "aux_weights", "balance", "close_mosaic", "evolve_population", "fitness", "joint_batches",
        "mask_ratio", "no_overlap", "noautoanchor", "quad", "rect", "seg_batch_size", "seg_imgsz", "seg_loss",
        "seg_mosaic", "single_cls", "task_weights", "tile", "tile_overlap", "tile_visible",
    })  # fmt: skip
    model: str = option(
        "yolov5s-cls.pt", "--model", help="checkpoint (of a classifier or detector), model YAML or torchvision model"
    )
    weights: str = option("yolov5s-cls.pt", "--weights", help="checkpoint; same as --model")
    data: str = option("imagenette160", "--data", help="folder, known name, builtin:shapes-cls or data YAML")
    hyp: str | Mapping[str, Any] = option("", "--hyp", help="hyperparameter YAML instead of the default recipe")
    epochs: int = option(10, "--epochs", type=positive_int, help="passes over the training set")
    batch_size: int = option(64, "--batch-size", type=int, help="images per step")
    imgsz: int = option(224, *IMG_FLAGS, type=positive_int, help="image size in pixels")
    optimizer: str = option(
        "Adam", "--optimizer", choices=("SGD", "Adam", "AdamW", "Muon", "RMSProp"), help="optimizer"
    )
    project: str = option("runs/train-cls", "--project", help="parent folder of runs")
    label_smoothing: float | None = option(
        None,
        "--label-smoothing",
        type=fraction,
        help="label smoothing (default: from the hyperparameter file, or 0.1)",
    )
    task: str = option("classify", "--task", choices=("classify",), help="kind of model")
    pretrained: bool = option(
        True,
        "--pretrained",
        nargs="?",
        const=True,
        type=parse_bool,
        help="False: random weights; set explicitly, a torchvision model gets its ImageNet weights",
    )
    lr0: float = option(0.001, "--lr0", type=not_negative_float, help="initial learning rate")
    decay: float = option(5e-5, "--decay", type=not_negative_float, help="weight decay")
    cutoff: int | None = option(None, "--cutoff", type=positive_int, help="layers to keep of a detector (default: 10)")
    dropout: float | None = option(None, "--dropout", type=fraction, help="dropout probability")
    crop_area: float = option(
        CROP_AREA,
        "--crop-area",
        type=fraction,
        help="minimum area of random crops, as a fraction of the image; 1: no crop",
    )
    jitter: float = option(
        JITTER, "--jitter", type=fraction, help="strength of brightness, contrast and saturation jitter"
    )
    class_weights: bool = switch("--class-weights", help="weight classes in the loss by inverse frequency")
    verbose: bool = switch("--verbose", help="print the model, and all messages about images")
    noautoanchor: bool = field(default=True)

    @classmethod
    def from_kwargs(cls, **values: Any) -> ClassifyTrainConfig:
        """As `BaseConfig.from_kwargs`; `model` sets `weights` or `cfg`."""
        model = values.get("model")
        if model is not None and not {"weights", "cfg"} & values.keys():
            values |= parse_model_option(str(model))
        elif model is None and (source := values.get("cfg") or values.get("weights")):
            values["model"] = source
        return super().from_kwargs(**values)

    @property
    def recipe(self) -> str | Mapping[str, Any]:
        """Hyperparameter file, or the default recipe: no warm-up, no accumulation, linear decay."""
        if self.hyp:
            return self.hyp
        return {
            "lr0": self.lr0,
            "lrf": FINAL_LR_FACTOR,
            "momentum": MOMENTUM,
            "weight_decay": self.decay,
            "warmup_epochs": 0,
            "warmup_iterations": 0,
            "label_smoothing": SMOOTHING if self.label_smoothing is None else self.label_smoothing,
            "nominal_batch": max(self.batch_size, 1),
        }

    @property
    def transfers_weights(self) -> bool:
        """Whether to transfer the weights of the initial checkpoint."""
        return self.pretrained

    @property
    def uses_torchvision_weights(self) -> bool:
        """Whether to download the ImageNet weights of a torchvision model."""
        return self.pretrained and "pretrained" in self.explicit


def parse_model_option(model: str) -> dict[str, str]:
    """The settings of `--model`: a checkpoint, or an architecture without weights."""
    suffix = Path(model).suffix.lower()
    if suffix in (".yaml", ".yml") or (not suffix and not model.startswith("yolov5")):
        return {"weights": "", "cfg": model}
    return {"weights": model if suffix else f"{model}.pt", "cfg": ""}


@dataclass(frozen=True)
class ClassifyValConfig(ValConfig):
    """Validate a classifier on folders of images."""

    hidden = frozenset({
        "augment", "coco", "conf_thres", "iou_thres", "max_det", "save_conf", "save_hybrid", "save_json", "save_txt",
        "seg_imgsz", "single_cls", "tile", "tile_full", "tile_merge", "tile_overlap",
    })  # fmt: skip
    data: str = option("../datasets/mnist", "--data", help="folder, known name, builtin:shapes-cls or data YAML")
    weights: list[str] = option(["yolov5s-cls.pt"], "--weights", nargs="+", help="model file")
    batch_size: int = option(128, "--batch-size", type=positive_int, help="images per step")
    imgsz: int = option(224, *IMG_FLAGS, type=positive_int, help="image size in pixels")
    verbose: bool = option(True, "--verbose", nargs="?", const=True, type=parse_bool, help="show results per class")
    project: str = option("runs/val-cls", "--project", help="parent folder of runs")


@dataclass(frozen=True)
class ClassifyPredictConfig(DetectConfig):
    """Classify images, videos and streams."""

    hidden = frozenset({
        "agnostic_nms", "classes", "conf_thres", "count_line", "count_zone", "hide_conf", "hide_labels", "iou_thres",
        "line_thickness", "max_det", "retina_masks", "save_conf", "save_crop", "save_format", "save_mot", "tile",
        "tile_full", "tile_merge", "tile_overlap", "track", "track_trail",
    })  # fmt: skip
    weights: list[str] = option(["yolov5s-cls.pt"], "--weights", nargs="+", type=str, help="model file or Triton URL")
    imgsz: list[int] = option(
        [224], *IMG_FLAGS, nargs="+", type=positive_int, help="image size in pixels: one side, or height and width"
    )
    save_txt: bool = switch("--save-txt", help="save the top-5 classes to labels/*.txt")
    save_csv: bool = switch("--save-csv", help="save the top-1 class to predictions.csv")
    augment: bool = switch("--augment", help="ignored: classifiers have no test-time augmentation")
    project: str = option("runs/predict-cls", "--project", help="parent folder of runs")
