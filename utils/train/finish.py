"""The end of a training run: final measurement with plots, small final file, and where everything is."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from models.checkpoint import strip_checkpoint
from utils import plots
from utils.core import distributed
from utils.core.logging import LOGGER
from utils.evaluate.run import COCO_CLASSES, MANY_CLASSES, is_coco_set
from utils.evaluate.sinks import PlotSink
from utils.evaluate.validator import validate
from utils.tasks.base import PredictionFiles, Sink
from utils.tasks.networks import load_model
from utils.train.trainer import FitResult, Trainer

COCO_IOU = 0.65


def finish(trainer: Trainer, result: FitResult) -> FitResult:
    """Strip best.pt, measure it with plots, draw results.png and say where everything is.

    Of several processes the main one writes; all measure.

    last.pt stays whole, so that the run can be resumed with more epochs; it is measured where there is no best.pt,
    as with --nosave when the last epoch was not the best.
    """
    plotting = not trainer.config.noplots
    if result.best is not None and distributed.is_main_process():
        strip_checkpoint(result.best)
    result = replace(result, metrics=_measure(trainer, result, plotting=plotting))
    if plotting and distributed.is_main_process():
        plots.plot_results(result.save_dir / "results.csv")
    trainer.callbacks.run("on_train_end", result=result)
    trainer.callbacks.run("teardown")
    LOGGER.info(_summary(result))
    return result


def _measure(trainer: Trainer, result: FitResult, *, plotting: bool) -> dict[str, float]:
    """Metrics of the final weights on the validation split, with a line per class."""
    task, device, file = trainer.task, trainer.device, Path(distributed.broadcast_text(str(result.best or result.last)))
    LOGGER.info(f"\nMeasuring {file}")
    model = load_model(str(file), device=device)
    task = task.with_options(verbose=len(task.class_names) < MANY_CLASSES)
    files = PredictionFiles(result.save_dir)
    if is_coco_set(trainer.config.data):  # its published results are COCO's own metrics, at this NMS threshold
        task = task.with_options(postprocess=replace(task.options.postprocess, iou_thres=COCO_IOU))
        json = result.save_dir / f"{file.stem}_predictions.json"
        files = replace(files, json=json, coco_ids=len(task.class_names) == COCO_CLASSES)
    sinks: list[Sink] = [PlotSink(task, result.save_dir)] if plotting else []
    sinks += task.build_sinks(files, "val")
    measured = validate(
        task, model, trainer.val_loader, device=device, autocast=trainer.amp, sinks=sinks, progress="validating"
    )
    LOGGER.info(measured.evaluation.table)
    if plotting and distributed.is_main_process():
        measured.evaluator.plot(result.save_dir)
    return measured.evaluation.metrics


def _summary(result: FitResult) -> str:
    """Last lines of a run: each file and its use."""
    lines = [f"\nResults are in {result.save_dir}"]
    train_on = f"to go on: python train.py --resume {shlex.quote(str(result.last))} --epochs N"
    for path, use in ((result.best, "for val.py and detect.py"), (result.last, train_on)):
        if path is not None and path.exists():
            lines.append(f"  {path.name:<8} {path.stat().st_size / 1e6:6.1f} MB  {use}")
    return "\n".join(lines)
