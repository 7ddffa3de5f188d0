"""Classes of semantic masks: names, colors and the value to ignore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from utils.imaging.colors import class_color

Color = tuple[int, int, int]
MAX_SEMANTIC_CLASSES = 255  # a semantic mask has one byte per pixel, and one value of it means "ignore"


@dataclass(frozen=True)
class SemanticClasses:
    """The classes of a semantic mask, as data set, network and checkpoint share them.

    Attributes:
        names: of classes 0 to n - 1, in this order.
        palette: n colors red, green, blue, 0-255; distinct ones where none are given.
        ignore: value of pixels that have no class; no class has this number.
        source_ids: value that the data set's own files have for each class, where it is another.

    Raises:
        ValueError: the classes are not numbered 0 to n - 1, or a value is impossible; the message says which.
    """

    names: dict[int, str]
    palette: tuple[Color, ...] = ()
    ignore: int = 255
    source_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.names)
        if not 1 <= count <= MAX_SEMANTIC_CLASSES or list(self.names) != list(range(count)):
            raise ValueError(f"names: classes {list(self.names)[:8]} are not numbered 0, 1, ... below 255, in order")
        if not self.palette:
            object.__setattr__(self, "palette", tuple(class_color(i) for i in range(count)))
        if len(self.palette) != count:
            raise ValueError(f"palette: {len(self.palette)} colors for {count} classes")
        for i, color in enumerate(self.palette):
            if len(color) != 3 or not all(_is_byte(value) for value in color):
                raise ValueError(f"palette: color {list(color)} of class {i} is not red, green, blue of 0 to 255")
        if not _is_byte(self.ignore) or self.ignore < count:
            raise ValueError(f"ignore: {self.ignore!r} is not a value of {count} to 255, which no class has")
        ids = range(count) if self.source_ids is None else self.source_ids
        if len(ids) != count or not all(_is_byte(value) for value in ids):
            raise ValueError(f"source_ids: {list(ids)} are not {count} values of 0 to 255")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def numbered(cls, count: int) -> SemanticClasses:
        """`count` classes named by their numbers."""
        return cls({i: str(i) for i in range(count)})

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as checkpoints and exported files keep it."""
        ids = None if self.source_ids is None else list(self.source_ids)
        colors = [list(color) for color in self.palette]
        return {"names": dict(self.names), "palette": colors, "ignore": self.ignore, "source_ids": ids}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SemanticClasses:
        """The inverse of `to_dict`.

        Raises:
            ValueError: as the class, or `values` is not of that form.
        """
        try:
            names = {int(number): str(name) for number, name in values["names"].items()}
            palette = tuple((int(red), int(green), int(blue)) for red, green, blue in values.get("palette") or ())
            ids = values.get("source_ids")
            source_ids = None if ids is None else tuple(int(value) for value in ids)
            ignore = int(values.get("ignore", 255))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no description of semantic classes: {error}") from error
        return cls(names, palette, ignore, source_ids)


def _is_byte(value: Any) -> bool:
    """Whether it is a whole number that a byte holds."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255
