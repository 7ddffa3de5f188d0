"""The key `semantic` of a data YAML: which classes pixels have and where the semantic mask of each image lies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import InputError
from utils.datasets.augment.compose import IGNORE
from utils.imaging.semantic_classes import SemanticClasses

OWN_SPLITS = ("train", "val", "test")  # of images other than those with boxes
KEYS = ("names", "masks", "images", "image_end", "mask_end", "layout", "ignore", "palette", "id_map", *OWN_SPLITS)


@dataclass(frozen=True)
class MaskRule:
    """How the file of a semantic mask follows from that of its image.

    The last folder `images` in the path becomes `masks` (either may be several folders deep), `image_end` at the end
    of the stem becomes `mask_end`, and the suffix .png. A stem without that end stays, so that images of another set
    may lie in a folder beside, BDD100K's as one more city of Cityscapes.
    """

    images: str = "images"
    masks: str = "masks"
    image_end: str = ""
    mask_end: str = ""

    def mask_path(self, image: str) -> str | None:
        """The semantic mask's file; None where the image lies in no folder `images`."""
        folder, name = os.path.split(image)
        between = f"{os.sep}{os.path.normpath(self.images)}{os.sep}"
        before, found, after = f"{folder}{os.sep}".rpartition(between)
        stem = os.path.splitext(name)[0]  # noqa: PTH122, text is several times faster than pathlib
        if not found:
            return None
        if stem.endswith(self.image_end):
            stem = stem.removesuffix(self.image_end) + self.mask_end
        return os.path.join(before, os.path.normpath(self.masks), after, f"{stem}.png")  # noqa: PTH118


LAYOUTS: dict[str, MaskRule] = {  # names for `layout`
    "beside": MaskRule(),
    "cityscapes": MaskRule("leftImg8bit", "gtFine", "_leftImg8bit", "_gtFine_labelIds"),
    "cityscapes-trainids": MaskRule("leftImg8bit", "gtFine", "_leftImg8bit", "_gtFine_labelTrainIds"),
    "bdd100k": MaskRule("images/10k", "labels/sem_seg/masks"),
    "bdd100k-2018": MaskRule("seg/images", "seg/labels", mask_end="_train_id"),
    "custom": MaskRule("segimages", "seglabels"),
    "voc": MaskRule("JPEGImages", "SegmentationClass"),
}


@dataclass(frozen=True, eq=False)
class SemanticSpec:
    """The key `semantic`, checked.

    Attributes:
        classes: names, colors, and the label ids behind `id_map`; what is ignored is 255 in memory.
        rule: where semantic masks are.
        id_map: (256,) uint8 class of each value in the files, 255 for none; None if the values are the classes.
        valid: (256,) bool, values that the files may hold.
    """

    classes: SemanticClasses
    rule: MaskRule
    id_map: np.ndarray | None
    valid: np.ndarray

    @property
    def num_classes(self) -> int:
        return len(self.classes)


def parse_semantic(block: Any, *, source: Path, names: Mapping[int, str] | None = None) -> SemanticSpec:
    """The specification that a mapping under `semantic` gives.

    Args:
        block: as read from the YAML.
        source: the YAML, for messages.
        names: of the classes where the block has none.

    Raises:
        InputError: what is wrong at which key, and the remedy.
    """
    where = f"{source}: semantic"
    if not isinstance(block, Mapping):
        raise InputError(f"{where}: {block!r} is not a map of masks, names, ignore, palette, id_map")
    for key in block:
        if key not in KEYS:
            near = get_close_matches(str(key), KEYS, n=1)
            raise InputError(f"{where}: unknown key {key!r}{f', did you mean {near[0]}' if near else ''}")
    given = block.get("names")
    if given is None and names is None:
        raise InputError(f"{where}: key 'names' is missing: the name of each class by its number")
    numbered = dict(names or {}) if given is None else parse_names(given, f"{where}: names")
    palette = _palette(block.get("palette"), numbered, f"{where}: palette")
    ignore, table = block.get("ignore", IGNORE), block.get("id_map")
    try:
        classes = SemanticClasses(numbered, palette, ignore)
        if table is None:
            id_map, valid = _identity(len(numbered), ignore)
        else:
            id_map, ids = _id_map(table, classes, f"{where}: id_map")
            valid, classes = np.ones(256, bool), SemanticClasses(numbered, palette, IGNORE, ids)
    except ValueError as error:  # InputError is one of its kind and says where
        raise error if isinstance(error, InputError) else InputError(f"{where}: {error}") from error
    if classes.ignore != IGNORE:
        classes = SemanticClasses(numbered, palette, IGNORE)
    return SemanticSpec(classes, _rule(block, where), id_map, valid)


