"""Inference runs (detect.py): build source, model and writers, then predict image by image."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import strip_checkpoint
from models.yolo import check_image_size
from utils.backends.base import Backend, has_nms
from utils.backends.registry import PYTORCH, find_format, load_backend
from utils.config.base import ROOT, format_flags
from utils.config.detect import DetectConfig
from utils.core.device import describe_device, select_device
from utils.core.errors import InputError
from utils.core.files import UniqueNames, make_run_folder
from utils.core.logging import LOGGER
from utils.core.signals import StopSignals
from utils.datasets.index.data_yaml import read_spec
from utils.datasets.sources.factory import SourceOptions, open_source
from utils.datasets.sources.frames import Source, SourceFrame
from utils.datasets.sources.media import MediaSource
from utils.datasets.sources.streams import StreamTiming
from utils.imaging.read import ImageError
from utils.predict.pipeline import BackgroundWriter, prefetch, write_all
from utils.predict.predictor import Predictor, build_feature_visitor
from utils.predict.tiling import TiledPredictor, TileOptions
from utils.predict.tracking import TrackingStage, TrackOptions
from utils.predict.writers import (
    CropWriter,
    CsvWriter,
    MediaWriter,
    MotWriter,
    SemanticMaskWriter,
    SlideshowWriter,
    StopRunning,
    SubmissionWriter,
    TextWriter,
    WindowViewer,
    Writer,
)
from utils.tasks.networks import find_weights
from utils.tasks.options import PREDICT_DEFAULTS
from utils.tasks.registry import find_task
from utils.tasks.results import DrawStyle, Result


@dataclass(frozen=True)
class DetectSummary:
    """Outcome of a run.

    Attributes:
        save_dir: the run folder; None if nothing was saved.
        images: number of images and video frames.
        problems: one line for each input that could not be read.
    """

    save_dir: Path | None
    images: int
    problems: tuple[str, ...]


def detect(config: DetectConfig) -> DetectSummary:
    """Run inference on the source and write the results.

    Raises:
        InputError: a setting, the model or the whole source is invalid.
        StoppedError: SIGTERM or SIGHUP ended the run; the files are complete.
    """
    config = config.check()
    device = select_device(config.device)
    LOGGER.info(describe_device(device))
    if config.update and not is_pytorch(config):
        raise InputError(f"--update: strips .pt checkpoints, not {config.weights[0]}; leave the flag out")
    options = SourceOptions(
        config.vid_stride,
        config.watch,
        timing=StreamTiming(idle_timeout_s=config.stream_timeout),
        in_parts=config.tile is not None,
    )
    with closing(open_source(find_source(config.source), options)) as source:  # fail before the model is loaded
        names = None if is_pytorch(config) else load_class_names(config)
        backend = load_backend(
            config.weights,
            device=device,
            fp16=config.half,
            names=names,
            dnn=config.dnn,
            trust=config.trust,
            threads=config.threads,
        )
        config = adapt_to_task(config, backend).check()
        if config.submit and backend.semantic is None:
            raise InputError(f"--submit: {config.weights[0]} predicts no semantic masks; leave the flag out")
        predictor = build_predictor(config, backend)
        tracking = build_tracking(config)
        max_side = None if config.tile is None else config.tile or max(predictor.size_hw)
        style = DrawStyle(config.line_thickness, config.hide_labels, config.hide_conf, max_side)
        viewers = [WindowViewer(style)] if config.view_img else []
        save_dir = make_save_dir(config)
        if save_dir is not None and isinstance(source, MediaSource):
            source.ignore_folder(save_dir)
        writers = build_writers(config, style, save_dir)
        features_dir = save_dir if config.visualize else None
        with StopSignals() as stop, select_kernels(source, predictor):
            images = run_images(
                source,
                predictor,
                writers,
                viewers=viewers,
                features_dir=features_dir,
                stop=stop,
                tracking=tracking,
            )
            if config.update:
                for file in config.weights:
                    strip_checkpoint(find_weights(file))
            if tracking is not None:
                report_counts(tracking, backend, save_dir)
            if images or not stop.received:
                report(source, predictor, save_dir, images)
        stop.check()
        return DetectSummary(save_dir, images, tuple(source.problems))


def find_source(source: str) -> str:
    """The source; a path that exists only below the repository, such as data/images, becomes absolute."""
    fallback = ROOT / source
    exists = os.path.exists(source)  # noqa: PTH110 - False for a folder that is not readable, too
    return str(fallback) if source.strip() and not exists and os.path.exists(fallback) else source  # noqa: PTH110


def is_pytorch(config: DetectConfig) -> bool:
    """Whether the weights are checkpoints, which contain their class names and can be stripped."""
    return all(find_format(file) is PYTORCH for file in config.weights)


def load_class_names(config: DetectConfig) -> dict[int, str] | None:
    """Class names of the --data YAML; None if the default YAML is missing.

    Raises:
        InputError: the YAML was given explicitly and is invalid.
    """
    try:
        return read_spec(config.data).names
    except InputError:
        if "data" in config.explicit:
            raise
        return None


def adapt_to_task(config: DetectConfig, backend: Backend) -> DetectConfig:
    """Apply the defaults of the model's task; warn of settings that it ignores and reset them.

    Raises:
        InputError: as `BaseConfig.adapt_to`, or a setting does not suit the model.
    """
    task = find_task(backend.task)
    config, defaults = config.adapt_to(task.predict_config), task.predict_config()
    ignored = {name: getattr(defaults, name) for name in task.unused_predict_flags if getattr(config, name)}
    if ignored:
        LOGGER.warning(f"WARNING {format_flags(ignored)}: ignored in task {task.name!r}")
    task.check_tile(config.tile)
    if config.track is not None and not task.has_boxes:
        raise InputError(f"--track: not supported for task {task.name!r}, which has no boxes; leave it out")
    task.check_predict_settings(config, num_classes=len(backend.names), nms_in_file=has_nms(backend))
    return replace(config, **ignored)


def build_predictor(config: DetectConfig, backend: Backend) -> Predictor:
    """Build the predictor and warm up the backend."""
    height, width = config.size_hw
    rounded = check_image_size(height, backend.stride)
    size_hw = (rounded, rounded if width == height else check_image_size(width, backend.stride))
    if "imgsz" in config.explicit and backend.fixed_hw not in (None, size_hw):
        only = "x".join(map(str, backend.fixed_hw))
        LOGGER.warning(f"WARNING: --imgsz {' '.join(map(str, config.imgsz))} is ignored: the file takes {only} only")
    tracks = TrackOptions.from_config(config)
    options = replace(
        PREDICT_DEFAULTS,
        conf_thres=config.conf_thres if tracks is None else tracks.predict_conf,
        iou_thres=config.iou_thres,
        classes=config.classes,
        agnostic=config.agnostic_nms,
        max_det=config.max_det,
        round_boxes=True,
        retina_masks=config.retina_masks,
    )
    backend.warmup(size_hw)
    if config.tile is None:
        return Predictor(backend, options, size_hw=size_hw, augment=config.augment)
    tiles = TileOptions.from_config(config)
    return TiledPredictor(backend, options, tiles=tiles, progress=True, size_hw=size_hw, augment=config.augment)


def build_tracking(config: DetectConfig) -> TrackingStage | None:
    """The tracking that the flags ask for; None without."""
    options = TrackOptions.from_config(config)
    return None if options is None else TrackingStage(options)


def report_counts(tracking: TrackingStage, backend: Backend, save_dir: Path | None) -> None:
    """Log what crossed the lines and entered the zones, and write counts.csv."""
    rows = tracking.format_counts(dict(backend.names))
    for source, title, label, ins, outs in rows:
        LOGGER.info(f"{source}: {title}: {label}: {ins} in, {outs} out")
    if tracking.counts and save_dir is not None:
        with open(save_dir / "counts.csv", "w", encoding="utf-8", newline="", errors="backslashreplace") as stream:
            csv.writer(stream).writerows([("Source", "Kind", "Class", "In", "Out"), *rows])


def select_kernels(source: Source, predictor: Predictor) -> AbstractContextManager[None]:
    """A context in which cuDNN times its kernels for a size, if all images have one: of a stream, or not `auto`."""
    if predictor.backend.device.type == "cuda" and (source.live or not predictor.auto):
        return torch.backends.cudnn.flags(enabled=True, benchmark=True)
    return nullcontext()


def make_save_dir(config: DetectConfig) -> Path | None:
    """Create the run folder; None if nothing is to be saved."""
    flags = (
        *(config.save_mot, bool(config.count_line), bool(config.count_zone)),
        *(config.save_txt, config.save_csv, config.save_crop, config.visualize, config.save_as_video, config.submit),
    )
    if config.nosave and not any(flags):
        return None
    return make_run_folder(Path(config.project) / config.name, exist_ok=config.exist_ok)


def build_writers(config: DetectConfig, style: DrawStyle, save_dir: Path | None) -> list[Writer]:
    """The writers that the flags select; none without a run folder."""
    writers: list[Writer] = []
    if (config.save_conf or "save_format" in config.explicit) and not config.save_txt:
        LOGGER.warning("WARNING: --save-conf and --save-format are ignored without --save-txt")
    if save_dir is None:
        return writers
    if config.save_crop:
        writers.append(CropWriter(save_dir / "crops"))
    if config.save_txt:
        writers.append(TextWriter(save_dir / "labels", with_score=config.save_conf, corners=config.save_format == 1))
    if config.save_csv:
        writers.append(CsvWriter(save_dir / "predictions.csv", with_ids=config.track is not None))
    if config.save_mot:
        writers.append(MotWriter(save_dir / "mot"))
    if not config.nosave:
        names = UniqueNames()
        writers += [MediaWriter(save_dir, style, names), SemanticMaskWriter(save_dir, names)]
    if config.save_as_video:
        writers.append(SlideshowWriter(save_dir, style))
    if config.submit:
        writers.append(SubmissionWriter(save_dir / "results"))
    return writers


def run_images(
    source: Source,
    predictor: Predictor,
    writers: Sequence[Writer],
    *,
    viewers: Sequence[Writer] = (),
    features_dir: Path | None = None,
    overlap: bool = True,
    stop: StopSignals | None = None,
    tracking: TrackingStage | None = None,
) -> int:
    """Predict, log, show and write every frame of the source; returns the number of frames.

    Two threads read files ahead and write results; the network and the windows run in this thread. Writers and viewers
    are closed at the end.

    Args:
        viewers: writers that have to be called in this thread.
        features_dir: folder for the feature maps of every layer.
        overlap: use the two threads.
        stop: signals that end the run like the end of the source.
        tracking: gives the boxes ids.
    """
    images, stop = 0, stop or StopSignals()
    with ExitStack() as stack:
        if overlap and writers:
            writers = [BackgroundWriter(writers)]
        for writer in (*viewers, *writers):
            stack.callback(writer.close)
        batches = source.batches(predictor.backend.channels)
        if overlap and not source.live:
            batches = prefetch(batches)
        stack.enter_context(closing(batches))  # type: ignore[type-var]
        stack.callback(source.close)  # called first, since the reader may wait for it
        try:
            with stop.interrupting():
                for items in batches:
                    try:
                        for result in predict_frames(items, predictor, features_dir):
                            images += 1
                            if tracking is not None:
                                result = tracking.apply(result)
                            write_all(writers, result)
                            LOGGER.info(result.format_log())  # a logged result is written even after Ctrl-C
                            write_all(viewers, result)
                    except ImageError as error:  # of a large image, which the predictor reads
                        if not isinstance(source, MediaSource):
                            raise
                        source.report_problem(str(error))
        except StopRunning:
            LOGGER.info("stopped by key q")
        except KeyboardInterrupt:
            if not (source.endless or stop.received):
                raise
            LOGGER.info(f"stopped by {stop.received.name if stop.received else 'Ctrl-C'}")
    return images


def predict_frames(
    items: Sequence[SourceFrame], predictor: Predictor, features_dir: Path | None = None
) -> Iterator[Result]:
    """Results of the frames; those with the same input size form a batch."""
    backend = predictor.backend
    groups: dict[tuple[int, ...], list[SourceFrame]] = {}
    for item in items:
        groups.setdefault(item.frame.shape if predictor.auto else (), []).append(item)
    batches = list(groups.values()) if features_dir is None else [[item] for item in items]
    for group in batches:
        before = [watch.seconds for watch in predictor.watches]
        frames: list[Any] = [item.pixels for item in group]
        paths = [item.path for item in group]
        visualize = None if features_dir is None else build_feature_visitor(features_dir / _get_stem(group[0]))
        predictions, input_hw = predictor.predict(frames, paths=paths, visualize=visualize)
        seconds = [watch.seconds - start for watch, start in zip(predictor.watches, before, strict=True)]
        preprocess, inference, postprocess = (1000 * value / len(group) for value in seconds)
        ms = (preprocess, inference, postprocess)
        for item, prediction in zip(group, predictions, strict=True):
            yield predictor.task.build_result(item, prediction, backend.names, input_hw, ms, backend.semantic)


def _get_stem(frame: SourceFrame) -> str:
    stem = Path(frame.path).stem
    return stem if frame.number is None else f"{stem}_{frame.number}"


def report(source: Source, predictor: Predictor, save_dir: Path | None, images: int) -> None:
    """Log speed, output folder and problems; InputError if no input could be read."""
    problems = source.problems
    if not images and problems:
        raise InputError(f"none of {source.num_inputs} inputs could be read; the first: {problems[0]}")
    if not images and not source.endless:
        raise InputError("--source: standard input lists no images")
    if images:
        preprocess, inference, nms = (f"{1000 * watch.seconds / images:.1f}ms" for watch in predictor.watches)
        shape = (1, predictor.backend.channels, *predictor.size_hw)
        LOGGER.info(f"Speed: {preprocess} pre-process, {inference} inference, {nms} NMS per image at shape {shape}")
    if isinstance(predictor, TiledPredictor) and images and not predictor.num_tiled:
        height, width = predictor.tile_hw
        LOGGER.warning(f"WARNING --tile: no image is larger than a tile of {width}x{height}; give a smaller --tile")
    if save_dir is not None:
        if not save_dir.is_dir():
            raise InputError(f"{save_dir}: the run folder was removed during the run, its results are lost; run again")
        texts = save_dir / "labels"
        count = f", {len(list(texts.glob('*.txt')))} text files in {texts}" if texts.is_dir() else ""
        LOGGER.info(f"Results saved to {save_dir}{count}")
    if problems:
        LOGGER.warning(f"WARNING: {len(problems)} of {source.num_inputs} inputs had problems, listed above")
