from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from utils.datasets.index.cache import Findings, load_or_build
from utils.datasets.index.image_index import ImageIndex, PolygonTable, compute_offsets
from utils.datasets.index.shared_arrays import PathTable, map_arrays, write_arrays

ARRAYS = {"a": np.arange(7, dtype=np.int16), "none": np.zeros((0, 4), np.float32), "b": np.ones((3, 2))}
PATHS = ["a.jpg", "", "größer/ b.png", "not\udcff utf-8"]


def write(path: Path) -> Path:
    with open(path, "wb") as stream:
        write_arrays(stream, ARRAYS)
    return path


def test_arrays_are_mapped_and_aligned(tmp_path: Path) -> None:
    arrays = map_arrays(write(tmp_path / "x.cache"))
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
        assert type(arrays[name]) is np.ndarray
    assert arrays["b"].ctypes.data % 64 == 0
    with pytest.raises(ValueError, match="read-only"):
        arrays["a"][0] = 1


@pytest.mark.parametrize("damage", ["truncated", "array missing", "foreign", "objects", "header"])
def test_other_files_are_refused(tmp_path: Path, damage: str) -> None:
    file = write(tmp_path / "x.cache")
    content = file.read_bytes()
    changed = {
        "truncated": content[:-1],
        "array missing": content[: content.rindex(b"\x93NUMPY")],
        "foreign": b"PK" + content,
        "objects": content.replace(b"'<i2'", b"'|O8'"),
        "header": content[:8] + b"\xff\xff" + content[10:],
    }
    assert changed[damage] != content
    file.write_bytes(changed[damage])
    with pytest.raises(ValueError):
        map_arrays(file)


def test_a_path_table_behaves_as_a_list() -> None:
    table = PathTable.from_paths(PATHS)
    assert list(table) == PATHS and table == PATHS and table != PATHS[:2] and PathTable.from_paths(table) is table
    assert table[-1] == PATHS[-1] and table[1:3] == PATHS[1:3] and len(table) == 4
    with pytest.raises(IndexError):
        table[4]
    assert table.take(np.array([2, 0, 2])) == [PATHS[2], PATHS[0], PATHS[2]]
    assert not PathTable.from_paths([])


def test_a_cached_index_is_pickled_as_locations_in_the_file(tmp_path: Path) -> None:
    boxes = np.full((300, 4), 0.5, np.float32)
    polygons = PolygonTable.from_lists([[np.zeros((3, 2), np.float32)]] * 300)
    sizes = np.ones((100, 2), np.int32)
    original = ImageIndex(
        [f"{i}.jpg" for i in range(100)],
        sizes,
        compute_offsets([3] * 100),
        np.zeros(300, np.int32),
        boxes,
        {},
        polygons,
    )
    index, _ = load_or_build(tmp_path / "x.cache", "key", lambda: (original, Findings()))
    stream = io.BytesIO()
    pickle.dump(index, stream)
    assert len(stream.getvalue()) < 3000 < boxes.nbytes
    stream.seek(0)
    copy = pickle.load(stream)
    assert copy.paths == original.paths
    np.testing.assert_array_equal(copy.boxes_xywhn, boxes)
    assert copy.polygons.rings(299)[0].shape == (3, 2)
    part = pickle.loads(pickle.dumps(index.subset([4, 4])))
    assert part.paths == ["4.jpg", "4.jpg"]
