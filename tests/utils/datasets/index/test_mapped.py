from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from utils.datasets.index.cache import Findings, keep
from utils.datasets.index.image_index import ImageIndex, PolygonTable, offsets_of
from utils.datasets.index.mapped import MAGIC, TextTable, map_arrays, write_arrays

ARRAYS = {"a": np.arange(7, dtype=np.int16), "none": np.zeros((0, 4), np.float32), "b": np.ones((3, 2))}
TEXTS = ["a.jpg", "", "größer/ b.png", "not\udcff utf-8"]


def write(path: Path) -> Path:
    with open(path, "wb") as stream:
        write_arrays(stream, ARRAYS)
    return path


def test_arrays_come_back_mapped_and_aligned(tmp_path: Path) -> None:
    found = map_arrays(write(tmp_path / "x.cache"))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert type(found[name]) is np.ndarray
    assert found["b"].ctypes.data % 64 == 0
    with pytest.raises(ValueError, match="read-only"):
        found["a"][0] = 1


@pytest.mark.parametrize("damage", ["cut", "foreign", "objects", "length"])
def test_other_files_are_refused(tmp_path: Path, damage: str) -> None:
    file = write(tmp_path / "x.cache")
    content = file.read_bytes()
    changed = {
        "cut": content[:-1],
        "foreign": b"PK" + content,
        "objects": content.replace(b'"<i2"', b'"|O8"'),
        "length": MAGIC + b"\xff" * 8 + content,
    }
    file.write_bytes(changed[damage])
    with pytest.raises(ValueError, match=r"cache"):
        map_arrays(file)


def test_texts_behave_as_a_list() -> None:
    table = TextTable.of(TEXTS)
    assert list(table) == TEXTS and table == TEXTS and table != TEXTS[:2] and TextTable.of(table) is table
    assert table[-1] == TEXTS[-1] and table[1:3] == TEXTS[1:3] and len(table) == 4
    with pytest.raises(IndexError):
        table[4]
    assert table.take(np.array([2, 0, 2])) == [TEXTS[2], TEXTS[0], TEXTS[2]]
    assert TextTable.joined([table, TextTable.of([]), table]) == TEXTS * 2
    assert not TextTable.of([])


def test_an_index_of_a_cache_is_pickled_as_the_name_of_the_file(tmp_path: Path) -> None:
    boxes = np.full((300, 4), 0.5, np.float32)
    polygons = PolygonTable.from_lists([[np.zeros((3, 2), np.float32)]] * 300)
    sizes = np.ones((100, 2), np.int32)
    made = ImageIndex(
        [f"{i}.jpg" for i in range(100)], sizes, offsets_of([3] * 100), np.zeros(300, np.int32), boxes, {}, polygons
    )
    index, _ = keep(tmp_path / "x.cache", "key", (made, Findings()))
    stream = io.BytesIO()
    pickle.dump(index, stream)
    assert len(stream.getvalue()) < 3000 < boxes.nbytes
    stream.seek(0)
    copy = pickle.load(stream)
    assert copy.paths == made.paths
    np.testing.assert_array_equal(copy.boxes_xywhn, boxes)
    assert copy.polygons.rings(299)[0].shape == (3, 2)
    part = pickle.loads(pickle.dumps(index.subset([4, 4])))
    assert part.paths == ["4.jpg", "4.jpg"]
