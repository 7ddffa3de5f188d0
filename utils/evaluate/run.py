"""Validation runs (val.py): evaluation of a split, and the speed and study modes."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.yolo import check_image_size
from utils import plots
from utils.backends.base import Backend, has_nms
from utils.backends.registry import load_backend
from utils.config.base import format_flags
from utils.config.hyp import Hyperparameters
from utils.config.tiles import check_tile_flags
from utils.config.val import ValConfig
from utils.core.device import describe_device, select_device
from utils.core.errors import InputError
from utils.core.files import make_run_folder
from utils.core.logging import LOGGER
from utils.datasets.index.class_folders import read_data
from utils.datasets.index.data_yaml import DataSpec
from utils.evaluate.sinks import PlotSink
from utils.evaluate.tiles import TiledBatchPredictor
from utils.evaluate.validator import ValidationResult, validate
from utils.plots.results import STUDY_SIZES
from utils.tasks.base import PredictionFiles, Sink, Task
from utils.tasks.options import DataOptions, PostprocessOptions, TaskOptions
from utils.tasks.registry import find_task

SPEED_SETTINGS: dict[str, Any] = {"conf_thres": 0.25, "iou_thres": 0.45, "noplots": True}
COCO_CLASSES = 80
MANY_CLASSES = 50  # the table has a line per class only below this number, unless `--verbose` is given


@dataclass(frozen=True)
class Subject:
    """A loaded model and the data to evaluate it on."""

    backend: Backend
    spec: DataSpec
    weights: str


def evaluate(config: ValConfig) -> list[ValidationResult]:
    """Run the mode of `--task`; returns one result per model file and image size.

    Raises:
        InputError: a file, flag or value is invalid, or the numbers of classes of model and data differ.
    """
    single = config.task in ("speed", "study")
    subjects = [
        load_subject(config, files) for files in ([[w] for w in config.weights] if single else [config.weights])
    ]
    task = find_task(subjects[0].backend.task)
    config = config.adapt_to(task.val_config)
    task.check_tile(config.tile)
    check_tile_flags(config.tile, config.explicit)
    if config.tile is not None and config.task in ("speed", "study"):
        raise InputError(f"--tile and --task {config.task} cannot be combined; leave one of them out")
    if unused := config.explicit & task.unused_val_flags:
        LOGGER.warning(f"WARNING {format_flags(unused)}: ignored in task {task.name!r}")
    if config.task == "speed":
        config = replace(config, **SPEED_SETTINGS)
    save_dir = Path(config.project) / config.name
    if writes_files(config):
        save_dir = make_run_folder(save_dir, exist_ok=config.exist_ok)
    if config.task == "study":
        return [result for subject in subjects for result in study(subject, config, save_dir)]
    if config.task == "speed":
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):  # pays off, as all inputs have one size
            return [evaluate_split(s, config, save_dir, square=True) for s in subjects]
    return [evaluate_split(subjects[0], config, save_dir)]


def load_subject(config: ValConfig, weights: Sequence[str]) -> Subject:
    """Load model file(s) and data YAML; InputError if their numbers of classes differ."""
    device = select_device(config.device)
    LOGGER.info(describe_device(device))
    half = config.half and ("half" in config.explicit or device.type == "cuda")
    data = read_data(config.data)  # fail on a mismatch before anything is downloaded
    backend = load_backend(
        weights,
        device=device,
        fp16=half,
        names=data.names,
        dnn=config.dnn,
        trust=config.trust,
        threads=config.threads,
    )
    task = find_task(backend.task)
    names = task.get_class_names(data)
    if names and not config.single_cls:
        check_num_classes(weights[0], len(backend.names), config.data, len(names))
    spec = task.load_data(config.data)
    if not names:
        check_num_classes(weights[0], len(backend.names), spec.path, spec.num_classes)
    if backend.semantic is not None and spec.semantic is not None:
        check_num_classes(weights[0], len(backend.semantic), spec.path, len(spec.semantic.classes), "semantic classes")
    if has_nms(backend):
        LOGGER.warning(
            f"WARNING: {weights[0]} holds NMS: evaluated with the thresholds of its export, "
            "so mAP is below that of the network; for that, export without --nms"
        )
    return Subject(backend, spec, weights[0])


def check_num_classes(weights: str, num_classes: int, data: str | Path, num_names: int, kind: str = "classes") -> None:
    """InputError if the numbers of classes of a model and a data set differ."""
    if num_classes != num_names:
        raise InputError(
            f"{weights} has {num_classes} {kind}, {data} names {num_names}: give the data set the model was trained on"
        )


def evaluate_split(
    subject: Subject, config: ValConfig, save_dir: Path, *, square: bool = False, imgsz: int | None = None
) -> ValidationResult:
    """Evaluate a model on the split that `config.task` names (val in the benchmark modes).

    Losses are not computed, to save time: training reports them every epoch.
    """
    backend, kind = subject.backend, find_task(subject.backend.task)
    split = config.task if config.task in ("train", "test") else "val"
    options = build_options(subject, config, imgsz or config.imgsz)
    task = kind(subject.spec, Hyperparameters(), options, channels=backend.channels)
    predictor = None
    if config.tile is None:
        loader = task.build_eval_loader(split, rect=not square, pad=0.0 if square else None)
    else:
        loader = task.build_eval_loader(split, batch_size=1, rect=False)
        predictor = TiledBatchPredictor(backend, config, options.postprocess, options.data.imgsz)
    result = validate(
        task,
        backend.forward,
        loader,
        device=backend.device,
        dtype=backend.dtype,
        has_thread_pool=backend.has_thread_pool,
        augment=config.augment,
        sinks=build_sinks(task, config, save_dir, subject, split),
        progress=f"{split} at {options.data.imgsz} px",
        predictor=predictor,
    )
    report(result, config, save_dir, (config.batch_size, backend.channels, *(options.data.imgsz,) * 2))
    return result


def build_options(subject: Subject, config: ValConfig, imgsz: int) -> TaskOptions:
    """Task options of a validation run."""
    backend, kind = subject.backend, find_task(subject.backend.task)
    data = DataOptions(
        imgsz=get_input_size(backend, imgsz),
        batch_size=config.batch_size,
        workers=config.workers,
        single_cls=config.single_cls,
        stride=backend.stride,
        fixed_hw=backend.fixed_hw,
        original_size=config.tile is not None,
        pin_memory=backend.device.type == "cuda",
    )
    postprocess = PostprocessOptions(
        config.conf_thres, config.iou_thres, max_det=config.max_det, single_cls=config.single_cls
    )
    verbose = config.verbose if "verbose" in config.explicit else len(kind.get_class_names(subject.spec)) < MANY_CLASSES
    return TaskOptions(data, postprocess, kind.options_type.from_val_config(config), verbose)


def get_input_size(backend: Backend, imgsz: int) -> int:
    """Longer side of the network input: `imgsz` rounded up to the stride, or that of a file with a fixed size."""
    if backend.fixed_hw is None:
        return max(check_image_size(imgsz, backend.stride), 2 * backend.stride)
    height, width = backend.fixed_hw
    if max(backend.fixed_hw) != imgsz:
        LOGGER.warning(f"The file takes {height}x{width} images only: evaluating at that size, not at {imgsz}")
    return max(height, width)


def build_sinks(task: Task, config: ValConfig, save_dir: Path, subject: Subject, split: str) -> list[Sink]:
    """The sinks that the flags select; for COCO also a JSON file."""
    is_coco = is_coco_set(config.data)
    files = PredictionFiles(
        folder=save_dir,
        text=config.save_txt or config.save_hybrid,
        scores=config.save_conf,
        hybrid=config.save_hybrid,
        json=save_dir / f"{Path(subject.weights).stem}_predictions.json" if writes_json(config) else None,
        coco_ids=is_coco and subject.spec.num_classes == COCO_CLASSES,
    )
    sinks: list[Sink] = [] if config.noplots else [PlotSink(task, save_dir)]
    return sinks + task.build_sinks(files, split)


def writes_json(config: ValConfig) -> bool:
    """Whether to write the predictions in COCO's JSON format."""
    return config.save_json or config.coco or is_coco_set(config.data)


