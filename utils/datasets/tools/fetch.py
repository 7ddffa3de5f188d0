"""Download or generation of a data set without training: `python -m utils.datasets fetch`."""

from __future__ import annotations

from utils.config.datasets import FetchConfig
from utils.core.logging import LOGGER
from utils.datasets.index.class_folders import is_class_data, load_class_data
from utils.datasets.index.data_yaml import DataSpec, load_spec


def run(config: FetchConfig) -> DataSpec:
    """Download or generate the data set unless it is present; InputError if that fails."""
    spec = load_class_data(config.data) if is_class_data(config.data) else load_spec(config.data)
    available = [split for split, source in spec.splits.items() if not source.missing]
    LOGGER.info(f"{config.data}: {', '.join(available)} in {spec.root}, {spec.num_classes} classes")
    return spec
