"""`python -m utils.datasets fetch`: a data set put in place as its YAML says, without training."""

from __future__ import annotations

from utils.config_datasets import FetchConfig
from utils.datasets.class_folders import is_class_data, load_class_data
from utils.datasets.spec import DataSpec, load_spec
from utils.logging import LOGGER


def run(config: FetchConfig) -> DataSpec:
    """The set, fetched or drawn where it is not there yet; InputError where that cannot be."""
    spec = load_class_data(config.data) if is_class_data(config.data) else load_spec(config.data)
    there = [split for split, source in spec.splits.items() if not source.missing]
    LOGGER.info(f"{config.data}: {', '.join(there)} in {spec.root}, {spec.num_classes} classes")
    return spec
