"""End of a training run: strip best.pt, final validation with plots, summary."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from models.checkpoint import strip_checkpoint
from utils.core import distributed
from utils.core.logging import LOGGER
from utils.evaluate.run import COCO_CLASSES, MANY_CLASSES, is_coco_set
from utils.evaluate.sinks import PlotSink
from utils.evaluate.validator import ValidationResult, validate
from utils.export.pickle import pickle_checkpoint
from utils.loggers.run_folder import ResultsPlotter
from utils.tasks.base import PredictionFiles, Sink
from utils.tasks.networks import load_model
from utils.train.trainer import FitResult, Trainer

COCO_IOU = 0.65


def finish(trainer: Trainer, result: FitResult) -> FitResult:
    """Strip best.pt, validate it with plots, plot results.png and log where everything is.

    All ranks validate, the main one writes. last.pt keeps its training state, so that the run can be resumed with more
    epochs; it is validated if there is no best.pt, as with --nosave when the last epoch was not the best.
    """
    plotting = not trainer.config.noplots
    result = _keep_weights(trainer, result)
    if result.best is not None and distributed.is_main_process():
        strip_checkpoint(result.best)
    validation = _validate_final(trainer, result, plotting=plotting)
    result = replace(result, metrics=validation.evaluation.metrics, losses=validation.losses)
    if plotting and distributed.is_main_process():
        ResultsPlotter(result.save_dir / "results.csv").plot()
    result = _keep_weights(trainer, result)
    if trainer.config.save_pickle and distributed.is_main_process():
        LOGGER.info(f"Saved {pickle_checkpoint(result.best or result.last)}, for programs that expect a pickled module")
    trainer.callbacks.run("on_train_end", result=result)
    trainer.callbacks.run("teardown")
    LOGGER.info(_format_summary(result))
    return result


def _keep_weights(trainer: Trainer, result: FitResult) -> FitResult:
    """Write last.pt again if the run folder was removed; without best.pt then."""
    if not trainer.restore_folder():
        return result
    trainer.save_last(result.epochs - 1)
    return replace(result, best=None)


def _validate_final(trainer: Trainer, result: FitResult, *, plotting: bool) -> ValidationResult:
    """Metrics and losses of the final weights on the validation split, with a table row per class."""
    task, device, file = trainer.task, trainer.device, Path(distributed.broadcast_text(str(result.best or result.last)))
    LOGGER.info(f"\nValidating {file}")
    model = load_model(str(file), device=device)
    task = task.with_options(verbose=len(task.class_names) < MANY_CLASSES)
    files = PredictionFiles(result.save_dir)
    if is_coco_set(trainer.config.data):  # its published results are COCO's own metrics, at this NMS threshold
        task = task.with_options(postprocess=replace(task.options.postprocess, iou_thres=COCO_IOU))
        json = result.save_dir / f"{file.stem}_predictions.json"
        files = replace(files, json=json, coco_ids=len(task.class_names) == COCO_CLASSES)
    sinks: list[Sink] = [PlotSink(task, result.save_dir)] if plotting else []
    sinks += task.build_sinks(files, "val")
    validation = validate(
        task, model, trainer.val_loader, device=device, autocast=trainer.amp, sinks=sinks, progress="validating"
    )
    LOGGER.info(validation.evaluation.table)
    if plotting and distributed.is_main_process():
        validation.evaluator.plot(result.save_dir)
    return validation


def _format_summary(result: FitResult) -> str:
    """Last lines of the log: the checkpoints and their use."""
    lines = [f"\nResults saved to {result.save_dir}"]
    resume = f"to continue: python train.py --resume {shlex.quote(str(result.last))} --epochs N"
    for path, use in ((result.best, "for val.py and detect.py"), (result.last, resume)):
        if path is not None and path.exists():
            lines.append(f"  {path.name:<8} {path.stat().st_size / 1e6:6.1f} MB  {use}")
    return "\n".join(lines)
