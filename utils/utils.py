"""Address of all helpers before release 3.0: names of `utils.general`, `utils.torch_utils` and others.

`from utils.utils import *` also gives the modules that scripts of that time took from here.
"""

from __future__ import annotations

import glob
import math
import os
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from torch import nn
from tqdm import tqdm

from utils import augmentations, downloads, general, plots, torch_utils
from utils.core.lazy import lazy_exports

MODULES = (general, torch_utils, plots, augmentations, downloads)
LAZY_EXPORTS = {
    **dict.fromkeys(("ConfusionMatrix", "ap_per_class", "compute_ap", "fitness"), "utils.metrics.classic"),
    **dict.fromkeys(("ComputeLoss", "smooth_BCE"), "utils.loss"),
    **dict.fromkeys(plots.PUBLIC_NAMES, "utils.plots"),
}
_get_lazy = lazy_exports(__name__, LAZY_EXPORTS)

__all__ = ["Path", "cv2", "glob", "math", "nn", "np", "os", "random", "shutil", "subprocess", "time", "torch"]
__all__ += ["torch_utils", "tqdm", "yaml", *LAZY_EXPORTS]
for _module in MODULES:
    __all__ += _module.__all__


def __getattr__(name: str) -> Any:
    owner = next((module for module in MODULES if name in module.__all__), None)
    return _get_lazy(name) if owner is None else getattr(owner, name)
