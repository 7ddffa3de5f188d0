"""Settings of train.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from utils.config.base import IMG_FLAGS, SEG_IMGSZ_HELP, BaseConfig, option, switch
from utils.config.flag_types import (
    fraction,
    int_at_least,
    not_negative_float,
    not_negative_int,
    positive_int,
    seed_value,
)
from utils.config.legacy import TRAIN_FLAGS
from utils.config.tiles import TILE_VISIBLE_HELP, TRAIN_HELP, check_tile_flags, tile_option, tile_overlap_option
from utils.core.errors import InputError

AUTOMATIC_BATCH = -1
LOGGERS = ("tensorboard", "mlflow", "wandb", "clearml", "comet", "none")


@dataclass(frozen=True)
class TrainConfig(BaseConfig):
    """Train a model on a data set."""

    old_flags = TRAIN_FLAGS
    weights: str = option("yolov5s.pt", "--weights", help="initial checkpoint; '' trains from scratch")
    cfg: str = option("", "--cfg", help="model YAML; overrides the architecture of the checkpoint")
    data: str = option("data/coco128.yaml", "--data", help="data set YAML")
    hyp: str | Mapping[str, Any] = option("data/hyps/hyp.scratch-low.yaml", "--hyp", help="hyperparameter YAML")
    epochs: int = option(100, "--epochs", type=positive_int, help="passes over the training set")
    batch_size: int = option(16, "--batch-size", type=int, help="images per step; -1: as many as fit in memory")
    imgsz: int = option(640, *IMG_FLAGS, type=positive_int, help="image size in pixels")
    rect: bool = switch("--rect", help="rectangular batches of similar aspect ratio; no mosaic, no shuffling")
    resume: str | bool = option(
        False, "--resume", nargs="?", const=True, help="resume the latest run or a given last.pt"
    )
    nosave: bool = switch("--nosave", help="save the checkpoint of the final epoch only")
    noval: bool = switch("--noval", help="validate after the final epoch only")
    noautoanchor: bool = switch("--noautoanchor", help="keep the anchors of the model")
    noplots: bool = switch("--noplots", help="write no plots")
    evolve: int | None = option(
        None, "--evolve", type=positive_int, nargs="?", const=300, help="evolve hyperparameters for N generations"
    )
    evolve_population: str = option("", "--evolve_population", help="folder of hyperparameter YAMLs to start from")
    resume_evolve: str = option("", "--resume_evolve", help="evolve.csv, or its folder, to resume from")
    bucket: str = option("", "--bucket", help="not supported: cloud storage is not used")
    cache: str | None = option(
        None,
        "--cache",
        nargs="?",
        const="ram",
        choices=("ram", "disk", "val"),
        help="cache decoded images in memory or on disk",
    )
    image_weights: bool = switch("--image-weights", help="sample images of weak classes more often")
    device: str = option("", "--device", help="cpu, mps, or CUDA indices such as 0 or 0,1; empty: CUDA if available")
    multi_scale: bool = switch("--multi-scale", help="vary the image size by up to 50 %% between steps")
    single_cls: bool = switch("--single-cls", help="train all classes as one")
    optimizer: str = option("SGD", "--optimizer", choices=("SGD", "Adam", "AdamW", "Muon"), help="optimizer")
    sync_bn: bool = switch("--sync-bn", help="synchronize batch norm over all ranks")
    workers: int = option(8, "--workers", type=not_negative_int, help="maximum number of loader processes")
    project: str = option("runs/train", "--project", help="parent folder of runs")
    name: str = option("exp", "--name", help="name of the run folder; `cfg` means the name of the model YAML")
    exist_ok: bool = switch("--exist-ok", help="use an existing run folder")
    quad: bool = switch("--quad", help="combine four images into one of twice the size")
    cos_lr: bool = switch("--cos-lr", help="cosine learning-rate schedule instead of linear")
    label_smoothing: float | None = option(
        None,
        "--label-smoothing",
        type=fraction,
        help="label smoothing of classes (default: from the hyperparameter file, or 0)",
    )
    patience: int = option(
        100, "--patience", type=not_negative_int, help="stop after so many epochs without improvement; 0: never"
    )
    freeze: list[int] = option(
        [0], "--freeze", nargs="+", type=not_negative_int, help="layers to freeze: N for the first N, or a list"
    )
    save_period: int = option(
        -1, "--save-period", "--save_period", type=int_at_least(-1), help="also save epochN.pt every N epochs"
    )
    save_pickle: bool = switch(
        "--save-pickle", help="also write best_pickle.pt: the network as a pickled module, for programs that expect one"
    )
    save_every_steps: int = option(
        0, "--save-every-steps", type=not_negative_int, help="also save last.pt every N optimizer steps"
    )
    seed: int = option(0, "--seed", type=seed_value, help="random seed of weights and augmentation")
    local_rank: int = option(-1, "--local_rank", "--local-rank", type=int, help="ignored; launchers set LOCAL_RANK")
    amp: str = option(
        "fp16",
        "--amp",
        choices=("fp16", "bf16", "off"),
        help="mixed precision on CUDA; bf16 also on CPUs that are faster with it",
    )
    close_mosaic: int = option(
        0, "--close-mosaic", type=not_negative_int, help="no mosaic and mixup in the last N epochs"
    )
    clip_grad: float = option(
        10.0, "--clip-grad", type=not_negative_float, help="maximum gradient norm; 0: no clipping"
    )
    dropblock: float = option(
        0.0, "--dropblock", type=fraction, help="DropBlock probability on the feature maps of the head"
    )
    compile: bool = switch("--compile", help="use torch.compile: slow start, faster training")
    checkpoint_activations: bool = switch(
        "--checkpoint-activations", help="recompute activations in the backward pass: less memory, a third slower"
    )
    deterministic: bool = switch("--deterministic", help="use deterministic algorithms; warn of operations without one")
    autobalance: bool = switch("--autobalance", help="adapt the objectness loss weight of each level during training")
    task: str = option("", "--task", help="task of the model; empty: from checkpoint or YAML")
    mask_ratio: int = option(
        4, "--mask-ratio", type=positive_int, help="instance segmentation: downsampling of training masks"
    )
    no_overlap: bool = switch("--no-overlap", help="instance segmentation: separate masks for overlapping objects")
    seg_loss: str = option(
        "ce",
        "--seg-loss",
        choices=("ce", "ohem", "focal"),
        help="semantic: cross-entropy, hard example mining, or focal loss",
    )
    aux_weights: list[float] = option(
        [0.15, 0.05],
        "--aux-weights",
        nargs=2,
        type=not_negative_float,
        help="semantic: loss weights of the auxiliary heads at strides 16 and 32",
    )
    class_weights: bool | list[float] = option(
        False,
        "--class-weights",
        nargs="*",
        type=not_negative_float,
        help="semantic: class weights of the loss; without values from class frequencies",
    )
    seg_imgsz: int | None = option(None, "--seg-imgsz", type=positive_int, help=SEG_IMGSZ_HELP)
    seg_mosaic: bool = switch(
        "--seg-mosaic", help="semantic: mosaic augmentation with the probability of the hyperparameter file"
    )
    task_weights: list[float] = option(
        [0.6, 0.35],
        "--task-weights",
        nargs=2,
        type=not_negative_float,
        help="joint: loss weights of detection and semantic segmentation",
    )
    seg_batch_size: int | None = option(
        None,
        "--seg-batch-size",
        type=positive_int,
        help="joint: images with semantic masks per step (default: as --batch-size)",
    )
    balance: str = option(
        "longest", "--balance", choices=("longest", "shortest"), help="joint: data set that sets the length of an epoch"
    )
    joint_batches: str = option(
        "auto",
        "--joint-batches",
        choices=("auto", "shared", "own"),
        help="joint: one batch with boxes and semantic masks, or one for each; auto: as the data allows",
    )
    fitness: list[float] = option(
        [0.1, 0.2, 0.7],
        "--fitness",
        nargs=3,
        type=not_negative_float,
        help="joint: fitness weights of mAP50, mAP50-95 and mIoU",
    )
    tile: int | None = tile_option(TRAIN_HELP)
    tile_overlap: float = tile_overlap_option()
    tile_visible: float = option(0.3, "--tile-visible", type=fraction, help=TILE_VISIBLE_HELP)
    entity: str | None = option(None, "--entity", help="wandb or comet account of the run")
    upload_dataset: str | bool = option(
        False, "--upload_dataset", nargs="?", const=True, help="upload the data set, or one split, to the loggers"
    )
    bbox_interval: int = option(
        -1,
        "--bbox_interval",
        type=int_at_least(-1),
        help="epochs between logged images; -1: ten times per run",
    )
    artifact_alias: str = option("latest", "--artifact_alias", help="version alias of the uploaded data set")
    loggers: list[str] | None = option(
        None,
        "--loggers",
        nargs="+",
        choices=LOGGERS,
        help="experiment trackers; default: TensorBoard and those configured by the environment",
    )

    @property
    def recipe(self) -> str | Mapping[str, Any]:
        """Hyperparameter file, or its content."""
        return self.hyp

    @property
    def mosaic_epochs(self) -> int | None:
        """Number of epochs with mosaic, from the first; None for all."""
        return max(self.epochs - self.close_mosaic, 0) if self.close_mosaic else None

    @property
    def transfers_weights(self) -> bool:
        """Whether to transfer the weights of the initial checkpoint."""
        return True

    def check(self) -> TrainConfig:
        """Return the settings; InputError if one is not supported or contradicts another."""
        if self.bucket:
            raise InputError(
                f"--bucket {self.bucket}: cloud storage is not supported; omit the flag and copy evolve.csv yourself"
            )
        if self.resume == "":
            raise InputError("--resume '': there is no such file; name a last.pt, or give --resume alone")
        if self.resume and (self.evolve or self.resume_evolve):
            raise InputError("--resume continues a training run; use --resume_evolve FOLDER to continue an evolution")
        if self.batch_size < 1 and self.batch_size != AUTOMATIC_BATCH:
            raise InputError(f"--batch-size {self.batch_size}: must be at least 1, or -1 for as many as fit in memory")
        if self.compile and self.checkpoint_activations:
            raise InputError("--compile and --checkpoint-activations cannot be combined; use one of them")
        check_tile_flags(self.tile, self.explicit)
        if self.tile is not None and self.cache == "disk":
            raise InputError(
                "--tile and --cache disk cannot be combined; use --cache ram, or `python -m utils.datasets tile`"
            )
        if self.image_weights and self.rect:
            raise InputError(
                "--image-weights and --rect cannot be combined: one samples at random, the other keeps the order"
            )
        return self
