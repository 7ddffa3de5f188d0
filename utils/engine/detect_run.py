"""One run of detect.py: source, model and writers from its settings, then picture by picture."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from models.checkpoint import find_weights, strip_checkpoint
from models.yolo import check_image_size
from utils.backends.base import Backend, Visitor
from utils.backends.registry import load_backend
from utils.config import ROOT
from utils.config_detect import DetectConfig
from utils.datasets.sources import MediaSource, SourceFrame, open_source
from utils.device import describe_device, select_device
from utils.engine.predictor import DetectionPostprocess, Predictor
from utils.engine.results import DrawStyle, Result
from utils.engine.writers import CropWriter, CsvWriter, MediaWriter, StopRunning, TextWriter, WindowViewer, Writer
from utils.errors import InputError
from utils.files import increment_path, make_run_folder
from utils.logging import LOGGER


@dataclass(frozen=True)
class DetectSummary:
    """What a run did.

    Attributes:
        save_dir: the run folder; None where nothing was to be saved.
        pictures: pictures and video frames looked at.
        problems: one line for each input that could not be used.
    """

    save_dir: Path | None
    pictures: int
    problems: tuple[str, ...]


def detect(config: DetectConfig) -> DetectSummary:
    """Look for objects in every picture of the source and hand the results to the writers.

    Raises:
        InputError: a setting, the model or the whole source cannot be used.
    """
    config = config.check()
    device = select_device(config.device)
    LOGGER.info(describe_device(device))
    open_source(source_path(config.source))  # a wrong path is told before the model is loaded
    backend = load_backend(config.weights, device=device, fp16=config.half)
    source = open_source(source_path(config.source), vid_stride=config.vid_stride, channels=backend.channels)
    predictor = build_predictor(config, backend)
    with ExitStack() as stack:
        style = DrawStyle(config.line_thickness, config.hide_labels, config.hide_conf)
        viewers: list[Writer] = [WindowViewer(style)] if config.view_img else []
        save_dir = choose_run_folder(config)
        writers = viewers + build_writers(config, style, save_dir)
        for writer in writers:
            stack.callback(writer.close)
        pictures = run_pictures(source, predictor, writers, save_dir if config.visualize else None)
    if config.update:
        for file in config.weights:
            strip_checkpoint(find_weights(file))
    report(source, predictor, save_dir, pictures)
    return DetectSummary(save_dir, pictures, tuple(source.problems))


def source_path(source: str) -> str:
    """The source, looked for below the repository where it is not below the working directory."""
    ours = ROOT / source
    return str(ours) if not Path(source).exists() and ours.exists() else source


def build_predictor(config: DetectConfig, backend: Backend) -> Predictor:
    """The predictor of these settings, warmed up."""
    if backend.task != "detect":
        raise InputError(f"{config.weights[0]}: a model of task {backend.task}; detect.py takes detection models")
    known = len(backend.names)
    if wrong := [c for c in config.classes or () if not 0 <= c < known]:
        raise InputError(f"--classes {wrong[0]}: the model has {known} classes, 0 to {known - 1}")
    postprocess = DetectionPostprocess(
        config.conf_thres, config.iou_thres, config.classes, config.agnostic_nms, config.max_det, whole_pixels=True
    )
    height, width = config.size_hw
    rounded = check_image_size(height, backend.stride)
    size_hw = (rounded, rounded if width == height else check_image_size(width, backend.stride))
    backend.warmup(size_hw)
    return Predictor(backend, postprocess, size_hw=size_hw, augment=config.augment)


def choose_run_folder(config: DetectConfig) -> Path | None:
    """The run folder, made; None where no flag asks for a file."""
    wanted = (not config.nosave, config.save_txt, config.save_csv, config.save_crop, config.visualize)
    if not any(wanted):
        return None
    return make_run_folder(increment_path(Path(config.project) / config.name, config.exist_ok))


def build_writers(config: DetectConfig, style: DrawStyle, save_dir: Path | None) -> list[Writer]:
    """What the settings want saved of each result."""
    writers: list[Writer] = []
    if (config.save_conf or "save_format" in config.given) and not config.save_txt:
        LOGGER.warning("WARNING: --save-conf and --save-format do nothing without --save-txt")
    if save_dir is None:
        return writers
    if config.save_crop:
        writers.append(CropWriter(save_dir / "crops"))
    if config.save_txt:
        writers.append(TextWriter(save_dir / "labels", with_score=config.save_conf, corners=config.save_format == 1))
    if config.save_csv:
        writers.append(CsvWriter(save_dir / "predictions.csv"))
    if not config.nosave:
        writers.append(MediaWriter(save_dir, style))
    return writers


def run_pictures(
    source: MediaSource, predictor: Predictor, writers: Sequence[Writer], features_dir: Path | None = None
) -> int:
    """Predict, log and write every frame of the source; the number of frames."""
    pictures = 0
    for item in source:
        result = look_at(item, predictor, feature_visitor(features_dir, item))
        pictures += 1
        LOGGER.info(result.log_line())
        try:
            for writer in writers:
                writer.write(result)
        except StopRunning:
            break
        except OSError as error:
            raise InputError(f"{item.path}: its results cannot be written: {error}; free space, or --nosave") from error
    return pictures


def look_at(item: SourceFrame, predictor: Predictor, visualize: Visitor | None = None) -> Result:
    """The result for one frame."""
    before = [watch.seconds for watch in predictor.watches]
    predictions, input_hw = predictor.predict([item.frame], paths=[item.path], visualize=visualize)
    prepare, network, post = (
        1000 * (watch.seconds - start) for watch, start in zip(predictor.watches, before, strict=True)
    )
    rows = predictions[0].boxes
    boxes = np.zeros((0, 6), np.float32) if rows is None else rows.numpy()
    return Result(item, boxes, predictor.backend.names, input_hw, (prepare, network, post))


def feature_visitor(folder: Path | None, item: SourceFrame) -> Visitor | None:
    """What saves the maps of each layer below `<folder>/<stem>/`; None without a folder."""
    if folder is None:
        return None
    from utils.plots import save_feature_maps  # matplotlib takes half a second to import and this is its only use

    target = folder / (Path(item.path).stem if item.number is None else f"{Path(item.path).stem}_{item.number}")

    def save(layer: nn.Module, output: Any) -> None:
        save_feature_maps(output, str(layer.type), int(layer.i), target)  # type: ignore[arg-type]

    return save


def report(source: MediaSource, predictor: Predictor, save_dir: Path | None, pictures: int) -> None:
    """The last lines of the log; InputError if no input could be used."""
    if not pictures:
        raise InputError(f"none of {len(source)} inputs could be used; the first: {source.problems[0]}")
    prepare, network, post = (1000 * watch.seconds / pictures for watch in predictor.watches)
    LOGGER.info(
        f"Speed: {prepare:.1f}ms preparing, {network:.1f}ms network, {post:.1f}ms NMS per picture, {pictures} pictures"
    )
    if save_dir is not None:
        texts = save_dir / "labels"
        count = f", {len(list(texts.glob('*.txt')))} text files in {texts}" if texts.is_dir() else ""
        LOGGER.info(f"Results saved to {save_dir}{count}")
    if source.problems:
        LOGGER.warning(f"WARNING: {len(source.problems)} of {len(source)} inputs could not be used fully, named above")
