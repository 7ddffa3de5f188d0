from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch.multiprocessing as mp

from utils.config.hyp import Hyperparameters
from utils.datasets import cache as cache_module
from utils.datasets.cache import MemoryCache, build_cache, get_cache_path, get_free_memory
from utils.datasets.detection import DetectionDataset
from utils.datasets.index.image_index import ImageIndex, compute_offsets

SIZES = [(60, 80), (80, 60), (5, 40)]


def make_index(folder: Path) -> ImageIndex:
    rng = np.random.default_rng(0)
    paths = [str(folder / f"{n}.png") for n in range(len(SIZES))]
    for path, size in zip(paths, SIZES, strict=True):
        cv2.imwrite(path, rng.integers(0, 255, (*size, 3), dtype=np.uint8))
    none = np.zeros((0, 4), np.float32)
    return ImageIndex(paths, np.array(SIZES, np.int32), compute_offsets([0, 0, 0]), np.zeros(0, np.int32), none)


def load(i: int) -> np.ndarray:
    return np.full((2 + i, 3, 1), i, np.uint8)


def _write_and_report(cache: MemoryCache, queue: mp.Queue) -> None:
    queue.put(int(cache.get(1).sum()))
    cache.get(1)[:] = 77


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_memory_is_shared_with_workers(method: str) -> None:
    """A child sees what the parent filled in, and the parent sees what the child writes: there is one copy."""
    if method not in mp.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    cache = MemoryCache(np.array([[2, 3, 1], [3, 3, 1]]), load)
    context = mp.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_write_and_report, args=(cache, queue))
    child.start()
    assert queue.get(timeout=60) == 9
    child.join(60)
    assert (cache.get(1) == 77).all()
    assert (cache.get(0) == 0).all()


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("augment", [False, True])
def test_cached_samples_equal_the_others(tmp_path: Path, kind: str, augment: bool) -> None:
    index = make_index(tmp_path)
    settings = {"imgsz": 80, "hyp": Hyperparameters(), "augment": augment}
    plain = DetectionDataset(index, **settings)  # type: ignore[arg-type]
    cached = DetectionDataset(index, cache=kind, **settings)  # type: ignore[arg-type]
    assert cached.cache is not None
    assert cached.cache.get(2).shape == (10, 80, 3)
    for i in range(2):  # these have their load size already, so one resize or two is the same
        pool = (0, 1)
        np.testing.assert_array_equal(plain[0, i, pool].image, cached[0, i, pool].image)
    np.testing.assert_array_equal(cached.cache.get(0), cv2.imread(index.paths[0]))


def test_cache_is_not_changed_by_augmentation(tmp_path: Path) -> None:
    dataset = DetectionDataset(make_index(tmp_path), imgsz=80, hyp=Hyperparameters(), augment=True, cache="ram")
    assert dataset.cache is not None
    before = [dataset.cache.get(i).copy() for i in range(3)]
    for epoch in range(3):
        dataset[epoch, 0]
    for i in range(3):
        np.testing.assert_array_equal(dataset.cache.get(i), before[i])


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_too_large_falls_back(kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cache_module, "get_free_memory", lambda: 10)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with caplog.at_level("WARNING", logger="openyolov5"):
        assert build_cache(kind, ["a.png"], np.array([[4, 4]]), load, longest=4, channels=1) is None
    assert f"--cache {kind}: 1 images take" in caplog.text
    assert "not caching" in caplog.text


def test_unwritable_folder_falls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index = make_index(tmp_path)

    def refuse(file: Path, array: np.ndarray) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(cache_module, "write_array", refuse)
    with caplog.at_level("WARNING", logger="openyolov5"):
        dataset = DetectionDataset(index, imgsz=80, hyp=Hyperparameters(), augment=False, cache="disk")
    assert dataset.cache is None
    assert "Permission denied" in caplog.text
    assert dataset[0].image.shape == (80, 80, 3)


def test_changed_image_is_cached_again(tmp_path: Path) -> None:
    index = make_index(tmp_path)
    settings = {"imgsz": 80, "hyp": Hyperparameters(), "augment": False, "cache": "disk"}
    DetectionDataset(index, **settings)  # type: ignore[arg-type]
    file = get_cache_path(index.paths[0], 80)
    assert file.name == "0.png.80.cache"
    written = file.stat().st_mtime_ns
    DetectionDataset(index, **settings)  # type: ignore[arg-type]
    assert file.stat().st_mtime_ns == written
    cv2.imwrite(index.paths[0], np.full((60, 80, 3), 9, np.uint8))
    os.utime(index.paths[0], ns=(written + 10**9, written + 10**9))
    dataset = DetectionDataset(index, **settings)  # type: ignore[arg-type]
    assert dataset.cache is not None
    assert (dataset.cache.get(0) == 9).all()
    assert not list(tmp_path.glob("*.part"))


def damage(file: Path, kind: str) -> None:
    content = file.read_bytes()
    if kind == "pipe":
        file.unlink()
        os.mkfifo(file)
    else:
        changed = {
            "truncated": content[:-1],
            "empty": b"",
            "a zip": b"PK\3\4" + content,
            "another shape": content.replace(b"(60, 80, 3)", b"(80, 60, 3)"),
            "another type": content.replace(b"|u1", b"|b1"),
            "no header": content.replace(b"descr", b"(((((", 1),
        }
        file.write_bytes(changed[kind])
        os.utime(file, (2**31, 2**31))


@pytest.mark.parametrize("kind", ["truncated", "empty", "a zip", "another shape", "another type", "no header", "pipe"])
def test_damaged_cache_files_are_not_used(tmp_path: Path, kind: str) -> None:
    if kind == "pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes with names")
    index = make_index(tmp_path)
    settings = {"imgsz": 80, "hyp": Hyperparameters(), "augment": False, "cache": "disk"}
    dataset = DetectionDataset(index, **settings)  # type: ignore[arg-type]
    expected, file = cv2.imread(index.paths[0]), get_cache_path(index.paths[0], 80)
    damage(file, kind)
    assert dataset.cache is not None
    np.testing.assert_array_equal(dataset.cache.get(0), expected)
    DetectionDataset(index, **settings)  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.load(file), expected)


def test_no_cache() -> None:
    assert build_cache(None, ["a.png"], np.array([[4, 4]]), load, longest=4, channels=1) is None
    assert build_cache("ram", [], np.zeros((0, 2)), load, longest=4, channels=1) is None


def test_container_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    monkeypatch.setattr(cache_module, "CGROUP", tmp_path)
    assert get_free_memory() == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert get_free_memory() > 1000
