"""The key `semantic` of a data YAML: classes and paths of the semantic masks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import InputError
from utils.datasets.augment.compose import IGNORE
from utils.datasets.index.listing import is_plain_text
from utils.imaging.semantic_classes import SemanticClasses

KEYS = ("names", "masks", "images", "image_end", "mask_end", "layout", "ignore", "palette", "id_map")
CLASS_NUMBER = re.compile(r"-?\d{1,9}")
SPLITS = ("train", "val", "test")  # also allowed: splits of semantic masks of other images than those with boxes


@dataclass(frozen=True)
class MaskRule:
    """How the path of a semantic mask is derived from that of its image.

    The last folder `images` in the path becomes `masks` (either may be several folders deep), the end `image_end` of
    the stem becomes `mask_end`, and the suffix .png. A stem without that end is unchanged, so that a folder may hold
    images of another data set, such as BDD100K as one more city of Cityscapes.
    """

    images: str = "images"
    masks: str = "masks"
    image_end: str = ""
    mask_end: str = ""

    def mask_path(self, image: str) -> str | None:
        """The semantic mask file; None if the image is not below a folder `images`."""
        folder, name = os.path.split(image)
        before, separator, after = f"{folder}{os.sep}".rpartition(f"{os.sep}{os.path.normpath(self.images)}{os.sep}")
        stem = os.path.splitext(name)[0]  # noqa: PTH122 (several times faster than pathlib)
        if not separator:
            return None
        if stem.endswith(self.image_end):
            stem = stem.removesuffix(self.image_end) + self.mask_end
        return os.path.join(before, os.path.normpath(self.masks), after, f"{stem}.png")  # noqa: PTH118


LAYOUTS: dict[str, MaskRule] = {  # values of `layout`
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
    """The validated key `semantic`.

    Attributes:
        classes: names, colors, and the label ids of `id_map`; the ignored value is 255 in memory.
        rule: how paths of semantic masks are derived.
        id_map: (256,) uint8 class of each value in the files, 255 for none; None if the values are the classes.
        valid: (256,) bool, values that the files may contain.
    """

    classes: SemanticClasses
    rule: MaskRule
    id_map: np.ndarray | None
    valid: np.ndarray

    @property
    def num_classes(self) -> int:
        return len(self.classes)


def parse_semantic(block: Any, *, source: Path, names: Mapping[int, str] | None = None) -> SemanticSpec:
    """Validate the mapping under `semantic`.

    Args:
        block: as read from the YAML.
        source: the YAML file, for messages.
        names: class names if the block has none.

    Raises:
        InputError: key, problem and remedy.
    """
    where = f"{source}: semantic"
    if not isinstance(block, Mapping):
        raise InputError(f"{where}: {block!r} is not a mapping with keys such as names, masks, layout")
    for key in block:
        if key not in (*KEYS, *SPLITS):
            near = get_close_matches(str(key), (*KEYS, *SPLITS), n=1)
            raise InputError(f"{where}: unknown key {key!r}{f', did you mean {near[0]}' if near else ''}")
    if block.get("names") is not None:
        class_names = parse_names(block["names"], f"{where}: names")
    elif names is not None:
        class_names = dict(names)
    else:
        raise InputError(f"{where}: key 'names' is missing; it holds the class names")
    palette = _parse_palette(block.get("palette"), class_names, f"{where}: palette")
    ignore, mapping = block.get("ignore", IGNORE), block.get("id_map")
    try:
        classes = SemanticClasses(class_names, palette, ignore)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    if mapping is None:
        id_map, valid = _build_identity(len(class_names), ignore)
        classes = replace(classes, ignore=IGNORE)
    else:
        id_map, ids = _parse_id_map(mapping, classes, f"{where}: id_map")
        valid, classes = np.ones(256, bool), replace(classes, ignore=IGNORE, source_ids=ids)
    return SemanticSpec(classes, _parse_rule(block, where), id_map, valid)


def parse_names(names: Any, where: str) -> dict[int, str]:
    """Class names by number from a list or an int-keyed mapping; InputError, whose message starts with `where`."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise InputError(f"{where}: {names!r} is neither a list nor a mapping from class numbers to names")
    if not all(CLASS_NUMBER.fullmatch(str(number)) for number in names):
        raise InputError(f"{where}: keys must be class numbers, got {list(names)[:3]}")
    for number, name in names.items():
        if name is None or not isinstance(name, str | int | float | date):
            raise InputError(f"{where}: the name of class {number} is {name!r}, which is not a string; quote it")
        if not is_plain_text(str(name)):
            raise InputError(f"{where}: the name of class {number} is {name!r}; remove its control characters")
    numbered = {int(number): str(name) for number, name in names.items()}
    if sorted(numbered) != list(range(len(names))):
        raise InputError(f"{where}: class numbers must run from 0 to {len(names) - 1}, got {sorted(numbered)[:8]}")
    return {number: numbered[number] for number in sorted(numbered)}


