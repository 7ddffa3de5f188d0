"""Flags of inference in tiles, shared by detect.py and val.py."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from utils.config.base import option, switch
from utils.config.flag_types import overlap_fraction, positive_int
from utils.core.errors import InputError

TILE_DETAILS = ("tile_overlap", "tile_full", "tile_merge", "tile_visible")
TILE_VISIBLE_HELP = "drop objects of which a tile shows a smaller share"
PREDICT_HELP = "predict large images in tiles of this side (without a number: of the network input)"
TRAIN_HELP = "train on tiles of this side of large images (without a number: of --imgsz)"


def tile_option(help: str = PREDICT_HELP) -> Any:
    """The field `tile`: None for whole images, 0 for tiles of the size of the network input."""
    return option(
        None,
        "--tile",
        nargs="?",
        const=0,
        type=positive_int,
        metavar="PIXELS",
        help=help,
    )


def tile_overlap_option() -> Any:
    """The field `tile_overlap`."""
    return option(0.2, "--tile-overlap", type=overlap_fraction, help="share of a tile that the next one repeats")


def tile_full_switch() -> Any:
    """The field `tile_full`."""
    return switch("--tile-full", help="also predict the whole image, shrunk, for objects larger than a tile")


def tile_merge_option() -> Any:
    """The field `tile_merge`."""
    return option(
        "nms",
        "--tile-merge",
        choices=("nms", "wbf", "ios"),
        help="how boxes of overlapping tiles become one (see docs/tiling.md)",
    )


def check_tile_flags(tile: int | None, explicit: Collection[str]) -> None:
    """InputError for details of tiles without `--tile`."""
    given = [name for name in TILE_DETAILS if name in explicit]
    if tile is None and given:
        flag = f"--{given[0].replace('_', '-')}"
        raise InputError(f"{flag} has no effect without --tile; add --tile, or leave {flag} out")
