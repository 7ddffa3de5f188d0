"""Settings of the classification commands: those of training and validation with other defaults, and a few more.

Settings that mean nothing for whole images lose their flags; who gives one to train.py or val.py is told so.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.config.base import IMG_FLAGS, TrainConfig, ValConfig, option, switch
from utils.config.detect import DetectConfig
from utils.config.flag_types import not_negative_float, positive_int, share

CROP_AREA = 0.08  # (Szegedy et al. 2015, arXiv:1409.4842, sec. 6)
JITTER = 0.4
SMOOTHING = 0.1
MOMENTUM, LAST_RATE = 0.9, 0.01  # Adam's first beta, and the share of lr0 that the last epoch has
YES, NO = ("true", "yes", "1"), ("false", "no", "0")


def truth(text: str) -> bool:
    """argparse type: True or False."""
    if text.lower() not in YES + NO:
        raise argparse.ArgumentTypeError("must be True or False")
    return text.lower() in YES


@dataclass(frozen=True)
class ClassifyTrainConfig(TrainConfig):
    """Train a classifier on folders of images."""

    model: str = option(
        "yolov5s-cls.pt", "--model", help="checkpoint (a detector is cut), model YAML or name of a torchvision network"
    )
    weights: str = option("yolov5s-cls.pt", "--weights", help="checkpoint; --model says the same and more")
    data: str = option("imagenette160", "--data", help="folder, known name, builtin:shapes-cls or data YAML")
    hyp: str | Mapping[str, Any] = option("", "--hyp", help="hyperparameter YAML that replaces the recipe")
    epochs: int = option(10, "--epochs", type=positive_int, help="passes over the training set")
    batch_size: int = option(64, "--batch-size", type=int, help="images per step")
    imgsz: int = option(224, *IMG_FLAGS, type=positive_int, help="side of the square network input, pixels")
    optimizer: str = option(
        "Adam", "--optimizer", choices=("SGD", "Adam", "AdamW", "Muon", "RMSProp"), help="optimizer"
    )
    project: str = option("runs/train-cls", "--project", help="folder of runs")
    label_smoothing: float | None = option(
        None,
        "--label-smoothing",
        type=share,
        help="class target smoothing (default: that of the hyp file, or 0.1)",
    )
    task: str = option("classify", "--task", choices=("classify",), help="kind of model")
    pretrained: bool = option(
        True,
        "--pretrained",
        nargs="?",
        const=True,
        type=truth,
        help="False starts from random weights; given, a torchvision network gets its published ones",
    )
    lr0: float = option(0.001, "--lr0", type=not_negative_float, help="first learning rate")
    decay: float = option(5e-5, "--decay", type=not_negative_float, help="weight decay")
    cutoff: int | None = option(None, "--cutoff", type=positive_int, help="layers kept of a detector, 10 by default")
    dropout: float | None = option(None, "--dropout", type=share, help="chance of every Dropout layer")
    crop_area: float = option(
        CROP_AREA, "--crop-area", type=share, help="least share of an image that is trained at a time; 1 is all of it"
    )
    jitter: float = option(
        JITTER, "--jitter", type=share, help="random change of brightness, contrast and saturation while training"
    )
    class_weights: bool = switch("--class-weights", help="rare classes weigh as much as frequent ones in the loss")
    verbose: bool = switch("--verbose", help="print the model, and every message about the images")
    mask_ratio: int = field(default=4)
    no_overlap: bool = field(default=False)
    seg_loss: str = field(default="ce")
    aux_weights: list[float] = field(default_factory=list)
    seg_imgsz: int | None = field(default=None)
    seg_mosaic: bool = field(default=False)
    task_weights: list[float] = field(default_factory=list)
    seg_batch_size: int | None = field(default=None)
    balance: str = field(default="longest")
    joint_batches: str = field(default="auto")
    fitness: list[float] = field(default_factory=list)
    rect: bool = field(default=False)
    noautoanchor: bool = field(default=True)
    evolve_population: str = field(default="")
    single_cls: bool = field(default=False)
    quad: bool = field(default=False)
    close_mosaic: int = field(default=0)
    autobalance: bool = field(default=False)

    @classmethod
    def from_kwargs(cls, **values: Any) -> ClassifyTrainConfig:
        """As `BaseConfig.from_kwargs`; `model` stands for `weights` or `cfg`, whichever it names."""
        model = values.get("model")
        if model is not None and not {"weights", "cfg"} & values.keys():
            values |= split_model(str(model))
        elif model is None and (named := values.get("cfg") or values.get("weights")):
            values["model"] = named
        return super().from_kwargs(**values)

    @property
    def recipe(self) -> str | Mapping[str, Any]:
        """The recipe's numbers: no warm-up, no accumulation, linear decay."""
        if self.hyp:
            return self.hyp
        return {
            "lr0": self.lr0,
            "lrf": LAST_RATE,
            "momentum": MOMENTUM,
            "weight_decay": self.decay,
            "warmup_epochs": 0,
            "warmup_iterations": 0,
            "label_smoothing": SMOOTHING if self.label_smoothing is None else self.label_smoothing,
            "nominal_batch": max(self.batch_size, 1),
        }

    @property
    def takes_weights(self) -> bool:
        """Whether the weights of the starting checkpoint are taken over."""
        return self.pretrained

    @property
    def published_weights(self) -> bool:
        """Whether a torchvision network starts from its published weights: only if asked for, they are downloaded."""
        return self.pretrained and "pretrained" in self.given