def _build_identity(num_classes: int, ignore: int) -> tuple[np.ndarray | None, np.ndarray]:
    """(256,) class of each value for files that hold class numbers, None if not needed; and (256,) valid values."""
    id_map = np.full(256, IGNORE, np.uint8)
    id_map[:num_classes] = np.arange(num_classes)
    valid = np.zeros(256, bool)
    valid[[*range(num_classes), ignore]] = True
    return (None if ignore == IGNORE else id_map), valid


def _parse_id_map(mapping: Any, classes: SemanticClasses, where: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """(256,) class of each label id, and the lowest id of each class; ids that are not in the mapping are ignored."""
    if not isinstance(mapping, Mapping) or not mapping:
        raise InputError(f"{where}: {mapping!r} is not a mapping from the values in the files to class numbers")
    id_map = np.full(256, IGNORE, np.uint8)
    ids: dict[int, int] = {}
    for value, number in mapping.items():
        if not _is_int(value) or not -1 <= value <= 255:
            raise InputError(f"{where}: {value!r} is not a value of 0 to 255 (or -1, which means 255)")
        if not _is_int(number) or (number not in classes.names and number not in (IGNORE, classes.ignore, -1)):
            raise InputError(f"{where}: {value} is mapped to {number!r}, but classes are 0 to {len(classes) - 1}")
        if number in classes.names:
            id_map[value % 256] = number
            ids[number] = min(value % 256, ids.get(number, 255))
    if missing := [f"{c} ({classes.names[c]})" for c in classes.names if c not in ids]:
        raise InputError(f"{where}: no value is mapped to class {', '.join(missing)}; map one or remove the class")
    return id_map, tuple(ids[c] for c in classes.names)


def _parse_palette(palette: Any, names: Mapping[int, str], where: str) -> tuple[tuple[int, int, int], ...]:
    """Colors as tuples, from a list in class order or a mapping by class number; () for None."""
    if palette is None:
        return ()
    if isinstance(palette, Mapping):
        if sorted(map(str, palette)) != sorted(map(str, names)):
            raise InputError(f"{where}: has colors for {list(palette)[:8]}, but classes are 0 to {len(names) - 1}")
        by_number = {str(number): color for number, color in palette.items()}
        palette = [by_number[str(number)] for number in names]
    if not isinstance(palette, list) or not all(isinstance(color, list) for color in palette):
        raise InputError(f"{where}: {palette!r} is not a list of one [red, green, blue] per class")
    return tuple(tuple(color) for color in palette)  # type: ignore[misc]


def _parse_rule(block: Mapping[str, Any], where: str) -> MaskRule:
    """The rule of the layout, with the changes of the other keys."""
    layout = str(block.get("layout", "beside"))
    if layout not in LAYOUTS:
        raise InputError(f"{where}: layout: {layout!r} is not one of {', '.join(LAYOUTS)}")
    changes = {}
    for key in ("images", "masks", "image_end", "mask_end"):
        if (text := block.get(key)) is None:
            continue
        is_folder = key in ("images", "masks")
        if not isinstance(text, str) or not is_plain_text(text) or (is_folder and not text.strip("/.")):
            raise InputError(f"{where}: {key}: {text!r} is not the name of a folder or the end of a file name")
        changes[key] = text.strip("/") if key == "images" else text
    return MaskRule(**{**vars(LAYOUTS[layout]), **changes})


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