def parse_names(names: Any, where: str) -> dict[int, str]:
    """Class names from a list or an int-keyed map, by number; `where` begins the message if they are none."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise InputError(f"{where}: {names!r} is neither a list nor a map of class numbers to names")
    if not all(str(number).removeprefix("-").isdecimal() for number in names):
        raise InputError(f"{where}: keys must be class numbers, found {list(names)[:3]}")
    for number, name in names.items():
        if name is None or isinstance(name, list | dict):
            raise InputError(f"{where}: class {number} is called {name!r}; a name is text, in quotes if need be")
    numbered = {int(number): str(name) for number, name in names.items()}
    if sorted(numbered) != list(range(len(names))):
        raise InputError(f"{where}: class numbers must run from 0 to {len(names) - 1}, found {sorted(numbered)}")
    return {number: numbered[number] for number in sorted(numbered)}


def _identity(count: int, ignore: int) -> tuple[np.ndarray | None, np.ndarray]:
    """The lookup where files hold class numbers, if any is needed, and which values are valid."""
    table = np.full(256, IGNORE, np.uint8)
    table[:count] = np.arange(count)
    valid = np.zeros(256, bool)
    valid[[*range(count), ignore]] = True
    return (None if ignore == IGNORE else table), valid


def _id_map(table: Any, classes: SemanticClasses, where: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """The (256,) lookup of a map from label ids to classes, and the lowest id of each class; other ids are ignored."""
    if not isinstance(table, Mapping) or not table:
        raise InputError(f"{where}: {table!r} is not a map of the values in the files to class numbers")
    lookup = np.full(256, IGNORE, np.uint8)
    ids: dict[int, int] = {}
    for value, number in table.items():
        if not _is_whole(value) or not -1 <= value <= 255:
            raise InputError(f"{where}: {value!r} is not a value of 0 to 255 (-1 stands for 255)")
        if not _is_whole(number) or (number not in classes.names and number not in (IGNORE, classes.ignore, -1)):
            raise InputError(f"{where}: {value} becomes {number!r}, but classes are 0 to {len(classes) - 1}")
        if number in classes.names:
            lookup[value % 256] = number
            ids[number] = min(value % 256, ids.get(number, 255))
    if missing := [f"{c} ({classes.names[c]})" for c in classes.names if c not in ids]:
        raise InputError(f"{where}: no value becomes class {', '.join(missing)}; add it or take the class away")
    return lookup, tuple(ids[c] for c in classes.names)


def _palette(given: Any, names: Mapping[int, str], where: str) -> tuple[tuple[int, int, int], ...]:
    """Colors as tuples, from a list in the order of the classes or a map by class number; none gives ()."""
    if given is None:
        return ()
    if isinstance(given, Mapping):
        if sorted(map(str, given)) != sorted(map(str, names)):
            raise InputError(f"{where}: has colors for {list(given)[:8]}, but classes are 0 to {len(names) - 1}")
        by_number = {str(number): color for number, color in given.items()}
        given = [by_number[str(number)] for number in names]
    if not isinstance(given, list) or not all(isinstance(color, list) for color in given):
        raise InputError(f"{where}: {given!r} is not a list of [red, green, blue] for each class")
    return tuple(tuple(color) for color in given)  # type: ignore[misc]


def _rule(block: Mapping[str, Any], where: str) -> MaskRule:
    """The layout named, with what the block says otherwise."""
    layout = str(block.get("layout", "beside"))
    if layout not in LAYOUTS:
        raise InputError(f"{where}: layout: {layout!r} is none of {', '.join(LAYOUTS)}")
    changes = {}
    for key in ("images", "masks", "image_end", "mask_end"):
        if (text := block.get(key)) is None:
            continue
        if not isinstance(text, str) or (key in ("images", "masks") and not text.strip("/.")):
            raise InputError(f"{where}: {key}: {text!r} is not the name of a folder or the end of a file name")
        changes[key] = text.strip("/") if key == "images" else text
    return MaskRule(**{**vars(LAYOUTS[layout]), **changes})


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
