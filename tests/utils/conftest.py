"""Exports shared by several tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confident_jobs import build_confident_job

from utils.export.base import ExportJob
from utils.export.table import find_export_formats

Exported = Callable[..., tuple[ExportJob, Path]]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Function such as `exported("onnx", dynamic=True)`: job and exported file, with a name that is not ASCII."""
    exports: dict[tuple[Any, ...], tuple[ExportJob, Path]] = {}

    def export(include: str, **options: Any) -> tuple[ExportJob, Path]:
        key = (include, *sorted(options.items()))
        if key not in exports:
            job = build_confident_job(tmp_path_factory.mktemp("ex ports"), **options)
            exports[key] = job, find_export_formats([include])[0].export(job)
        return exports[key]

    return export
