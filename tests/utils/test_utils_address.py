from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import utils.loss
import utils.metrics.classic
from utils import augmentations, downloads, general, plots, torch_utils
from utils import utils as address

ROOT = Path(__file__).resolve().parents[2]


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


def test_star_import() -> None:
    code = (
        "from utils.utils import *; print(np.__name__, torch.__name__, non_max_suppression.__name__, fitness.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["numpy", "torch", "non_max_suppression", "fitness"], done.stderr


def test_every_listed_name_exists() -> None:
    for module in (address, general, torch_utils, plots, augmentations, downloads):
        missing = [name for name in module.__all__ if not hasattr(module, name)]
        assert missing == [], module.__name__
