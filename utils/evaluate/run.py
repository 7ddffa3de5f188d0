"""val.py's work: a checkpoint measured on a split, and the speed and study modes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from utils.config.val import ValConfig
from utils.core.device import describe_device, select_device
from utils.core.errors import InputError
from utils.core.files import increment_path, make_run_folder
from utils.core.logging import LOGGER
from utils.datasets.index.class_folders import read_data
from utils.datasets.index.data_yaml import DataSpec
from utils.evaluate.sinks import PlotSink
from utils.evaluate.validator import ValidationResult, validate
from utils.plots.results import STUDY_SIZES
from utils.tasks.base import DataOptions, PostprocessOptions, PredictionFiles, Sink, Task, TaskOptions
from utils.tasks.registry import find_task

SPEED_SETTINGS: dict[str, Any] = {"conf_thres": 0.25, "iou_thres": 0.45, "noplots": True}
COCO_CLASSES = 80
MANY_CLASSES = 50  # from so many on the table has no line for each of them, unless it is asked for


@dataclass(frozen=True)
class Subject:
    """What is measured: a loaded model, and the data it is measured on."""

    backend: Backend
    spec: DataSpec
    weights: str


def evaluate(config: ValConfig) -> list[ValidationResult]:
    """Run the mode of `--task`; one result per model file and size.

    Raises:
        InputError: a file, flag or value cannot be used, or the model's classes are not those of the data.
    """
    single = config.task in ("speed", "study")
    subjects = [
        load_subject(config, files) for files in ([[w] for w in config.weights] if single else [config.weights])
    ]
    task = find_task(subjects[0].backend.task)
    config = config.adapt_to(task.val_config)
    if unused := config.explicit & task.unused_val_flags:
        LOGGER.warning(f"WARNING {format_flags(unused)}: ignored in task {task.name!r}")
    save_dir = increment_path(Path(config.project) / config.name, config.exist_ok)
    if config.task == "study":
        return [result for subject in subjects for result in study(subject, config, save_dir)]
    if config.task == "speed":
        with quick_kernels():
            return [measure_split(s, replace(config, **SPEED_SETTINGS), save_dir, square=True) for s in subjects]
    return [measure_split(subjects[0], config, save_dir)]


@contextmanager
def quick_kernels() -> Iterator[None]:
    """Let cuDNN try its kernels and keep the quickest, which pays where all inputs have one size."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def load_subject(config: ValConfig, weights: Sequence[str]) -> Subject:
    """Load model file(s) and data YAML and see that their classes agree."""
    device = select_device(config.device)
    LOGGER.info(describe_device(device))
    half = config.half and ("half" in config.explicit or device.type == "cuda")
    data = read_data(config.data)  # a mismatch is told before anything is downloaded
    backend = load_backend(weights, device=device, fp16=half, names=data.names, dnn=config.dnn)
    task = find_task(backend.task)
    names = task.get_class_names(data)
    if names and len(backend.names) != len(names) and not config.single_cls:
        raise InputError(
            f"{weights[0]} has {len(backend.names)} classes, {config.data} names {len(names)}: "
            "give the data set the model was trained on"
        )
    spec = task.load_data(config.data)
    if not names and len(backend.names) != spec.num_classes:
        raise InputError(f"{weights[0]} has {len(backend.names)} classes, {spec.path} has {spec.num_classes}")
    semantic = getattr(backend, "semantic", None)
    if semantic is not None and spec.semantic is not None and len(semantic) != len(spec.semantic.classes):
        raise InputError(
            f"{weights[0]} has {len(semantic)} semantic classes, {spec.path} names {len(spec.semantic.classes)}: "
            "give the data set the model was trained on"
        )
    if has_nms(backend):
        LOGGER.warning(
            f"WARNING: {weights[0]} holds NMS: measured by the thresholds of its export, "
            "so mAP is below the network's; for that, export without --nms"
        )
    return Subject(backend, spec, weights[0])


