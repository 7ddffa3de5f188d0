"""Benchmark of export formats: size, accuracy, load time and speed of one checkpoint in each format."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from models.yolo import check_image_size
from utils.backends.base import Backend
from utils.backends.registry import OPENCV_DNN, find_format
from utils.config.benchmark import BenchmarkConfig
from utils.config.val import ValConfig
from utils.core.device import Stopwatch, describe_device, select_device
from utils.core.errors import InputError
from utils.core.files import make_run_folder
from utils.core.logging import LOGGER
from utils.core.packages import MissingPackageError
from utils.evaluate.run import evaluate_split, load_subject
from utils.export.base import ExportOptions, UnsupportedOptionError
from utils.export.run import compute_input_stride, compute_size_mb, export_one
from utils.export.table import EXPORT_FORMATS, ExportFormat
from utils.plots.bars import plot_benchmark
from utils.tasks.networks import find_weights, load_model
from utils.tasks.registry import find_task

if TYPE_CHECKING:
    from pandas import DataFrame

DONE, SKIPPED, FAILED = "done", "skipped", "failed"
WARMUP_RUNS, MAX_RUNS, MAX_SECONDS = 3, 30, 10.0
COLUMNS = ("Format", "Size (MB)", "mAP50-95", "Inference time (ms)", "Load time (s)", "Note")


@dataclass(frozen=True)
class Row:
    """Benchmark of one format.

    Attributes:
        status: DONE; SKIPPED if a package or the hardware is missing, or the format lacks the setting; FAILED.
        megabytes: size of the file or folder.
        score: the first of the task's `Task.main_metrics`, such as mAP50-95, on square images.
        ms: inference time per image, median of up to 30 runs.
        load_s: seconds to load the file, including the import of its runtime.
        note: why values are missing.
    """

    title: str
    status: str = DONE
    megabytes: float | None = None
    score: float | None = None
    ms: float | None = None
    load_s: float | None = None
    note: str = ""

    @property
    def values(self) -> tuple[str, float | None, float | None, float | None, float | None, str]:
        """The cells under COLUMNS."""
        note = f"failed: {self.note}" if self.status == FAILED else self.note
        return self.title, self.megabytes, self.score, self.ms, self.load_s, note


def benchmark(config: BenchmarkConfig) -> list[Row]:
    """Benchmark every format, print the table and write benchmarks.csv, .md and .png.

    Raises:
        InputError: invalid checkpoint, data or setting; problems of single formats are in their rows.
    """
    device = select_device(config.device)
    LOGGER.info(describe_device(device))
    path = find_weights(config.weights)
    folder = make_run_folder(Path(config.project) / config.name, exist_ok=config.exist_ok)
    rows = []
    for row in iter_rows(path, config, device, folder):
        rows.append(row)
        LOGGER.info(f"{row.title}: {row.note or row.status}")
        gc.collect()
    LOGGER.info(f"\n{format_table(rows)}")
    to_dataframe(rows).to_csv(folder / "benchmarks.csv", index=False)
    (folder / "benchmarks.md").write_text(format_table(rows), encoding="utf-8")
    plot_benchmark([(row.title, row.ms, row.score) for row in rows if row.ms is not None], folder / "benchmarks.png")
    for problem in find_problems(rows, config.floor):
        LOGGER.warning(f"WARNING: {problem}")
    LOGGER.info(f"Results saved to {folder}")
    return rows


def iter_rows(path: Path, config: BenchmarkConfig, device: torch.device, folder: Path) -> Iterator[Row]:
    """Benchmark the checkpoint, then each format, whose files are written to `folder`."""
    if not config.test:
        yield measure(Row("PyTorch", megabytes=compute_size_mb(path)), path, config, device)
    if config.pt_only:
        return
    model: Any = load_model(str(path), device=device)
    imgsz = check_image_size(config.imgsz, compute_input_stride(model))
    data = config.data if "data" in config.explicit else ""
    options = ExportOptions(imgsz=(imgsz, imgsz), batch=config.batch_size, device=device, half=config.half, data=data)
    for kind in EXPORT_FORMATS:
        with copied(path, folder) as copy:
            row, target = export_format(kind, copy, model, options)
        if target is not None and row.status == DONE and not config.test:
            row = measure(row, target, config, device)
        yield row
        if kind.ending == OPENCV_DNN.ending and target is not None and not config.test:
            yield measure(Row(OPENCV_DNN.title, megabytes=row.megabytes), target, config, device, dnn=True)


@contextmanager
def copied(path: Path, folder: Path) -> Iterator[Path]:
    """A temporary copy of a checkpoint in a folder, because exports are written beside their checkpoint.

    Raises:
        InputError: the folder has a file of that name.
    """
    copy = folder / path.name
    if copy.exists():
        raise InputError(f"{copy}: benchmarks would overwrite this file; give another --project or --name")
    shutil.copyfile(path, copy)
    try:
        yield copy
    finally:
        copy.unlink()


def export_format(kind: ExportFormat, path: Path, model: Any, options: ExportOptions) -> tuple[Row, Path | None]:
    """Export a format; its row, and the file or folder, None if the export failed."""
    device = options.device
    elsewhere = not kind.runs_here or (device.type == "cpu" and not find_format(f"x{kind.ending}").cpu)
    try:
        target = export_one(path, model, kind, options)
    except Exception as error:  # converters raise any exception; the other formats may succeed
        expected = isinstance(error, InputError if elsewhere else MissingPackageError | UnsupportedOptionError)
        return Row(kind.title, SKIPPED if expected else FAILED, note=_one_line(error)), None
    row = Row(kind.title, megabytes=compute_size_mb(target))
    return replace(row, status=SKIPPED, note="exported; runs on other hardware only") if elsewhere else row, target


def measure(row: Row, file: Path, config: BenchmarkConfig, device: torch.device, *, dnn: bool = False) -> Row:
    """Measure load time, speed and accuracy; the row with these values, or with the reason why they are missing."""
    gpu = device.type != "cpu" and find_format(str(file)).gpu and not dnn
    settings = ValConfig.from_kwargs(
        weights=[str(file)],
        data=config.data,
        imgsz=config.imgsz,
        batch_size=config.batch_size,
        device=config.device if gpu else "cpu",
        workers=config.workers,
        half=config.half and gpu,
        dnn=dnn,
        trust=True,  # this run has written the file
        noplots=True,
        project=config.project,
    )
    values: dict[str, Any] = {"note": "on the CPU" if device.type != "cpu" and not gpu else ""}
    try:
        started = perf_counter()
        subject = load_subject(settings, settings.weights)
        values["load_s"] = perf_counter() - started
        values["ms"] = time_forward(subject.backend, config)
        result = evaluate_split(subject, settings, Path(config.project), square=True)
        (_, name), *_ = find_task(subject.backend.task).main_metrics
        values["score"] = result.evaluation.metrics[name]
    except MissingPackageError as error:
        values.update(status=SKIPPED, note=_one_line(error))
    except Exception as error:  # runtimes raise any exception; the other formats may run
        if row.title == "PyTorch" and isinstance(error, InputError):
            raise  # an invalid checkpoint or data set
        values.update(status=FAILED, note=_one_line(error))
    return replace(row, **values)


@torch.inference_mode()
def time_forward(backend: Backend, config: BenchmarkConfig) -> float:
    """Milliseconds of inference per image: median of up to 30 runs or 10 seconds."""
    imgsz = max(check_image_size(config.imgsz, backend.stride), backend.stride)
    height, width = backend.fixed_hw or (imgsz, imgsz)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(config.batch_size, backend.channels, height, width, generator=generator)
    images = images.to(backend.device, backend.dtype)
    times: list[float] = []
    while len(times) < WARMUP_RUNS + MAX_RUNS and (len(times) <= WARMUP_RUNS or sum(times) < MAX_SECONDS):
        watch = Stopwatch(backend.device)
        with watch.measure():
            backend.forward(images)
        times.append(watch.seconds)
    return 1000 * median(times[WARMUP_RUNS:]) / config.batch_size


def find_problems(rows: Sequence[Row], floor: float) -> list[str]:
    """A message for each format that failed or whose mAP50-95 is below `floor`."""
    failed = [f"{row.title} failed: {row.note}" for row in rows if row.status == FAILED]
    low = [row for row in rows if row.score is not None and not row.score >= floor]
    return failed + [f"{row.title}: mAP50-95 {row.score:.4f} is below {floor:g}" for row in low]


def to_dataframe(rows: Sequence[Row]) -> DataFrame:
    """The rows as a pandas data frame."""
    import pandas as pd

    return pd.DataFrame([row.values for row in rows], columns=list(COLUMNS)).astype(dict.fromkeys(COLUMNS[1:5], float))


def format_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table with columns of equal width."""
    table = [[cell.replace("|", "\\|") for cell in line] for line in (COLUMNS, *map(_cells, rows))]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    table.insert(1, ["-" * width for width in widths])
    return "".join("| " + " | ".join(map(str.ljust, line, widths)) + " |\n" for line in table)


def _cells(row: Row) -> tuple[str, ...]:
    title, size, score, ms, load, note = row.values
    shown = zip((size, score, ms, load), (".1f", ".4f", ".2f", ".2f"), strict=True)
    return title, *("-" if value is None else format(value, style) for value, style in shown), note


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
