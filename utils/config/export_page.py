"""Settings of utils.serve.export_page."""

from __future__ import annotations

from dataclasses import dataclass

from utils.config.base import IMG_FLAGS, BaseConfig, option
from utils.config.flag_types import positive_float, positive_int


@dataclass(frozen=True)
class ExportPageConfig(BaseConfig):
    """Write a static web site that runs an ONNX model in the browser."""

    weights: str = option("", "--weights", required=True, help="ONNX file of a detection model")
    out: str = option("site", "--out", help="folder of the site; must not exist or be empty")
    imgsz: int | None = option(
        None, *IMG_FLAGS, type=positive_int, help="image size of a dynamic model, pixels (default: from the export)"
    )
    runtime: str = option("", "--runtime", help="unpacked npm package onnxruntime-web (default: fetched with npm)")
    max_mb: float = option(100, "--max-mb", type=positive_float, help="largest model, MB")
