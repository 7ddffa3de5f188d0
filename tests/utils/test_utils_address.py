from __future__ import annotations

import numpy as np
import pytest

import utils.loss
import utils.metrics.classic
from utils import augmentations, downloads, general, plots, torch_utils
from utils import utils as address


def test_names_of_all_helpers() -> None:
    assert address.xyxy2xywh is general.xyxy2xywh
    assert address.time_synchronized is torch_utils.time_synchronized
    assert address.plot_images is plots.plot_images
    assert address.plot_one_box is plots.plot_one_box
    assert address.letterbox is augmentations.letterbox
    assert address.attempt_download is downloads.attempt_download
    assert address.ap_per_class is utils.metrics.classic.ap_per_class
    assert address.ComputeLoss is utils.loss.ComputeLoss
    with pytest.raises(AttributeError, match=r"'utils.utils' has no attribute 'nothing'"):
        _ = address.nothing


def test_names_of_a_star_import() -> None:
    assert {"np", "torch", "Path", "non_max_suppression", "plot_images", "fitness"} <= set(address.__all__)


def test_every_listed_name_exists() -> None:
    for module in (address, general, torch_utils, plots, augmentations, downloads):
        missing = [name for name in module.__all__ if not hasattr(module, name)]
        assert missing == [], module.__name__


def test_modules_of_a_star_import() -> None:
    assert {"np", "pd", "os", "torch", "Path", "cv2"} <= set(general.__all__)
    assert general.np.__name__ == "numpy"
    assert {"nn", "F", "torch"} <= set(torch_utils.__all__)
    assert {"plot_one_box", "plot_images"} <= set(plots.__all__)


def test_names_that_utils_general_had_before() -> None:
    assert general.plot_one_box is plots.plot_one_box
    assert general.save_one_box is plots.save_one_box
    assert general.fitness is utils.metrics.classic.fitness
    assert general.torch_distributed_zero_first is torch_utils.torch_distributed_zero_first
    own = [name for name, module in general.LAZY_EXPORTS.items() if ":" not in module]
    assert "plot_images" in own and all(callable(getattr(general, name)) for name in own)
    assert general.np is np
    assert general.NCOLS > 0
