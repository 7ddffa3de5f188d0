"""`python -m utils.datasets fetch`: a data set put in place as its YAML says, without training."""

from __future__ import annotations

from utils.config.datasets import FetchConfig
from utils.core.logging import LOGGER
from utils.datasets.index.class_folders import is_class_data, load_class_data
from utils.datasets.index.data_yaml import DataSpec, load_spec


def run(config: FetchConfig) -> DataSpec:
    """The set, fetched or drawn where it is not there yet; InputError where that cannot be."""
    spec = load_class_data(config.data) if is_class_data(config.data) else load_spec(config.data)
    there = [split for split, source in spec.splits.items() if not source.missing]
    LOGGER.info(f"{config.data}: {', '.join(there)} in {spec.root}, {spec.num_classes} classes")
    return spec
