"""Settings of the commands of `python -m utils.datasets`."""

from __future__ import annotations

from dataclasses import dataclass

from utils.config.base import BaseConfig, option, switch
from utils.config.flag_types import fraction, not_negative_float, positive_int, seed_value
from utils.config.tiles import TILE_VISIBLE_HELP, tile_overlap_option

READABLE = ("yolo", "coco", "voc", "labelme", "supervisely", "cityscapes")
WRITABLE = READABLE[:-1]


@dataclass(frozen=True)
class ConvertConfig(BaseConfig):
    """Convert a data set to another annotation format, in a new folder."""

    source: str = option("", "--source", required=True, help="data YAML (yolo), JSON file or folder of the data set")
    source_format: str = option("yolo", "--from", choices=READABLE, help="format of the source")
    target_format: str = option("yolo", "--to", choices=WRITABLE, help="format to write")
    out: str = option("", "--out", required=True, help="folder to write; it must be empty or new")
    names: list[str] = option([], "--names", nargs="+", help="classes to keep, in this order")
    images: str = option("", "--images", help="folder of the images (default: that of the source)")
    boxes: bool = switch("--boxes", help="write boxes only, without polygons")
    link: bool = switch("--link", help="hard-link the images instead of copying them")


@dataclass(frozen=True)
class CropsConfig(BaseConfig):
    """Crop the labeled objects of a detection set into class folders for each split."""

    data: str = option("data/coco128.yaml", "--data", help="data set YAML")
    out: str = option("", "--out", required=True, help="folder to write; it must be empty or new")
    margin: float = option(0.1, "--margin", type=not_negative_float, help="margin relative to the size of the box")
    square: bool = switch("--square", help="extend the shorter side to a square as far as the image allows")
    min_side: int = option(10, "--min-side", type=positive_int, help="skip objects with a shorter side, pixels")


@dataclass(frozen=True)
class FetchConfig(BaseConfig):
    """Download or generate a data set without training."""

    data: str = option("", "--data", required=True, help="data YAML, or a known name such as mnist")


@dataclass(frozen=True)
class SplitConfig(BaseConfig):
    """Split images at random into train, val and test lists, autosplit_*.txt."""

    images: str = option("", "--images", required=True, help="folder of images, or a list file")
    shares: list[float] = option(
        [0.9, 0.1, 0.0], "--shares", nargs="+", type=not_negative_float, help="fractions of train, val and test"
    )
    seed: int = option(0, "--seed", type=seed_value, help="random seed")
    annotated_only: bool = switch("--annotated-only", help="skip images without a label file")
    out: str = option("", "--out", help="folder for the lists (default: parent of the images folder)")
    exist_ok: bool = switch("--exist-ok", help="replace existing lists")


@dataclass(frozen=True)
class CheckConfig(BaseConfig):
    """Verify a data set: problems, statistics and plots."""

    data: str = option("data/coco128.yaml", "--data", help="data YAML, known name, or folder of class folders")
    splits: list[str] = option([], "--split", nargs="+", help="splits to verify (default: all)")
    project: str = option("runs/check", "--project", help="parent folder of runs")
    name: str = option("exp", "--name", help="name of the run folder")
    exist_ok: bool = switch("--exist-ok", help="use an existing run folder")
    noplots: bool = switch("--noplots", help="write no plots")
    verbose: bool = switch("--verbose", help="print all problems")
    workers: int = option(8, "--workers", type=positive_int, help="number of reader threads")


@dataclass(frozen=True)
class TileConfig(BaseConfig):
    """Cut the large images of a detection or instance segmentation set into tiles, in a new folder."""

    data: str = option("data/coco128.yaml", "--data", help="data set YAML")
    out: str = option("", "--out", required=True, help="folder to write; it must be empty or new")
    tile: int = option(640, "--tile", type=positive_int, help="side of a tile in pixels")
    tile_overlap: float = tile_overlap_option()
    tile_visible: float = option(0.3, "--tile-visible", type=fraction, help=TILE_VISIBLE_HELP)
