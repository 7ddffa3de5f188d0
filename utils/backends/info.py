"""What an exported file says of the model inside: written as text by the exporters, read back without evaluating it."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from utils.core.errors import InputError
from utils.imaging.semantic_classes import SemanticClasses
from utils.tasks.registry import list_tasks

TRUE_WORDS = ("true", "1", "yes")
MAX_STRIDE, MAX_SIDE, MAX_CHANNELS, MAX_BATCH = 1024, 16384, 4096, 4096  # larger ones would only exhaust memory
MAX_CLASSES, MAX_NAME_LENGTH = 100_000, 1000


@dataclass(frozen=True)
class ModelInfo:
    """Description of an exported network.

    Attributes:
        stride: both sides of the input are multiples of it.
        names: class names by number; empty where the file stores none.
        task: name of a task.
        channels: channels of the input.
        imgsz: (height, width) it was exported at, or None where the file does not say.
        batch: images per run it was exported at, or None.
        dynamic: batch and sides may differ from `batch` and `imgsz`.
        nms: the output is that of NMS, (B, max_det, 6): x1, y1, x2, y2 in pixels of the input, score, class; unused
            rows are zero. Otherwise it is the decoded head output.
        normalized: boxes of the output are over width and height of the input (the TensorFlow formats).
        version: of this project, for the reader of the file.
        semantic: the classes of its semantic masks; None where it gives none, or stores none.
    """

    stride: int = 32
    names: dict[int, str] = field(default_factory=dict)
    task: str = "detect"
    channels: int = 3
    imgsz: tuple[int, int] | None = None
    batch: int | None = None
    dynamic: bool = False
    nms: bool = False
    normalized: bool = False
    version: str = ""
    semantic: SemanticClasses | None = None

    def to_strings(self) -> dict[str, str]:
        """Key and text pairs: `stride` and `names` as the original writes them, a number and the text of a dict."""
        return {key: str(value) for key, value in self.to_values().items()}

    def to_values(self) -> dict[str, Any]:
        """Plain values for formats that keep JSON or YAML; what is not known is left out."""
        values: dict[str, Any] = {
            "stride": self.stride,
            "names": dict(self.names),
            "task": self.task,
            "channels": self.channels,
            "imgsz": list(self.imgsz) if self.imgsz else None,
            "batch": self.batch,
            "dynamic": self.dynamic,
            "nms": self.nms,
            "normalized": self.normalized,
            "version": self.version,
            "semantic": None if self.semantic is None else self.semantic.to_dict(),
        }
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def from_values(cls, values: Mapping[str, Any], *, place: str) -> ModelInfo:
        """Read what `to_strings` or `to_values` of ours, or the original, wrote; keys of others are ignored.

        Text is parsed as a literal (number, string, list, dict) and never evaluated.

        Args:
            place: the file, for messages.

        Raises:
            InputError: a value is not of its kind, such as `names` that hold code.
        """
        reader = _Reader(values, place)
        imgsz, task = reader.sizes("imgsz"), str(values.get("task", "detect"))
        if task not in list_tasks():
            known = ", ".join(list_tasks())
            raise InputError(f"{place}: metadata task: {task[:60]!r} is none of {known}; export it again")
        return cls(
            stride=reader.number("stride", 32, most=MAX_STRIDE),
            names=reader.names(),
            task=task,
            channels=reader.number("channels", 3, most=MAX_CHANNELS),
            imgsz=imgsz,
            batch=reader.number("batch", 0, most=MAX_BATCH) or None,
            dynamic=reader.flag("dynamic"),
            nms=reader.flag("nms"),
            normalized=reader.flag("normalized"),
            version=str(values.get("version", ""))[:MAX_NAME_LENGTH],
            semantic=reader.classes("semantic"),
        )


class _Reader:
    """Typed look-ups in metadata of unknown origin."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self.values, self.place = values, place

    def number(self, key: str, default: int, *, most: int) -> int:
        """A whole number from 0 to `most`; the original stores strides as text of a float too."""
        value = self.values.get(key, default)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = -1.0
        if not (0 <= number <= most and number.is_integer()):
            raise self._error(key, value, f"a whole number up to {most}")
        return int(number)

    def flag(self, key: str) -> bool:
        """A truth value, as such or as a word."""
        return str(self.values.get(key, "")).strip().lower() in TRUE_WORDS

    def sizes(self, key: str) -> tuple[int, int] | None:
        """Height and width, or None where the key is missing."""
        value = self.literal(key)
        if value is None:
            return None
        pair = [value, value] if isinstance(value, int) else value
        listed = isinstance(pair, list | tuple) and len(pair) == 2
        if not listed or not all(type(v) is int and 0 < v <= MAX_SIDE for v in pair):
            raise self._error(key, value, f"height and width up to {MAX_SIDE}")
        return pair[0], pair[1]

    def names(self) -> dict[int, str]:
        """Class names by number, of a list or a mapping."""
        value = self.literal("names")
        if value is None:
            return {}
        if not isinstance(value, list | tuple | dict):
            raise self._error("names", value, "a list or mapping of class names")
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        try:
            names = {int(number): name for number, name in pairs}
        except (TypeError, ValueError, OverflowError) as error:
            raise self._error("names", value, "class names by number") from error
        for number, name in names.items():
            if not 0 <= number < MAX_CLASSES:
                raise self._error("names", number, f"a class number below {MAX_CLASSES}")
            if isinstance(name, list | tuple | dict | set) or len(str(name)) > MAX_NAME_LENGTH:
                raise self._error("names", name, f"a class name of up to {MAX_NAME_LENGTH} characters")
        return {number: str(name) for number, name in names.items()}

    def classes(self, key: str) -> SemanticClasses | None:
        """The classes of semantic masks, or None where the key is missing."""
        value = self.literal(key)
        if value is None:
            return None
        try:
            return SemanticClasses.from_dict(value)
        except (ValueError, OverflowError) as error:
            raise self._error(key, value, f"a description of semantic classes ({error})") from error

    def literal(self, key: str) -> Any:
        """The value itself; text as the JSON or Python literal it spells."""
        value = self.values.get(key)
        if not isinstance(value, str):
            return value
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(value)
            except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
                continue
        raise self._error(key, value, "plain data (it is not evaluated)")

    def _error(self, key: str, value: Any, expected: str) -> InputError:
        shown = " ".join(str(value).split())[:60]
        return InputError(f"{self.place}: metadata {key}: {shown!r} is not {expected}; export the file again")
