"""Typed, frozen settings of the commands; each field declares the flags that fill it.

Nothing here imports torch, so that `--help` and a wrong flag are answered at once.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from utils.config.flag_types import int_from, not_negative_float, not_negative_int, positive_int, seed_number, share
from utils.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
IMG_FLAGS = ("--imgsz", "--img", "--img-size")
SEG_IMGSZ_HELP = "semantic: longer side at which semantic masks are measured, training scales around it; as --imgsz"
AUTOMATIC_BATCH = -1
Config = TypeVar("Config", bound="BaseConfig")


def option(default: Any, *flags: str, help: str, **argparse_options: Any) -> Any:
    """A dataclass field filled by command-line `flags`.

    Args:
        default: value where the flag is absent; a list is copied for each instance.
        flags: spellings, the first one gives the name users see in messages.
        help: one line for `--help`; the default is appended.
        argparse_options: passed to `add_argument` (type, nargs, const, choices, action).
    """
    metadata = {"flags": flags, "argparse": {"help": help, **argparse_options}}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def switch(*flags: str, help: str) -> Any:
    """A boolean field, False unless its flag is given."""
    return option(False, *flags, help=help, action="store_true")


@dataclass(frozen=True)
class BaseConfig:
    """Settings that come from a command line, keyword arguments or a stored mapping.

    Attributes:
        given: names of the fields that the caller set, as against their defaults.
    """

    given: frozenset[str] = field(default=frozenset(), kw_only=True)

    @classmethod
    def parser(cls, prog: str | None = None) -> argparse.ArgumentParser:
        """The argparse parser of this command; unambiguous prefixes of flags are accepted."""
        parser = argparse.ArgumentParser(prog=prog, description=(cls.__doc__ or "").splitlines()[0])
        for f in fields(cls):
            if "flags" in f.metadata:
                options = dict(f.metadata["argparse"])
                default = _default_of(f)
                options["help"] += "" if default in (None, False, "", []) else f" (default: {_shown(default)})"
                parser.add_argument(*f.metadata["flags"], dest=f.name, default=argparse.SUPPRESS, **options)
        return parser

    @classmethod
    def from_args(cls: type[Config], argv: Sequence[str] | None = None) -> Config:
        """Settings from a command line (default: sys.argv); argparse exits with status 2 on a wrong flag."""
        return cls.from_kwargs(**vars(cls.parser().parse_args(argv)))

    @classmethod
    def from_kwargs(cls: type[Config], **values: Any) -> Config:
        """Settings by field name, as in `train.run(imgsz=320)`; `imgsz` also answers to `img` and `img_size`.

        Raises:
            InputError: no such field, or a value that its flag would not take.
        """
        known = {f.name: f for f in fields(cls) if "flags" in f.metadata}
        for alias in ("img", "img_size"):
            if alias in values and "imgsz" in known:
                values["imgsz"] = values.pop(alias)
        if unknown := sorted(values.keys() - known):
            raise InputError(f"unknown option {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        values = {name: _checked(known[name], value) for name, value in values.items()}
        return cls(**values, given=frozenset(values))

    def adapted(self, kind: type[Config]) -> Config:
        """These settings as `kind`, whose defaults stand in for what the caller did not set.

        Raises:
            InputError: `kind` lacks an option that was set.
        """
        if type(self) is kind:
            return self
        if idle := self.given - {f.name for f in fields(kind) if "flags" in f.metadata}:
            raise InputError(f"{flags_of(idle)}: without effect on a model of this kind; leave it out")
        return kind.from_kwargs(**{name: getattr(self, name) for name in self.given})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for opt.yaml and checkpoints."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if "flags" in f.metadata}


def flags_of(names: Iterable[str]) -> str:
    """Fields by the names of their flags, in alphabetical order."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in sorted(names))


def with_defaults(kind: type[Config], description: str, **defaults: Any) -> type[Config]:
    """A command with the settings of another one, some of them with other defaults.

    Args:
        description: one line for `--help`.
        defaults: by field name.
    """
    changed: list[Any] = [
        (f.name, f.type, option(defaults[f.name], *f.metadata["flags"], **f.metadata["argparse"]))
        for f in fields(kind)
        if f.name in defaults
    ]
    made = dataclasses.make_dataclass(
        kind.__name__, changed, bases=(kind,), namespace={"__doc__": description, "__module__": __name__}, frozen=True
    )
    return cast("type[Config]", made)