def measure_split(
    subject: Subject, config: ValConfig, save_dir: Path, *, square: bool = False, imgsz: int | None = None
) -> ValidationResult:
    """Evaluate a model on the split that `config.task` names (val in the benchmark modes).

    Losses are not computed: training reports them every epoch, and here they would only take time.
    """
    backend, kind = subject.backend, find_task(subject.backend.task)
    split = config.task if config.task in ("train", "test") else "val"
    options = build_options(subject, config, imgsz or config.imgsz)
    task = kind(subject.spec, Hyperparameters(), options, channels=backend.channels)
    loader = task.build_eval_loader(split, **({"rect": False, "pad": 0.0} if square else {}))
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
        pin_memory=backend.device.type == "cuda",
    )
    postprocess = PostprocessOptions(
        config.conf_thres, config.iou_thres, max_det=config.max_det, single_cls=config.single_cls
    )
    verbose = config.verbose if "verbose" in config.explicit else len(kind.get_class_names(subject.spec)) < MANY_CLASSES
    return TaskOptions(data, postprocess, kind.options_type.from_val_config(config), verbose)


def get_input_size(backend: Backend, imgsz: int) -> int:
    """Longer side of the network input: the wanted one rounded up to the stride, or what an exported file demands."""
    if backend.fixed_hw is None:
        return max(check_image_size(imgsz, backend.stride), 2 * backend.stride)
    height, width = backend.fixed_hw
    if max(backend.fixed_hw) != imgsz:
        LOGGER.warning(f"The file takes {height}x{width} images only: measured at that size, not at {imgsz}")
    return max(height, width)


def build_sinks(task: Task, config: ValConfig, save_dir: Path, subject: Subject, split: str) -> list[Sink]:
    """The readers of predictions that the flags ask for; the COCO set asks for JSON by itself."""
    is_coco = is_coco_set(config.data)
    as_json = config.save_json or config.coco or is_coco
    files = PredictionFiles(
        folder=save_dir,
        text=config.save_txt or config.save_hybrid,
        scores=config.save_conf,
        hybrid=config.save_hybrid,
        json=save_dir / f"{Path(subject.weights).stem}_predictions.json" if as_json else None,
        coco_ids=is_coco and subject.spec.num_classes == COCO_CLASSES,
    )
    sinks: list[Sink] = [] if config.noplots else [PlotSink(task, save_dir)]
    if sinks or files.text or as_json:
        make_run_folder(save_dir)
    return sinks + task.build_sinks(files, split)


def is_coco_set(data: str | Path) -> bool:
    """Whether a data YAML is named like that of the COCO set."""
    return str(data).endswith("coco.yaml")


def report(result: ValidationResult, config: ValConfig, save_dir: Path, shape: tuple[int, ...]) -> None:
    """Log metrics and times, draw the curves; `shape` is that of a batch."""
    LOGGER.info(result.evaluation.table)
    preprocess, inference, nms = (f"{ms:.1f}ms" for ms in result.speed_ms)
    LOGGER.info(f"Speed: {preprocess} pre-process, {inference} inference, {nms} NMS per image at shape {shape}")
    LOGGER.info(f"{result.seconds:.1f} s in total, {result.share_outside_forward:.0%} of it outside inference")
    if not config.noplots:
        result.evaluator.plot(save_dir)
    if save_dir.exists():
        LOGGER.info(f"Results saved to {save_dir}")


def study(subject: Subject, config: ValConfig, save_dir: Path) -> list[ValidationResult]:
    """Accuracy and speed over image sizes: `study_<data>_<weights>.txt`, study.zip and study.png."""
    make_run_folder(save_dir)
    results = []
    if subject.backend.fixed_hw is not None:
        raise InputError(f"{subject.weights}: --task study needs a model of any size; export it with --dynamic")
    file = save_dir / f"study_{Path(config.data).stem}_{Path(subject.weights).stem}.txt"
    rows = []
    for side in STUDY_SIZES:
        result = measure_split(subject, replace(config, noplots=True), save_dir, imgsz=side)
        results.append(result)
        rows.append([*result.evaluation.metrics.values(), *result.losses.values(), *result.speed_ms])
    np.savetxt(file, np.array(rows, dtype=float), fmt="%10.4g")
    with zipfile.ZipFile(save_dir / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(save_dir.glob("study_*.txt")):
            archive.write(path, path.name)
    plots.plot_study(sorted(save_dir.glob("study_*.txt")), save_dir / "study.png", sizes=STUDY_SIZES)
    return results
