"""Exports that several tests look at, each made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lively_jobs import lively_job

from utils.export.base import ExportJob
from utils.export.table import export_formats

Exported = Callable[..., tuple[ExportJob, Path]]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """`exported("onnx", dynamic=True)`: the job of a small network and the file written, whose name is not ASCII."""
    made: dict[tuple[Any, ...], tuple[ExportJob, Path]] = {}

    def export(include: str, **options: Any) -> tuple[ExportJob, Path]:
        key = (include, *sorted(options.items()))
        if key not in made:
            job = lively_job(tmp_path_factory.mktemp("ex ports"), **options)
            made[key] = job, export_formats([include])[0].export(job)
        return made[key]

    return export