def _default_of(f: dataclasses.Field[Any]) -> Any:
    """The value a field has where its flag is absent."""
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def _checked(f: dataclasses.Field[Any], value: Any) -> Any:
    """The value of a field if its flag would take it, else InputError; a single value may stand for a list.

    A flag that takes any number of values is True without any.
    """
    nargs, default = f.metadata["argparse"].get("nargs"), _default_of(f)
    if value is None or value == default:
        return default if value is None else value
    if nargs == "*" and value in (True, []):
        return True
    if nargs in ("+", "*") or isinstance(nargs, int):
        items = [_checked_item(f, item) for item in (value if isinstance(value, list | tuple) else [value])]
        if isinstance(nargs, int) and len(items) != nargs:
            raise InputError(f"{f.metadata['flags'][0]} {_shown(items)}: takes {nargs} values, not {len(items)}")
        return items
    return _checked_item(f, value)


def _checked_item(f: dataclasses.Field[Any], value: Any) -> Any:
    """One value as argparse would check and convert it."""
    flag, options = f.metadata["flags"][0], f.metadata["argparse"]
    if value not in options.get("choices", (value,)):
        raise InputError(f"{flag} {value}: must be one of {', '.join(options['choices'])}")
    if options.get("action") == "store_true" and not isinstance(value, bool):
        raise InputError(f"{flag} {value}: is a switch, True or False")
    if "type" not in options:
        return value
    try:
        return options["type"](str(value))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise InputError(f"{flag} {value}: {error}") from error


