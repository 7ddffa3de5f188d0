"""Classes of semantic masks: names, colors and the ignored value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from utils.imaging.colors import class_color

Color = tuple[int, int, int]
MAX_SEMANTIC_CLASSES = 255  # a mask has one byte per pixel, and one of its values means "ignore"


@dataclass(frozen=True)
class SemanticClasses:
    """The classes of a semantic mask, shared by data set, network and checkpoint.

    Attributes:
        names: class number -> name for classes 0 to n - 1, in this order.
        palette: n RGB colors, 0-255; distinct colors by default.
        ignore: value of pixels without a class; not a class number.
        source_ids: value of each class in the data set's files, if it differs from the class number.

    Raises:
        ValueError: the classes are not numbered 0 to n - 1, or a value is out of range.
    """

    names: dict[int, str]
    palette: tuple[Color, ...] = ()
    ignore: int = 255
    source_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.names)
        if not 1 <= count <= MAX_SEMANTIC_CLASSES or list(self.names) != list(range(count)):
            raise ValueError(f"names: number the classes 0, 1, ... in order, up to 254; got {list(self.names)[:8]}")
        if not self.palette:
            object.__setattr__(self, "palette", tuple(class_color(i) for i in range(count)))
        if len(self.palette) != count:
            raise ValueError(f"palette: {len(self.palette)} colors for {count} classes")
        for i, color in enumerate(self.palette):
            if len(color) != 3 or not all(_is_byte(value) for value in color):
                raise ValueError(f"palette: color {list(color)} of class {i} is not an RGB triple of 0 to 255")
        if not _is_byte(self.ignore) or self.ignore < count:
            raise ValueError(f"ignore: {self.ignore!r} must be between {count} and 255, a value that no class has")
        ids = range(count) if self.source_ids is None else self.source_ids
        if len(ids) != count or not all(_is_byte(value) for value in ids):
            raise ValueError(f"source_ids: expected {count} values of 0 to 255, got {list(ids)}")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_count(cls, count: int) -> SemanticClasses:
        """`count` classes named by their numbers."""
        return cls({i: str(i) for i in range(count)})

    def to_dict(self) -> dict[str, Any]:
        """Plain data for checkpoints and exported files."""
        ids = None if self.source_ids is None else list(self.source_ids)
        colors = [list(color) for color in self.palette]
        return {"names": dict(self.names), "palette": colors, "ignore": self.ignore, "source_ids": ids}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SemanticClasses:
        """The inverse of `to_dict`.

        Raises:
            ValueError: as the class, or `values` does not have that form.
        """
        try:
            names = {int(number): str(name) for number, name in values["names"].items()}
            palette = tuple((int(red), int(green), int(blue)) for red, green, blue in values.get("palette") or ())
            ids = values.get("source_ids")
            source_ids = None if ids is None else tuple(int(value) for value in ids)
            ignore = int(values.get("ignore", 255))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a description of semantic classes: {error}") from error
        return cls(names, palette, ignore, source_ids)


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255
