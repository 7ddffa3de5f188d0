"""Imports of this project's modules by name, on demand."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

# Names that YOLOv5's modules import from elsewhere. Programs get them from those modules, mostly by `import *`.
PACKAGES = (
    *("argparse", "contextlib", "cv2", "glob", "inspect", "json", "logging", "math", "matplotlib", "os", "platform"),
    *("random", "re", "requests", "shutil", "signal", "subprocess", "sys", "time", "torch", "torchvision", "urllib"),
    *("warnings", "yaml"),
)
OUTSIDE = {name: f"{name}:" for name in PACKAGES} | {
    "DDP": "torch.nn.parallel:DistributedDataParallel",
    "F": "torch.nn.functional:",
    "Image": "PIL.Image:",
    "ImageDraw": "PIL.ImageDraw:",
    "ImageFont": "PIL.ImageFont:",
    "OrderedDict": "collections:OrderedDict",
    "Path": "pathlib:Path",
    "Pool": "multiprocessing.pool:Pool",
    "ThreadPool": "multiprocessing.pool:ThreadPool",
    "ZipFile": "zipfile:ZipFile",
    "amp": "torch.cuda.amp:",
    "contextmanager": "contextlib:contextmanager",
    "deepcopy": "copy:deepcopy",
    "dist": "torch.distributed:",
    "namedtuple": "collections:namedtuple",
    "np": "numpy:",
    "pd": "pandas:",
    "plt": "matplotlib.pyplot:",
    "repeat": "itertools:repeat",
}

PACKAGE = __name__.removesuffix("utils.core.lazy")  # "" in a checkout, "openyolov5." in the installed package


def import_project_module(name: str) -> ModuleType:
    """Import a module of this project by its name in a checkout, such as "utils.tasks.detect"."""
    return importlib.import_module(PACKAGE + name)


def lazy_exports(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` (PEP 562) that imports names of other modules on first access.

    It serves addresses that other programs import, but that belong to higher layers.

    Args:
        module: `__name__` of the module.
        names: name to the module that defines it, by its name in a checkout; with a colon, "package:object" or
            "package:", to an object of another package or a package itself, as in `OUTSIDE`.
    """

    def get_attribute(name: str) -> Any:
        if ":" in names.get(name, ""):
            return pkgutil.resolve_name(names[name])
        if name in names:
            return getattr(import_project_module(names[name]), name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return get_attribute
