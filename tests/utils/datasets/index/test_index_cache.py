"""Index caches: what is stored comes back, and nothing else is believed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.config.base import ROOT
from utils.datasets.index import cache
from utils.datasets.index.cache import Findings, load_cache, load_or_build, save_cache
from utils.datasets.index.image_index import ImageIndex, PolygonTable, compute_offsets
from utils.datasets.index.shared_arrays import PathTable, pack_arrays

FINDINGS = Findings(images=3, dropped=1, messages=["a\udcff.png: damaged"])
KEY = "00ff"


def make_index() -> ImageIndex:
    rings = [np.linspace(0, 1, 2 * n, dtype=np.float32).reshape(-1, 2) for n in (3, 4, 5)]
    return ImageIndex(
        PathTable.from_paths(["images/a.png", "größer.png", "c\udcff.png"]),
        np.array([[24, 32], [48, 64], [10, 10]], np.int32),
        compute_offsets([1, 0, 1]),
        np.array([4, 0], np.int32),
        np.linspace(0.1, 0.9, 8, dtype=np.float32).reshape(2, 4),
        polygons=PolygonTable.from_lists([rings[:2], rings[2:]]),
        pixels=np.arange(6).reshape(3, 2),
    )


def flatten(index: ImageIndex) -> list[Any]:
    arrays = [index.sizes_hw, index.offsets, index.classes, index.boxes_xywhn, index.pixels]
    return [list(index.paths), *(array.tolist() for array in (*arrays, *vars(index.polygons).values()))]  # type: ignore[union-attr]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_cache(tmp_path / "x.cache", KEY, make_index(), FINDINGS)
    return tmp_path / "x.cache"


def test_what_is_saved_comes_back(file: Path) -> None:
    loaded = load_cache(file, KEY)
    assert loaded is not None
    assert flatten(loaded[0]) == flatten(make_index()) and loaded[1] == FINDINGS
    plain = replace(make_index(), polygons=None, pixels=None)
    assert save_cache(file, KEY, plain, Findings())[0].polygons is None
    loaded = load_cache(file, KEY)
    assert loaded is not None and loaded[0].polygons is None and loaded[0].pixels is None
    assert load_cache(file, "another key") is None


def test_no_changed_byte_is_accepted(file: Path) -> None:
    content = file.read_bytes()
    for position in range(len(content)):
        file.write_bytes(
            content[:position] + bytes([content[position] ^ (1 + position % 255)]) + content[position + 1 :]
        )
        assert load_cache(file, KEY) is None, position
    for changed in (content[:-1], content + b"\0", content[:100], b"", content[: content.index(b"\n") + 1]):
        file.write_bytes(changed)
        assert load_cache(file, KEY) is None


def set_item(name: str, index: Any, value: Any) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name][index] = value

    return change


def set_findings(**values: Any) -> Callable[[dict[str, np.ndarray]], None]:
    text = json.dumps({**asdict(FINDINGS), **values}).encode()
    return lambda arrays: arrays.update(findings=np.frombuffer(text, np.uint8))


CHANGES: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    **{f"{name} missing": lambda arrays, name=name: arrays.pop(name) for name in ("findings", "path_text", "offsets")},  # type: ignore[misc]
    "part of the polygons missing": lambda arrays: arrays.pop("ring_offsets"),
    "points missing": lambda arrays: arrays.pop("points"),
    "unknown array": lambda arrays: arrays.update(names=np.zeros(3)),
    "other type": lambda arrays: arrays.update(classes=arrays["classes"].astype(np.int64)),
    "other shape": lambda arrays: arrays.update(boxes_xywhn=arrays["boxes_xywhn"].reshape(4, 2)),
    "no axis": lambda arrays: arrays.update(sizes_hw=np.array(3, np.int32)),
    "fewer boxes": lambda arrays: arrays.update(boxes_xywhn=arrays["boxes_xywhn"][:1]),
    "fewer sizes": lambda arrays: arrays.update(sizes_hw=arrays["sizes_hw"][:2]),
    "offset out of range": set_item("offsets", -1, 3),
    "negative offset": set_item("offsets", 1, -1),
    "descending offsets": set_item("path_offsets", 1, 10**6),
    "polygon offsets": set_item("ring_offsets", 1, 13),
    "object offsets": set_item("object_offsets", -1, 9),
    "negative size": set_item("sizes_hw", 0, -4),
    "negative class": set_item("classes", 0, -1),
    "box not finite": set_item("boxes_xywhn", 0, np.nan),
    "point not finite": set_item("points", 0, np.inf),
    "negative pixels": set_item("pixels", 0, -1),
    "count as text": set_findings(images="3"),
    "negative count": set_findings(corrupt=-1),
    "message not text": set_findings(messages=[1]),
    "messages as text": set_findings(messages="ab"),
    "unknown finding": set_findings(other=1),
    "findings not JSON": lambda arrays: arrays.update(findings=np.frombuffer(b"[" * 10**5, np.uint8)),
}


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in CHANGES.items()])
def test_a_cache_that_contradicts_itself_is_refused(
    change: Callable[[dict[str, np.ndarray]], object], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checksum is valid, so it was written on purpose."""

    def write(arrays: dict[str, np.ndarray]) -> None:
        memory = pack_arrays(arrays)
        file.write_bytes(f"{KEY} {zlib.crc32(memory):08x}\n".encode() + memory[:])

    packed: dict[str, np.ndarray] = {}
    monkeypatch.setattr(cache, "pack_arrays", lambda arrays: packed.update(arrays) or pack_arrays(arrays))
    save_cache(file, KEY, make_index(), FINDINGS)
    write(packed)
    assert load_cache(file, KEY) is not None
    change(packed)
    write(packed)
    assert load_cache(file, KEY) is None


def test_the_index_does_not_depend_on_the_file(tmp_path: Path) -> None:
    """In a process of its own: it ended with SIGBUS when the cache was mapped."""
    code = (
        "import os, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from utils.datasets.index.cache import Findings, load_or_build\n"
        "from utils.datasets.index.image_index import ImageIndex\n"
        "n = 20_000\n"
        "index = ImageIndex([f'images/{i}.png' for i in range(n)], np.ones((n, 2), np.int32), np.arange(n + 1),\n"
        "    np.zeros(n, np.int32), np.full((n, 4), 0.5, np.float32))\n"
        "for _ in range(2):\n"
        "    index, _ = load_or_build(Path(sys.argv[1]), 'key', lambda: (index, Findings()))\n"
        "    os.truncate(sys.argv[1], 100)\n"
        "    print(index.boxes_xywhn.sum(), index.paths[n - 1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.cache")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "40000.0 images/19999.png\n" * 2), done.stderr


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    precious, link = tmp_path / "precious.txt", tmp_path / "set" / "x.cache"
    precious.write_text("mine")
    link.parent.mkdir()
    link.symlink_to(precious)
    load_or_build(link, KEY, lambda: (make_index(), FINDINGS))
    assert precious.read_text() == "mine"
    assert not link.is_symlink() and load_cache(link, KEY) is not None


def test_a_pipe_or_folder_in_its_place_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "pipe.cache")
    (tmp_path / "folder.cache").mkdir()
    for name in ("pipe.cache", "folder.cache"):
        index, findings = load_or_build(tmp_path / name, KEY, lambda: (make_index(), FINDINGS))
        assert flatten(index) == flatten(make_index()) and findings == FINDINGS
    assert load_cache(tmp_path / "pipe.cache", KEY) is not None  # replaced
    assert f"{tmp_path / 'folder.cache'}: cannot be written" in caplog.text
