"""Safe checkpoint reader: runs no code from the file, within bounds of time and memory.

A checkpoint is a pickle and the bytes of tensors (`models.checkpoint_files`). `models.pickle_reader` reads the pickle:
the classes that the caller names become a `Record` of the object's state, a numpy scalar a Python number, a path a
string (`models.pickled_values`). No constructor, method or hook of a named class runs. The classes of a package that
contains a copy of YOLOv5, as the pip package `yolov5` does (`yolov5.models.yolo.Detect`), are found by the end of their
address.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from models.checkpoint_files import PICKLE, SPARE_BYTES, STREAM_START, StreamCheckpoint, ZipCheckpoint
from models.pickle_reader import RefusedGlobalError
from models.pickled_values import MAX_ITEMS, ArrayRecord, NamespaceRecord, Record
from utils.core.errors import InputError
from utils.core.limits import check_limit

MAX_DEPTH = 100
MAX_NAMES, MAX_NAME = 10, 80  # of unknown globals in messages, and characters of each
MAX_START = 200  # bytes from which a file that is no checkpoint is recognized
LAYER = re.compile(r"(.*\.)?(models|utils|nets|layers|modules|nn|timm|__main__)(\..*)?\.[A-Z]\w*")
LFS_POINTER = b"version https://git-lfs"
SOURCES = "train.py or by any release of YOLOv5"


class _PlainConverter:
    """Replaces array stand-ins in nested containers and records by numpy arrays, each value once.

    Afterwards the content can be walked recursively: it does not contain itself, and its depth and size, with shared
    values repeated, are bounded.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._array_bytes = 0
        self._results: dict[int, tuple[Any, Any, int]] = {}  # by id: value (so that the id stays unique), result, size
        self._open: set[int] = set()

    def convert(self, value: Any) -> Any:
        """The value with arrays in place of stand-ins."""
        return self._convert(value)[0]

    def _convert(self, value: Any) -> tuple[Any, int]:
        """The converted value, and the number of values in it."""
        if not isinstance(value, ArrayRecord | Record | dict | list | tuple | set):
            return value, 1
        key = id(value)
        if key in self._open or len(self._open) >= MAX_DEPTH:
            raise ValueError("a value that contains itself, or nested too deep")
        if key not in self._results:
            self._open.add(key)
            result, size = self._convert_children(value)
            self._open.remove(key)
            check_limit(self._path, "values", size, MAX_ITEMS)
            self._results[key] = (value, result, size)
        return self._results[key][1:]

    def _convert_children(self, value: Any) -> tuple[Any, int]:
        if isinstance(value, ArrayRecord):
            self._array_bytes += len(value.content)
            check_limit(self._path, "bytes of arrays", self._array_bytes, SPARE_BYTES)
            array = value.to_array()
            return array, 1 + array.size
        if isinstance(value, Record):
            value.state, size = self._convert(value.state)
            return (value.state if isinstance(value, NamespaceRecord) else value), 1 + size
        if isinstance(value, dict):
            pairs = {key: self._convert(item) for key, item in value.items()}
            return {key: item for key, (item, _) in pairs.items()}, 1 + sum(size for _, size in pairs.values())
        items = [self._convert(item) for item in value]
        return type(value)(item for item, _ in items), 1 + sum(size for _, size in items)


def read_checkpoint(path: str | Path, addresses: Iterable[str] = ()) -> Any:
    """Read a .pt file, with tensors on the CPU.

    Args:
        addresses: allowed classes, such as "models.common.Conv"; their objects are returned as `Record`.

    Raises:
        InputError: no such file, not a checkpoint, damaged, over a limit, or it contains a global that is not allowed.
    """
    path = Path(path)
    is_stream = _check_start(path)
    try:
        if is_stream:
            with path.open("rb") as file:
                content = StreamCheckpoint(file, path).read(addresses)
        else:
            with zipfile.ZipFile(path) as archive:
                _check_members(archive, path)
                content = ZipCheckpoint(archive, path).read(addresses)
        return _PlainConverter(path).convert(content)
    except InputError:
        raise
    except RefusedGlobalError as error:
        raise InputError(f"{path}: {_explain_refusal(error.names)}") from error
    except Exception as error:  # untrusted bytes drive zipfile and the reader: any exception may come out of them
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        raise InputError(f"{path}: damaged checkpoint ({reason}); copy or download it again") from error


def _explain_refusal(names: Sequence[str]) -> str:
    """Why a file with these classes and functions is refused, and what to do."""
    if any(name.startswith("ultralytics.") for name in names):
        return (
            "saved by the ultralytics package (YOLOv8 or later), whose networks are not those of YOLOv5; use that "
            f"package for it, or a checkpoint written by {SOURCES}"
        )
    if all(LAYER.fullmatch(name) for name in names):
        layers = _format_names([name.rpartition(".")[2] for name in names])
        return (
            f"custom layers {layers}: not part of YOLOv5, so the file alone does not say what they compute; export the "
            "model to ONNX with the code that trained it, or add them to models/common.py and the table in official.py"
        )
    return (
        f"refused, none of its code was run: it contains {_format_names(names)}, which no YOLOv5 checkpoint needs; "
        f"use a checkpoint written by {SOURCES}"
    )


def _format_names(names: Sequence[str]) -> str:
    shown = [name if name.isprintable() else repr(name) for name in sorted(set(names))]
    rest = f" and {len(shown) - MAX_NAMES} more" if len(shown) > MAX_NAMES else ""
    return ", ".join(name[:MAX_NAME] for name in shown[:MAX_NAMES]) + rest


def _check_start(path: Path) -> bool:
    """Whether the file is a stream of PyTorch up to 1.5; InputError unless it is that or a zip archive."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the path of a .pt checkpoint")
    with path.open("rb") as file:
        start = file.read(MAX_START)
    if not start:
        raise InputError(f"{path}: the file is empty; copy or download it again")
    if start.startswith(STREAM_START):
        return True
    if start.startswith(LFS_POINTER):
        raise InputError(f"{path}: a Git LFS pointer, not the checkpoint itself; run git lfs pull in its repository")
    if start.lstrip()[:1] == b"<":
        raise InputError(f"{path}: a web page, not a checkpoint; download the file itself, not the page that shows it")
    if start[:1] == b"\x80":
        raise InputError(f"{path}: a pickle that torch.save did not write; use a .pt file written by {SOURCES}")
    if start[:4] != b"PK\x03\x04":
        raise InputError(f"{path}: not a PyTorch checkpoint; use a .pt file written by {SOURCES}")
    return False


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise InputError unless a zip archive was written by torch.save."""
    names = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names:
        raise InputError(f"{path}: a TorchScript file, not a checkpoint; use the .pt file that it was exported from")
    if PICKLE not in names:
        raise InputError(f"{path}: a zip archive, but not a PyTorch checkpoint; use a .pt file written by {SOURCES}")