def _shown(value: Any) -> str:
    """A default as a user would type it."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(value: Any) -> Any:
    """The value with paths as text, so that it can be stored as data."""
    if isinstance(value, Path):
        return value.as_posix()
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


LOGGERS = ("tensorboard", "mlflow", "wandb", "clearml", "comet", "none")


@dataclass(frozen=True)
class TrainConfig(BaseConfig):
    """Train a model on a data set."""

    weights: str = option("yolov5s.pt", "--weights", help="starting checkpoint; '' trains from scratch")
    cfg: str = option("", "--cfg", help="model YAML; overrides the checkpoint's architecture")
    data: str = option("data/coco128.yaml", "--data", help="data set YAML")
    hyp: str | Mapping[str, Any] = option("data/hyps/hyp.scratch-low.yaml", "--hyp", help="hyperparameter YAML")
    epochs: int = option(100, "--epochs", type=positive_int, help="passes over the training set")
    batch_size: int = option(16, "--batch-size", type=int, help="images per step; -1: what the memory holds")
    imgsz: int = option(640, *IMG_FLAGS, type=positive_int, help="side of the square network input, pixels")
    rect: bool = switch("--rect", help="batches of alike aspect ratio; no mosaic, no shuffling")
    resume: str | bool = option(
        False, "--resume", nargs="?", const=True, help="go on from the newest or a given last.pt"
    )
    nosave: bool = switch("--nosave", help="save the checkpoint of the final epoch only")
    noval: bool = switch("--noval", help="validate after the final epoch only")
    noautoanchor: bool = switch("--noautoanchor", help="keep the anchors as they are")
    noplots: bool = switch("--noplots", help="write no plots")
    evolve: int | None = option(
        None, "--evolve", type=positive_int, nargs="?", const=300, help="search hyperparameters for N generations"
    )
    evolve_population: str = option("", "--evolve_population", help="folder of hyp YAMLs that an evolution tries first")
    resume_evolve: str = option("", "--resume_evolve", help="evolve.csv, or its folder, to go on from or to help with")
    bucket: str = option("", "--bucket", help="refused: results of an evolution stay on this machine")
    cache: str | None = option(
        None, "--cache", nargs="?", const="ram", choices=("ram", "disk", "val"), help="keep decoded images"
    )
    image_weights: bool = switch("--image-weights", help="draw images of weak classes more often")
    device: str = option("", "--device", help="cpu, mps, a CUDA index or several (0,1); empty takes the best")
    multi_scale: bool = switch("--multi-scale", help="vary the input side by up to 50 %% from step to step")
    single_cls: bool = switch("--single-cls", help="treat all classes as one")
    optimizer: str = option("SGD", "--optimizer", choices=("SGD", "Adam", "AdamW", "Muon"), help="optimizer")
    sync_bn: bool = switch("--sync-bn", help="batch norm over the images of all processes")
    workers: int = option(8, "--workers", type=not_negative_int, help="loader processes, at most")
    project: str = option("runs/train", "--project", help="folder of runs")
    name: str = option("exp", "--name", help="run folder; `cfg` takes the model YAML's name")
    exist_ok: bool = switch("--exist-ok", help="write into an existing run folder")
    quad: bool = switch("--quad", help="collate four images into one of twice the side")
    cos_lr: bool = switch("--cos-lr", help="cosine instead of linear learning-rate decay")
    label_smoothing: float | None = option(
        None, "--label-smoothing", type=share, help="class target smoothing (default: that of the hyp file, or 0)"
    )
    patience: int = option(
        100, "--patience", type=not_negative_int, help="epochs without gain before stopping; 0: never"
    )
    freeze: list[int] = option(
        [0], "--freeze", nargs="+", type=not_negative_int, help="N: first N layers; several: those"
    )
    save_period: int = option(-1, "--save-period", type=int_from(-1), help="also keep epochN.pt every so many epochs")
    save_every_steps: int = option(
        0, "--save-every-steps", type=not_negative_int, help="also write last.pt every so many optimizer steps"
    )
    seed: int = option(0, "--seed", type=seed_number, help="seed of weights and augmentation")
    local_rank: int = option(
        -1, "--local_rank", "--local-rank", type=int, help="accepted from launchers; LOCAL_RANK counts"
    )
    amp: str = option(
        "fp16",
        "--amp",
        choices=("fp16", "bf16", "off"),
        help="mixed precision on CUDA; bf16 also on CPUs that are faster in it",
    )
    close_mosaic: int = option(
        0, "--close-mosaic", type=not_negative_int, help="no mosaic and mixup in the last N epochs"
    )
    clip_grad: float = option(
        10.0, "--clip-grad", type=not_negative_float, help="largest norm of the gradients of a step; 0: any"
    )
    dropblock: float = option(0.0, "--dropblock", type=share, help="share of the head's input maps dropped in blocks")
    compile: bool = switch("--compile", help="compile the network by torch.compile: slow to start, then faster")
    checkpoint_activations: bool = switch(
        "--checkpoint-activations", help="compute activations twice rather than keep them: less memory, a third slower"
    )
    deterministic: bool = switch("--deterministic", help="repeatable algorithms only; says which operation has none")
    autobalance: bool = switch("--autobalance", help="adapt the objectness weight of each level while training")
    task: str = option("", "--task", help="task of the model; empty: taken from checkpoint or YAML")
    mask_ratio: int = option(
        4, "--mask-ratio", type=positive_int, help="segmentation: pixels per pixel of a training mask"
    )
    no_overlap: bool = switch("--no-overlap", help="segmentation: a mask per object where they overlap")
    seg_loss: str = option(
        "ce", "--seg-loss", choices=("ce", "ohem", "focal"), help="semantic: all pixels, the hardest, hard ones more"
    )
    aux_weights: list[float] = option(
        [0.15, 0.05], "--aux-weights", nargs=2, type=not_negative_float, help="semantic: auxiliary heads at 1/16, 1/32"
    )
    class_weights: bool | list[float] = option(
        False,
        "--class-weights",
        nargs="*",
        type=not_negative_float,
        help="semantic: a weight per class in the loss; without numbers the rarer the heavier",
    )
    seg_imgsz: int | None = option(None, "--seg-imgsz", type=positive_int, help=SEG_IMGSZ_HELP)
    seg_mosaic: bool = switch(
        "--seg-mosaic", help="semantic: mosaics of images for semantic masks alone, as the hyp says"
    )
    task_weights: list[float] = option(
        [0.6, 0.35], "--task-weights", nargs=2, type=not_negative_float, help="joint: of the losses of boxes and maps"
    )
    seg_batch_size: int | None = option(
        None, "--seg-batch-size", type=positive_int, help="joint: images with semantic masks per step; as --batch-size"
    )
    balance: str = option(
        "longest", "--balance", choices=("longest", "shortest"), help="joint: which of two sets an epoch goes through"
    )
    joint_batches: str = option(
        "auto",
        "--joint-batches",
        choices=("auto", "shared", "own"),
        help="joint: one batch for boxes and maps where a set has both, or one for each",
    )
    fitness: list[float] = option(
        [0.1, 0.2, 0.7], "--fitness", nargs=3, type=not_negative_float, help="joint: weights of mAP50, mAP50-95, mIoU"
    )
    entity: str | None = option(None, "--entity", help="account that wandb and comet keep the run under")
    upload_dataset: str | bool = option(
        False, "--upload_dataset", nargs="?", const=True, help="upload the data set to the loggers; or one split"
    )
    bbox_interval: int = option(
        -1,
        "--bbox_interval",
        type=int_from(-1),
        help="epochs between logged images; -1: a tenth of the run",
    )
    artifact_alias: str = option("latest", "--artifact_alias", help="version name of the uploaded data")
    loggers: list[str] | None = option(
        None,
        "--loggers",
        nargs="+",
        choices=LOGGERS,
        help="where the run is kept beside its folder; default: TensorBoard and what the environment asks for",
    )

    @property
    def recipe(self) -> str | Mapping[str, Any]:
        """The hyperparameter file, or its content."""
        return self.hyp

    @property
    def mosaic_epochs(self) -> int | None:
        """The number of epochs with mosaics, the first ones; None for all."""
        return max(self.epochs - self.close_mosaic, 0) if self.close_mosaic else None

    @property
    def takes_weights(self) -> bool:
        """Whether the weights of the starting checkpoint are taken over."""
        return True

    def check(self) -> TrainConfig:
        """The same settings; InputError for one that is not offered yet or contradicts another."""
        if self.bucket:
            raise InputError(
                f"--bucket {self.bucket}: no cloud program is started here; leave the flag out, "
                "and copy evolve.csv with a tool of your own"
            )
        if self.resume and (self.evolve or self.resume_evolve):
            raise InputError("--resume goes on with one training; an evolution goes on with --resume_evolve FOLDER")
        if self.batch_size < 1 and self.batch_size != AUTOMATIC_BATCH:
            raise InputError(f"--batch-size {self.batch_size}: give at least 1, or -1 for what the memory holds")
        if self.compile and self.checkpoint_activations:
            raise InputError("--compile chooses itself what to keep: give it or --checkpoint-activations")
        if self.image_weights and self.rect:
            raise InputError("--image-weights draws images at random, --rect keeps their order: give one of the two")
        return self


@dataclass(frozen=True)
class ValConfig(BaseConfig):
    """Measure a model's accuracy on a data set."""

    data: str = option("data/coco128.yaml", "--data", help="data set YAML")
    weights: list[str] = option(["yolov5s.pt"], "--weights", nargs="+", help="model file; several form an ensemble")
    batch_size: int = option(32, "--batch-size", type=positive_int, help="images per step")
    imgsz: int = option(640, *IMG_FLAGS, type=positive_int, help="longest side of the network input, pixels")
    conf_thres: float = option(0.001, "--conf-thres", type=share, help="lowest score kept")
    iou_thres: float = option(0.6, "--iou-thres", type=share, help="overlap limit of non-maximum suppression")
    seg_imgsz: int | None = option(None, "--seg-imgsz", type=positive_int, help=SEG_IMGSZ_HELP)
    max_det: int = option(300, "--max-det", type=positive_int, help="detections kept per image")
    task: str = option(
        "val", "--task", choices=("train", "val", "test", "speed", "study"), help="split, or a benchmark"
    )
    device: str = option("", "--device", help="cpu, mps or a CUDA index; empty takes the best there is")
    workers: int = option(8, "--workers", type=not_negative_int, help="loader processes, at most")
    single_cls: bool = switch("--single-cls", help="ignore which class an object has")
    augment: bool = switch("--augment", help="test-time augmentation")
    verbose: bool = switch("--verbose", help="a line per class and every message about the labels")
    save_txt: bool = switch("--save-txt", help="write detections to labels/*.txt")
    save_hybrid: bool = switch("--save-hybrid", help="write labels and detections together; implies --save-txt")
    save_conf: bool = switch("--save-conf", help="append the score to each text line")
    save_json: bool = switch("--save-json", help="write COCO JSON and evaluate with COCO's own metrics")
    coco: bool = switch("--coco", help="evaluate with COCO's own metrics (implies --save-json)")
    project: str = option("runs/val", "--project", help="folder of runs")
    name: str = option("exp", "--name", help="run folder")
    exist_ok: bool = switch("--exist-ok", help="write into an existing run folder")
    half: bool = switch("--half", help="FP16 inference")
    dnn: bool = switch("--dnn", help="run .onnx files by OpenCV")
    noplots: bool = switch("--noplots", help="write no plots")
