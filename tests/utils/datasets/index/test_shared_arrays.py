from __future__ import annotations

import copy
import io
import json
import multiprocessing
import pickle
from multiprocessing.connection import Connection

import numpy as np
import pytest

from utils.datasets.index.image_index import ImageIndex, PolygonTable, compute_offsets
from utils.datasets.index.shared_arrays import PathTable, SharedMemory, pack_arrays, unpack_arrays

ARRAYS = {"a": np.arange(7, dtype=np.int16), "none": np.zeros((0, 4), np.float32), "b": np.ones((3, 2))}
PATHS = ["a.jpg", "", "größer/ b.png", "not\udcff utf-8", "null\0"]


def test_arrays_are_shared_and_aligned() -> None:
    arrays = unpack_arrays(pack_arrays(ARRAYS))
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
        assert type(arrays[name]) is np.ndarray
    assert arrays["b"].ctypes.data % 64 == 0
    with pytest.raises(ValueError, match="read-only"):
        arrays["a"][0] = 1


@pytest.mark.parametrize(
    "header",
    [
        b"PK\x03\x04",
        b"[" * 100_000,
        b"[1]",
        b"{}",
        b'{"a": 1}',
        b'{"a": ["<i2"]}',
        *(
            json.dumps({"a": value}).encode()
            for value in (
                *(["|O", [1]], ["no type", [1]], [3, [1]], ["|S8", [1]], ["<i2,<i2", [1]], ["<i2", [9]], ["<i2", [7]]),
                *(["<i2", [-8]], ["<i2", [8.0]], ["<i2", "8"], ["<i2", [10**30]], ["<i2", [2**40, 2**40]]),
            )
        ),
    ],
)
def test_other_content_is_refused(header: bytes) -> None:
    valid = b'{"a": ["<i2", [8]]}'
    parts = (header + b"\n").ljust(len(valid) + 1, b" ")
    for content in (parts, parts.ljust(64, b"\0") + bytes(16)):
        with pytest.raises(ValueError):
            unpack_arrays(SharedMemory.copy(io.BytesIO(content)))
    whole = (valid + b"\n").ljust(64, b"\0") + bytes(16)
    assert unpack_arrays(SharedMemory.copy(io.BytesIO(whole)))["a"].shape == (8,)


def test_a_path_table_behaves_as_a_list() -> None:
    table = PathTable.from_paths(PATHS)
    assert list(table) == PATHS and table == PATHS and table != PATHS[:2] and PathTable.from_paths(table) is table
    assert table[-1] == PATHS[-1] and table[1:3] == PATHS[1:3] and table[::-2] == PATHS[::-2] and len(table) == 5
    for outside in (5, -6):
        with pytest.raises(IndexError):
            table[outside]
    assert table.take(np.array([2, 0, 2])) == [PATHS[2], PATHS[0], PATHS[2]]
    assert not PathTable.from_paths([]) and list(PathTable.from_paths([])) == []


def test_a_long_path_costs_only_itself() -> None:
    table = PathTable.from_paths(["x" * 100_000, *["a"] * 1000])
    assert table.text.nbytes + table.offsets.nbytes < 120_000


def make_index() -> ImageIndex:
    polygons = PolygonTable.from_lists([[np.zeros((3, 2), np.float32)]] * 300)
    index = ImageIndex(
        PathTable.from_paths([f"{i}.jpg" for i in range(100)]),
        np.ones((100, 2), np.int32),
        compute_offsets([3] * 100),
        np.zeros(300, np.int32),
        np.full((300, 4), 0.5, np.float32),
        {},
        polygons,
    )
    arrays = unpack_arrays(pack_arrays({"classes": index.classes, "boxes": index.boxes_xywhn, **vars(polygons)}))
    classes, boxes, *rest = arrays.values()
    return ImageIndex(index.paths, index.sizes_hw, index.offsets, classes, boxes, {}, PolygonTable(*rest))


def send_facts(index: ImageIndex, connection: Connection) -> None:
    shared = [isinstance(array.base, SharedMemory) for array in (index.boxes_xywhn, index.polygons.points)]  # type: ignore[union-attr]
    connection.send((shared, float(index.boxes_xywhn.sum()), index.paths[99]))


@pytest.mark.parametrize(
    "method", sorted({"fork", "spawn", "forkserver"} & set(multiprocessing.get_all_start_methods()))
)
def test_workers_refer_to_the_same_memory(method: str) -> None:
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_facts, args=(make_index(), sender))
    process.start()
    sender.close()
    assert receiver.recv() == ([True, True], 600.0, "99.jpg")
    process.join()
    assert process.exitcode == 0


def test_arrays_are_pickled_as_their_location() -> None:
    index = make_index()
    stream = io.BytesIO()
    pickle.dump(index, stream)
    assert len(stream.getvalue()) < 5000 < index.boxes_xywhn.nbytes + index.polygons.points.nbytes  # type: ignore[union-attr]
    stream.seek(0)
    for twin in (pickle.load(stream), copy.deepcopy(index)):
        assert twin.paths == index.paths
        assert isinstance(twin.boxes_xywhn.base, SharedMemory)
        np.testing.assert_array_equal(twin.boxes_xywhn, index.boxes_xywhn)
        assert twin.polygons.rings(299)[0].shape == (3, 2)
    part = pickle.loads(pickle.dumps(index.subset([4, 4])))
    assert part.paths == ["4.jpg", "4.jpg"]
