"""Loggers of a training run: run folder, TensorBoard, tracking services.

Names that other programs import from here (`from utils.loggers import Loggers`) come from `utils.loggers.classic`.
"""

from __future__ import annotations

from utils.core.lazy import lazy_exports

PUBLIC_NAMES = ("LOGGERS", "RANK", "GenericLogger", "Loggers", "log_tensorboard_graph", "web_project_name")

__getattr__ = lazy_exports(__name__, dict.fromkeys(PUBLIC_NAMES, "utils.loggers.classic"))
