"""Settings of the commands of `python -m utils.datasets`."""

from __future__ import annotations

from dataclasses import dataclass

from utils.config.base import BaseConfig, option, switch
from utils.config.flag_types import not_negative_float, positive_int, seed_number

READABLE = ("yolo", "coco", "voc", "labelme", "supervisely", "cityscapes")
WRITABLE = READABLE[:-1]


@dataclass(frozen=True)
class ConvertConfig(BaseConfig):
    """Turn a data set into another annotation format, in a new folder."""

    source: str = option("", "--source", required=True, help="data YAML (yolo), JSON file or folder of the data set")
    source_format: str = option("yolo", "--from", choices=READABLE, help="format of the source")
    target_format: str = option("yolo", "--to", choices=WRITABLE, help="format to write")
    out: str = option("", "--out", required=True, help="folder to write; it must be empty or new")
    names: list[str] = option([], "--names", nargs="+", help="classes in their order, others are left out")
    images: str = option("", "--images", help="folder of the images, where it is not that of the source")
    boxes: bool = switch("--boxes", help="boxes only, also of objects that have outlines")
    link: bool = switch("--link", help="hard links to the images instead of copies")


@dataclass(frozen=True)
class FetchConfig(BaseConfig):
    """Fetch or draw a data set as its YAML says, without training."""

    data: str = option("", "--data", required=True, help="data YAML, or a known name such as mnist")


@dataclass(frozen=True)
class SplitConfig(BaseConfig):
    """Deal images out to train, val and test by a seed: autosplit_*.txt for a data YAML."""

    images: str = option("", "--images", required=True, help="folder of images, or a list file")
    shares: list[float] = option(
        [0.9, 0.1, 0.0], "--shares", nargs="+", type=not_negative_float, help="of train, val and test"
    )
    seed: int = option(0, "--seed", type=seed_number, help="equal seeds give equal lists")
    annotated_only: bool = switch("--annotated-only", help="leave images without a label file out")
    out: str = option("", "--out", help="folder for the lists; default: the one that holds the images' folder")
    exist_ok: bool = switch("--exist-ok", help="replace lists that are there")


@dataclass(frozen=True)
class CheckConfig(BaseConfig):
    """Verify a data set: what is wrong, what is in it, and plots of both."""

    data: str = option("data/coco128.yaml", "--data", help="data YAML, known name, or folder of class folders")
    splits: list[str] = option([], "--split", nargs="+", help="splits to look at; default: all")
    project: str = option("runs/check", "--project", help="folder of runs")
    name: str = option("exp", "--name", help="run folder")
    exist_ok: bool = switch("--exist-ok", help="write into an existing run folder")
    noplots: bool = switch("--noplots", help="write no plots")
    verbose: bool = switch("--verbose", help="print every problem, not the first few")
    workers: int = option(8, "--workers", type=positive_int, help="threads that read images")