def writes_files(config: ValConfig) -> bool:
    """Whether the run writes any file, and so needs a folder."""
    text = config.save_txt or config.save_hybrid
    return config.task == "study" or not config.noplots or text or writes_json(config)


def is_coco_set(data: str | Path) -> bool:
    """Whether a data YAML is that of COCO, by its name."""
    return str(data).endswith("coco.yaml")


def report(result: ValidationResult, config: ValConfig, save_dir: Path, shape: tuple[int, ...]) -> None:
    """Log metrics and times, and plot the curves; `shape` is that of a batch."""
    LOGGER.info(result.evaluation.table)
    preprocess, inference, nms = (f"{ms:.1f}ms" for ms in result.speed_ms)
    LOGGER.info(f"Speed: {preprocess} pre-process, {inference} inference, {nms} NMS per image at shape {shape}")
    LOGGER.info(f"{result.seconds:.1f} s in total, {result.share_outside_forward:.0%} of it outside inference")
    if not config.noplots:
        result.evaluator.plot(save_dir)
    if writes_files(config):
        LOGGER.info(f"Results saved to {save_dir}")


def study(subject: Subject, config: ValConfig, save_dir: Path) -> list[ValidationResult]:
    """Accuracy and speed over image sizes: `study_<data>_<weights>.txt`, study.zip and study.png."""
    if subject.backend.fixed_hw is not None:
        raise InputError(f"{subject.weights}: --task study needs a model of any size; export it with --dynamic")
    file = save_dir / f"study_{Path(config.data).stem}_{Path(subject.weights).stem}.txt"
    config = replace(config, noplots=True)
    results = [evaluate_split(subject, config, save_dir, imgsz=size) for size in STUDY_SIZES]
    rows = [[*r.evaluation.metrics.values(), *r.losses.values(), *r.speed_ms] for r in results]
    np.savetxt(file, np.array(rows, dtype=float), fmt="%10.4g")
    with zipfile.ZipFile(save_dir / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(save_dir.glob("study_*.txt")):
            archive.write(path, path.name)
    plots.plot_study(sorted(save_dir.glob("study_*.txt")), save_dir / "study.png", sizes=STUDY_SIZES)
    return results
