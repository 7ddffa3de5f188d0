"""benchmarks.py's work: one checkpoint in every format, with size, accuracy, load time and speed of each."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from models.checkpoint import find_weights, load_model
from models.yolo import check_image_size
from utils.backends.base import Backend
from utils.backends.packages import MissingPackageError
from utils.backends.registry import OPENCV_DNN, find_format
from utils.config.base import ValConfig
from utils.config.benchmark import BenchmarkConfig
from utils.core.device import describe_device, select_device
from utils.core.errors import InputError
from utils.core.files import increment_path, make_run_folder
from utils.core.logging import LOGGER
from utils.evaluate.run import load_subject, measure_split
from utils.export.base import ExportOptions, NotOfferedError
from utils.export.run import export_one, megabytes, stride_of
from utils.export.table import EXPORT_FORMATS, ExportFormat
from utils.plots.benchmark import plot_benchmark
from utils.tasks.registry import find_task

if TYPE_CHECKING:
    from pandas import DataFrame

DONE, LISTED, FAILED = "done", "listed", "failed"
WARM_UP, MOST_RUNS, MOST_SECONDS = 3, 30, 10.0
HEADS = ("Format", "Size (MB)", "mAP50-95", "Inference time (ms)", "Load time (s)", "Note")


@dataclass(frozen=True)
class Row:
    """What is known of a format.

    Attributes:
        status: DONE; LISTED where this machine lacks a package or the hardware, or the format the setting; FAILED.
        megabytes: size of file or folder.
        score: the first of the task's `Traits.qualities`, such as mAP50-95, on square images.
        ms: of the network alone, an image, median of up to 30 runs.
        load_s: seconds until the file can run, its runtime's import included.
        note: why something is missing.
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
        """The cells under HEADS."""
        note = f"failed: {self.note}" if self.status == FAILED else self.note
        return self.title, self.megabytes, self.score, self.ms, self.load_s, note


def benchmark(config: BenchmarkConfig) -> list[Row]:
    """Measure every format, print the table and write it as benchmarks.csv, .md and .png.

    Raises:
        InputError: checkpoint, data or a setting cannot be used; problems of single formats are rows.
    """
    device = select_device(config.device)
    LOGGER.info(describe_device(device))
    path = find_weights(config.weights)
    folder = make_run_folder(increment_path(Path(config.project) / config.name, config.exist_ok))
    rows = []
    for row in measured_rows(path, config, device):
        rows.append(row)
        LOGGER.info(f"{row.title}: {row.note or row.status}")
        gc.collect()
    LOGGER.info(f"\n{as_text(rows)}")
    as_table(rows).to_csv(folder / "benchmarks.csv", index=False)
    (folder / "benchmarks.md").write_text(as_markdown(rows), encoding="utf-8")
    plot_benchmark([(row.title, row.ms, row.score) for row in rows if row.ms is not None], folder / "benchmarks.png")
    for problem in problems(rows, config.floor):
        LOGGER.warning(f"WARNING: {problem}")
    LOGGER.info(f"Results are in {folder}")
    return rows


def measured_rows(path: Path, config: BenchmarkConfig, device: torch.device) -> Iterator[Row]:
    """The rows, each when it is ready: the checkpoint, then the formats."""
    if not config.test:
        yield measure(Row("PyTorch", megabytes=megabytes(path)), path, config, device)
    if config.pt_only:
        return
    model: Any = load_model(str(path), device=device)
    side = check_image_size(config.imgsz, stride_of(model))
    data = config.data if "data" in config.given else ""
    options = ExportOptions(imgsz=(side, side), batch=config.batch_size, device=device, half=config.half, data=data)
    for kind in EXPORT_FORMATS:
        row, target = exported(kind, path, model, options)
        if target is not None and row.status == DONE and not config.test:
            row = measure(row, target, config, device)
        yield row
        if kind.ending == OPENCV_DNN.ending and target is not None and not config.test:
            yield measure(Row(OPENCV_DNN.title, megabytes=row.megabytes), target, config, device, dnn=True)


