"""val.py's work: a checkpoint measured on a split, and the speed and study modes."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.checkpoint import find_weights, load_model
from models.yolo import check_image_size, task_of
from utils import plots
from utils.config import ValConfig
from utils.datasets.spec import DataSpec, load_spec, read_spec
from utils.device import describe_device, select_device
from utils.engine.sinks import PlotSink
from utils.engine.validator import ValidationResult, validate
from utils.errors import InputError
from utils.files import increment_path, make_run_folder
from utils.hyp import Hyperparameters
from utils.logging import LOGGER
from utils.plots.results import STUDY_SIZES
from utils.tasks.base import Outputs, Sink, Task, TaskOptions
from utils.tasks.registry import TASKS, build_task

SPEED_SETTINGS: dict[str, Any] = {"conf_thres": 0.25, "iou_thres": 0.45, "noplots": True}
COCO_CLASSES = 80


@dataclass(frozen=True)
class Subject:
    """What is measured: a model on its device, and the data it is measured on."""

    model: Any  # a BaseModel, or an Ensemble of several
    spec: DataSpec
    device: torch.device
    half: bool
    weights: str


def evaluate(config: ValConfig) -> list[ValidationResult]:
    """Run the mode of `--task`; one result per checkpoint and size.

    Raises:
        InputError: a file, flag or value cannot be used, or the model's classes are not those of the data.
    """
    config = config.check()
    save_dir = increment_path(Path(config.project) / config.name, config.exist_ok)
    if config.task == "study":
        return [r for weights in config.weights for r in study(load_subject(config, [weights]), config, save_dir)]
    if config.task == "speed":
        subjects = [load_subject(config, [weights]) for weights in config.weights]
        return [measure_split(s, replace(config, **SPEED_SETTINGS), save_dir, square=True) for s in subjects]
    return [measure_split(load_subject(config, config.weights), config, save_dir)]


def load_subject(config: ValConfig, weights: Sequence[str]) -> Subject:
    """Load checkpoint(s) and data YAML and see that their classes agree."""
    device = select_device(config.device)
    LOGGER.info(describe_device(device))
    half = config.half and device.type == "cuda"
    if config.half and not half and "half" in config.given:
        LOGGER.warning("--half needs CUDA: measured in FP32")
    model: Any = load_model([str(find_weights(w)) for w in weights], device=device)
    if (task := task_of(model)) not in TASKS:
        raise InputError(f"{weights[0]}: a model of task {task}; val.py measures {', '.join(TASKS)} models")
    classes = len(model.names)
    spec = read_spec(config.data)  # a mismatch is told before anything is downloaded
    if classes != spec.num_classes and not config.single_cls:
        raise InputError(
            f"{weights[0]} has {classes} classes, {spec.path} names {spec.num_classes}: "
            "give the data set the model was trained on"
        )
    spec = load_spec(config.data)
    model = model.half() if half else model
    return Subject(model.to(memory_format=torch.channels_last), spec, device, half, weights[0])


def measure_split(
    subject: Subject, config: ValConfig, save_dir: Path, *, square: bool = False, imgsz: int | None = None
) -> ValidationResult:
    """Measure a model on the split that `config.task` names (val for the benchmark modes)."""
    model, spec = subject.model, subject.spec
    split = config.task if config.task in ("train", "test") else "val"
    stride = max(int(model.stride.max()), 32)
    options = TaskOptions(
        imgsz=max(check_image_size(imgsz or config.imgsz, stride), 2 * stride),
        batch_size=config.batch_size,
        workers=config.workers,
        single_cls=config.single_cls,
        conf_thres=config.conf_thres,
        iou_thres=config.iou_thres,
        max_det=config.max_det,
        verbose=config.verbose or spec.num_classes < 50,
    )
    channels = int(getattr(model, "yaml", {}).get("ch", 3))
    task = build_task(task_of(model), spec, Hyperparameters(), options, channels=channels)
    if hasattr(model, "model"):
        task.bind(model)
    loader = task.eval_loader(split, **({"rect": False, "pad": 0.0} if square else {}))
    sinks = build_sinks(task, config, save_dir, subject, split)
    result = validate(
        task,
        model,
        loader,
        device=subject.device,
        dtype=torch.float16 if subject.half else torch.float32,
        augment=config.augment,
        sinks=sinks,
        progress=f"{split} at {options.imgsz} px",
    )
    report(result, config, save_dir, options)
    return result


def build_sinks(task: Task, config: ValConfig, save_dir: Path, subject: Subject, split: str) -> list[Sink]:
    """The readers of predictions that the flags ask for; the COCO set asks for JSON by itself."""
    is_coco = is_coco_set(config.data)
    as_json = config.save_json or config.coco or is_coco
    outputs = Outputs(
        folder=save_dir,
        text=config.save_txt or config.save_hybrid,
        scores=config.save_conf,
        hybrid=config.save_hybrid,
        json=save_dir / f"{Path(subject.weights).stem}_predictions.json" if as_json else None,
        coco_ids=is_coco and subject.spec.num_classes == COCO_CLASSES,
    )
    sinks: list[Sink] = [] if config.noplots else [PlotSink(task, save_dir)]
    if sinks or outputs.text or as_json:
        make_run_folder(save_dir)
    return sinks + task.build_sinks(outputs, split)


def is_coco_set(data: str | Path) -> bool:
    """Whether a data YAML is named like that of the COCO set."""
    return str(data).endswith("coco.yaml")


def report(result: ValidationResult, config: ValConfig, save_dir: Path, options: TaskOptions) -> None:
    """Print metrics and times, draw the curves and say where they are."""
    LOGGER.info(result.evaluation.table)
    prepare, forward, post = result.speed_ms
    LOGGER.info(
        f"Speed: {prepare:.1f} ms to prepare, {forward:.1f} ms forward, {post:.1f} ms post-processing a picture "
        f"at {options.imgsz} px, batch {options.batch_size}; "
        f"{result.seconds:.1f} s in all, {result.share_outside_forward:.0%} of it outside the network"
    )
    if not config.noplots:
        result.evaluator.plot(save_dir)
    if save_dir.exists():
        LOGGER.info(f"Results are in {save_dir}")


def study(subject: Subject, config: ValConfig, save_dir: Path) -> list[ValidationResult]:
    """Accuracy and speed over picture sizes: `study_<data>_<weights>.txt`, study.zip and study.png."""
    make_run_folder(save_dir)
    results = []
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
