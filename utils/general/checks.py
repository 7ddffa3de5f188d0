"""Checks of files, versions, packages, sizes and data sets."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version
from torch import Tensor, nn

from models.yolo import check_image_size
from utils.config.base import ROOT
from utils.core import files as paths
from utils.core.downloads import download_file
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.renamed import accept_renamed
from utils.datasets.index.data_yaml import SplitSource, load_mapping, load_spec
from utils.general.files import url2file
from utils.predict.writers import WindowViewer
from utils.tasks.registry import find_graph_task, find_task
from utils.tasks.results import DrawStyle
from utils.train import amp

__all__ = [
    "AUTOINSTALL", "FONT", "check_amp", "check_dataset", "check_file", "check_font", "check_img_size", "check_imshow",
    "check_python", "check_requirements", "check_suffix", "check_version", "check_yaml",
]  # fmt: skip
AUTOINSTALL = False  # packages are never installed, only named
FONT = "Arial.ttf"  # the name of the original's font; text is drawn with installed fonts (utils.imaging.text)
OWN_REQUIREMENTS = ROOT / "requirements.txt"
URL_SCHEMES = ("http://", "https://")
Names = str | Path | Sequence[str | Path]


# -- versions and packages --------------------------------------------------------------------------------------------


def check_python(minimum: str = "3.7.0") -> None:
    """InputError if Python is older than `minimum`."""
    check_version(platform.python_version(), minimum, name="Python ", hard=True)


def check_version(
    current: str = "0.0.0",
    minimum: str = "0.0.0",
    name: str = "version ",
    pinned: bool = False,
    hard: bool = False,
    verbose: bool = False,
) -> bool:
    """Whether a version is at least `minimum`, or with `pinned` equal to it.

    Args:
        name: what has the version, for messages.
        hard: raise InputError if not.
        verbose: log a warning if not.
    """
    try:
        have, need = Version(current), Version(minimum)
    except InvalidVersion as error:
        raise InputError(f"{name.strip()}: {error}; give numbers such as 1.2.3") from error
    result = have == need if pinned else have >= need
    if not result:
        message = f"{name.strip()} {minimum}{'' if pinned else ' or later'} is required, {current} is installed"
        if hard:
            raise InputError(f"{message}; install the required version")
        if verbose:
            LOGGER.warning(f"WARNING {message}")
    return result


def check_requirements(
    requirements: str | Path | Iterable[str] = OWN_REQUIREMENTS,
    exclude: Sequence[str] = (),
    install: bool = True,
    cmds: str = "",
) -> bool:
    """Whether packages are installed in the required versions; warns with a pip command if not, and installs nothing.

    Args:
        requirements: requirements file, requirement or list of requirements; by default those of this project, which
            pip has checked if it is installed as a package.
        exclude: names of packages to skip.
        install: ignored.
        cmds: options for the pip command of the warning.
    """
    if isinstance(requirements, str | Path):
        file = Path(requirements)
        if file == OWN_REQUIREMENTS and not file.is_file():
            return True
        requirements = paths.read_text(file).splitlines() if file.suffix == ".txt" else [str(requirements)]
    lines = (line.partition(" #")[0].strip() for line in requirements)
    missing = [line for line in lines if re.match(r"[A-Za-z0-9]", line) and _is_missing(line, exclude)]
    if missing:
        quoted = (f"'{line}'" if re.search(r"[<>; ]", line) else line for line in missing)
        LOGGER.warning(" ".join(["WARNING: missing packages: pip install", *quoted, *cmds.split()]))
    return not missing


def _is_missing(line: str, exclude: Sequence[str]) -> bool:
    """Whether a requirement that applies to this system is not met."""
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return False  # an address or a path
    if requirement.name in exclude or (requirement.marker and not requirement.marker.evaluate()):
        return False
    try:
        return not requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return True


# -- files ------------------------------------------------------------------------------------------------------------


def check_suffix(file: Names = "yolov5s.pt", suffix: str | Sequence[str] = (".pt",), msg: str = "") -> None:
    """InputError if a file name, or one of several, has a suffix other than those accepted; msg begins the message."""
    suffixes = (suffix,) if isinstance(suffix, str) else tuple(suffix)
    for name in [file] if isinstance(file, str | Path) else file:
        if str(name) and suffixes and (ending := Path(name).suffix.lower()) and ending not in suffixes:
            raise InputError(f"{msg}{name}: expected a file with suffix {' or '.join(suffixes)}")


def check_yaml(file: str | Path, suffix: str | Sequence[str] = (".yaml", ".yml")) -> str:
    """Find a YAML file, see `check_file`."""
    return check_file(file, suffix)


def check_file(file: str | Path, suffix: str | Sequence[str] = "") -> str:
    """Find a file, also below data/ and models/; that of an http(s) URL is downloaded to the working directory, once.

    An empty name is returned as it is.

    Raises:
        InputError: the file is missing or has another suffix, or the download failed.
    """
    name = str(file)
    check_suffix(name.partition("?")[0] if name.startswith(URL_SCHEMES) else name, suffix or ())
    if not name or Path(name).is_file():
        return name
    if name.startswith(URL_SCHEMES):
        target = Path(url2file(name))
        return str(target if target.is_file() else download_file(name, target))
    folders = [path for top in ("data", "models") for path in (ROOT / top, *sorted((ROOT / top).rglob("*/")))]
    return str(paths.find_file(file, [path for path in folders if path.is_dir() and path.name != "__pycache__"]))


def check_font(font: str | Path = FONT, progress: bool = False) -> None:
    """Does nothing: text is drawn in any script with fonts that are installed, and none is downloaded."""


# -- sizes, screen, precision -----------------------------------------------------------------------------------------


@accept_renamed(img_size="imgsz")
def check_img_size(imgsz: int | Sequence[int], s: int | Tensor = 32, floor: int = 0) -> int | list[int]:
    """Round the image size up to a multiple of the stride `s`, at least `floor`; warns if it changes."""
    stride = int(s.max()) if isinstance(s, Tensor) else int(s)
    if isinstance(imgsz, int):
        return max(check_image_size(imgsz, stride), floor)
    return [max(check_image_size(side, stride), floor) for side in imgsz]


def check_imshow(warn: bool = False) -> bool:
    """Whether images can be shown in windows."""
    try:
        WindowViewer(DrawStyle()).close()
    except InputError as error:
        if warn:
            LOGGER.warning(f"WARNING: {error}")
        return False
    return True


def check_amp(model: nn.Module) -> bool:
    """Whether training in mixed precision works: on a GPU whose outputs in FP16 agree with those in FP32."""
    module: Any = model.module if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else model
    device = next(module.parameters()).device
    if device.type != "cuda":
        return False
    graph = getattr(module, "yaml", None)
    task = find_graph_task(graph) if isinstance(graph, Mapping) else find_task("classify")
    return amp.check_amp(module, torch.float16, device, agree=task.outputs_agree) is not None


# -- data sets --------------------------------------------------------------------------------------------------------


@accept_renamed(dict="data")
def check_dataset(data: str | Path | Mapping[str, Any], autodownload: bool = True) -> dict[str, Any]:
    """The settings of a data YAML with absolute paths.

    Args:
        data: YAML file, archive with one, URL of either, or settings as read from a YAML file.
        autodownload: download or generate the data if it is missing and the settings say how.

    Returns:
        The settings, with `path` as a Path, `train`, `val` and `test` as absolute text or a list of it, the number of
        classes `nc` and `names` as {number: name}.

    Raises:
        InputError: file, key, problem and remedy.
    """
    is_mapping = isinstance(data, Mapping)
    spec = load_mapping(data, prepare=autodownload) if is_mapping else load_spec(data, prepare=autodownload)  # type: ignore[arg-type]
    settings = dict(spec.raw) | {"path": spec.root, "nc": spec.num_classes, "names": dict(spec.names)}
    settings |= {split: _format_split(source) for split, source in spec.splits.items()}
    return settings if is_mapping else settings | {"yaml_file": str(spec.path)}


def _format_split(source: SplitSource) -> Any:
    """The images of a split as absolute text or a list of it; with the annotations file if it has one."""
    texts = [os.path.abspath(path) for path in source.paths]  # noqa: PTH100 (keeps links)
    images = texts[0] if len(texts) == 1 else texts
    return images if source.annotations is None else {"images": images, "annotations": str(source.annotations)}