def exported(kind: ExportFormat, path: Path, model: Any, options: ExportOptions) -> tuple[Row, Path | None]:
    """The row of a format after its export, and the file or folder; None where there is none."""
    device = options.device
    elsewhere = not kind.runs_here or (device.type == "cpu" and not find_format(f"x{kind.ending}").cpu)
    try:
        target = export_one(path, model, kind, options)
    except Exception as error:  # converters raise what they like, and the other formats may succeed
        known = isinstance(error, InputError if elsewhere else MissingPackageError | NotOfferedError)
        return Row(kind.title, LISTED if known else FAILED, note=_one_line(error)), None
    size = megabytes(target)
    if elsewhere:
        return Row(kind.title, LISTED, size, note="written; runs on other hardware only"), target
    return Row(kind.title, megabytes=size, note=""), target


def measure(row: Row, file: Path, config: BenchmarkConfig, device: torch.device, *, dnn: bool = False) -> Row:
    """The row with load time, speed and accuracy, or with the reason why there are none."""
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
        noplots=True,
        project=config.project,
    )
    known = {field.name: getattr(row, field.name) for field in fields(row)}
    try:
        started = perf_counter()
        subject = load_subject(settings, settings.weights)
        known["load_s"] = perf_counter() - started
        known["ms"] = forward_ms(subject.backend, config)
        result = measure_split(subject, settings, Path(config.project), square=True)
        (_, name), *_ = find_task(subject.backend.task).traits.qualities
        known["score"] = result.evaluation.metrics[name]
    except MissingPackageError as error:
        known.update(status=LISTED, note=_one_line(error))
    except Exception as error:  # a runtime's own classes; the other formats may run
        if row.title == "PyTorch" and isinstance(error, InputError):
            raise  # checkpoint or data cannot be used at all
        known.update(status=FAILED, note=_one_line(error))
    else:
        known["note"] = "on the CPU" if device.type != "cpu" and not gpu else ""
    return Row(**known)


@torch.inference_mode()
def forward_ms(backend: Backend, config: BenchmarkConfig) -> float:
    """Milliseconds of the network alone, an image: median of up to 30 runs or 10 seconds."""
    side = max(check_image_size(config.imgsz, backend.stride), backend.stride)
    height, width = backend.fixed_hw or (side, side)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(config.batch_size, backend.channels, height, width, generator=generator)
    images = images.to(backend.device, backend.dtype)
    times: list[float] = []
    while len(times) < WARM_UP + MOST_RUNS and (len(times) <= WARM_UP or sum(times) < MOST_SECONDS):
        started = perf_counter()
        backend.forward(images)
        if backend.device.type == "cuda":
            torch.cuda.synchronize(backend.device)
        times.append(perf_counter() - started)
    return 1000 * median(times[WARM_UP:]) / config.batch_size


def problems(rows: Sequence[Row], floor: float) -> list[str]:
    """A line for each format that failed or whose mAP50-95 is below `floor`."""
    found = [f"{row.title} failed: {row.note}" for row in rows if row.status == FAILED]
    low = [row for row in rows if row.score is not None and not row.score >= floor]
    return found + [f"{row.title}: mAP50-95 {row.score:.4f} is below {floor:g}" for row in low]


def as_table(rows: Sequence[Row]) -> DataFrame:
    """The rows as a table of pandas."""
    import pandas as pd

    return pd.DataFrame([row.values for row in rows], columns=list(HEADS)).astype(dict.fromkeys(HEADS[1:5], float))


def as_text(rows: Sequence[Row]) -> str:
    """The rows in columns of even width."""
    cells = [HEADS, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADS) - 1)]
    lines = []
    for title, *numbers, note in cells:
        padded = [text.rjust(width) for text, width in zip(numbers, widths[1:], strict=True)]
        lines.append("  ".join([title.ljust(widths[0]), *padded, note]).rstrip())
    return "\n".join(lines)


def as_markdown(rows: Sequence[Row]) -> str:
    """The rows as a table of Markdown."""
    lines = [HEADS, ("---", *["---:"] * 4, "---"), *map(_cells, rows)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    title, size, score, ms, load, note = row.values
    shown = zip((size, score, ms, load), (".1f", ".4f", ".2f", ".2f"), strict=True)
    return title, *("-" if value is None else format(value, style) for value, style in shown), note


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