def split_model(model: str) -> dict[str, str]:
    """What `--model` means: a checkpoint to start from, or a graph without weights."""
    suffix = Path(model).suffix.lower()
    if suffix in (".yaml", ".yml") or (not suffix and not model.startswith("yolov5")):
        return {"weights": "", "cfg": model}
    return {"weights": model if suffix else f"{model}.pt", "cfg": ""}


@dataclass(frozen=True)
class ClassifyValConfig(ValConfig):
    """Measure a classifier's accuracy on folders of images."""

    data: str = option("../datasets/mnist", "--data", help="folder, known name, builtin:shapes-cls or data YAML")
    weights: list[str] = option(["yolov5s-cls.pt"], "--weights", nargs="+", help="model file")
    batch_size: int = option(128, "--batch-size", type=positive_int, help="images per step")
    imgsz: int = option(224, *IMG_FLAGS, type=positive_int, help="side of the network input, pixels")
    verbose: bool = option(True, "--verbose", nargs="?", const=True, type=truth, help="a line per class")
    project: str = option("runs/val-cls", "--project", help="folder of runs")
    seg_imgsz: int | None = field(default=None)
    conf_thres: float = field(default=0.001)
    iou_thres: float = field(default=0.6)
    max_det: int = field(default=300)
    single_cls: bool = field(default=False)
    augment: bool = field(default=False)
    save_txt: bool = field(default=False)
    save_hybrid: bool = field(default=False)
    save_conf: bool = field(default=False)
    save_json: bool = field(default=False)
    coco: bool = field(default=False)


@dataclass(frozen=True)
class ClassifyPredictConfig(DetectConfig):
    """Tell what images, videos and streams show."""

    weights: list[str] = option(["yolov5s-cls.pt"], "--weights", nargs="+", help="model file or Triton URL")
    imgsz: list[int] = option(
        [224], *IMG_FLAGS, nargs="+", type=positive_int, help="network input in pixels: side, or height and width"
    )
    save_txt: bool = switch("--save-txt", help="write the five most likely classes to labels/*.txt")
    save_csv: bool = switch("--save-csv", help="write the most likely class to predictions.csv")
    augment: bool = switch("--augment", help="no effect: there is no test-time augmentation of classifiers")
    project: str = option("runs/predict-cls", "--project", help="folder of runs")
    conf_thres: float = field(default=0.25)
    iou_thres: float = field(default=0.45)
    max_det: int = field(default=1000)
    save_format: int = field(default=0)
    save_conf: bool = field(default=False)
    save_crop: bool = field(default=False)
    classes: list[int] | None = field(default=None)
    agnostic_nms: bool = field(default=False)
    line_thickness: int | None = field(default=None)
    hide_labels: bool = field(default=False)
    hide_conf: bool = field(default=False)
    retina_masks: bool = field(default=False)
