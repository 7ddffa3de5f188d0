"""Loaders for inference at `utils.dataloaders` and `utils.datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from loopback import serve_folder

from utils import dataloaders, datasets
from utils.core.errors import InputError
from utils.dataloaders import LoadImages, LoadStreams, LoadWebcam, sources
from utils.datasets.sources.frames import SourceFrame
from utils.datasets.sources.streams import StreamSource

LEVELS = (0, 60, 120, 180, 240)  # gray level of each frame of the videos


def write_video(path: Path, size_wh: tuple[int, int] = (64, 48)) -> Path:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, size_wh)
    for level in LEVELS:
        video.write(np.full((*size_wh[::-1], 3), level, np.uint8))
    video.release()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A video whose name comes before that of the two images."""
    write_video(tmp_path / "a.avi")
    cv2.imwrite(str(tmp_path / "b.png"), np.full((40, 80, 3), (255, 0, 0), np.uint8))
    cv2.imwrite(str(tmp_path / "c.png"), np.zeros((80, 40, 3), np.uint8))
    return tmp_path


def get_level(im0: np.ndarray) -> int:
    """The level in LEVELS of a decoded frame."""
    return min(LEVELS, key=lambda level: abs(level - float(im0.mean())))


def test_formats() -> None:
    assert {"jpg", "png", "webp"} <= set(dataloaders.IMG_FORMATS)
    assert {"mp4", "avi"} <= set(dataloaders.VID_FORMATS)
    assert datasets.img_formats == list(dataloaders.IMG_FORMATS)
    assert datasets.vid_formats == list(dataloaders.VID_FORMATS)


# -- LoadImages -------------------------------------------------------------------------------------------------------


def test_load_images_puts_videos_last(folder: Path) -> None:
    dataset = LoadImages(str(folder), img_size=64)
    assert [Path(file).name for file in dataset.files] == ["b.png", "c.png", "a.avi"]
    assert (len(dataset), dataset.nf, dataset.video_flag) == (3, 3, [False, False, True])
    assert (dataset.mode, dataset.frame, dataset.frames) == ("image", 0, 5)  # those of the first video
    assert dataset.cap is not None and dataset.cap.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    path, im, im0, cap, s = next(dataset)
    assert (Path(path).name, im.shape, im0.shape, cap) == ("b.png", (3, 32, 64), (40, 80, 3), None)
    assert im[:, 16, 32].tolist() == [0, 0, 255]  # blue in RGB
    assert im.dtype == np.uint8 and im.flags.c_contiguous
    assert s == f"image 1/3 {path}: "
    assert dataset.count == 1
    assert len(list(dataset)) == 7  # from the first file again
    with pytest.raises(StopIteration):
        next(dataset)


def test_load_images_gives_absolute_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for value in ("b.png", "./b.png", ["b.png"], "b.*"):
        dataset = LoadImages(value, img_size=64)
        assert dataset.files == [str(folder.resolve() / "b.png")]
        assert next(dataset)[0] == dataset.files[0]


def test_load_images_video_attributes(folder: Path) -> None:
    dataset = LoadImages([folder / "c.png", str(folder / "a.avi")], img_size=(32, 64), vid_stride=2)
    seen = []
    for _, im, im0, cap, s in dataset:
        seen.append((dataset.mode, dataset.count, dataset.frame, dataset.frames, get_level(im0)))
        if dataset.mode == "image":
            assert cap is None
            continue
        assert cap is dataset.cap and cap.isOpened()
        assert [cap.get(prop) for prop in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_COUNT)] == [
            10,
            64,
            5,
        ]
        assert im.shape == (3, 32, 64)
        assert s == f"video 2/2 ({dataset.frame}/2) {folder / 'a.avi'}: "
    assert seen == [("image", 1, 0, 2, 0), ("video", 1, 1, 2, 60), ("video", 1, 2, 2, 180)]


def test_load_images_stops_a_video_that_is_released(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_video(folder / "d.avi")
    names = []
    for path, _, _, cap, _ in LoadImages(str(folder / "*.avi")):
        names.append(Path(path).name)
        if names == ["a.avi", "a.avi"]:
            cap.release()
    assert names == ["a.avi"] * 2 + ["d.avi"] * 5
    assert "truncated" not in caplog.text


def test_load_images_seeks(folder: Path) -> None:
    dataset = LoadImages(str(folder / "a.avi"))
    _, _, _, cap, _ = next(dataset)
    cap.set(cv2.CAP_PROP_POS_FRAMES, 4)
    assert [get_level(im0) for _, _, im0, _, _ in [next(dataset)]] == [240]


def test_load_images_downloads_again(folder: Path, allow_private_urls: None) -> None:
    with serve_folder(folder / "served") as (served, address):
        (folder / "b.png").rename(served / "b.png")
        dataset = LoadImages(f"{address}/b.png", img_size=64)
        for _ in range(2):
            ((_, im, _, _, s),) = list(dataset)
            assert im.shape == (3, 32, 64)
            assert s == f"image 1/1 {address}/b.png: "


def test_load_images_transforms_and_errors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformed = LoadImages(str(folder / "b.png"), transforms=lambda im0: im0.shape)
    assert next(iter(transformed))[1] == (40, 80, 3)
    with pytest.raises(InputError, match="nowhere"):
        LoadImages(str(folder / "nowhere.png"))
    monkeypatch.setattr(sources, "open_source", lambda *_: SimpleNamespace(close=lambda: None))
    with pytest.raises(InputError, match="use LoadStreams for streams"):
        LoadImages("rtsp://somewhere")


# -- LoadStreams ------------------------------------------------------------------------------------------------------


@pytest.fixture
def mock_streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Two mock streams: the second starts late, then the first has no new frame. Yields a list of `close` calls."""

    def frame(name: str, level: int) -> SourceFrame:
        return SourceFrame(name, np.full((48, 64, 3), level, np.uint8), name, 1)

    source = StreamSource.__new__(StreamSource)
    closed: list[bool] = []
    batches = [[frame("one", 10)], [frame("one", 20), frame("two", 30)], [frame("two", 40)]]
    monkeypatch.setattr(StreamSource, "batches", lambda self, channels=3: iter(batches))
    monkeypatch.setattr(StreamSource, "close", lambda self: closed.append(True))
    streams = [SimpleNamespace(name=name, fps=30.0, total_frames=float("inf"), thread=None) for name in ("one", "two")]
    source.streams = streams  # type: ignore[assignment]
    monkeypatch.setattr(sources, "open_streams", lambda *_: source)
    yield closed


def test_load_streams(mock_streams: list[bool]) -> None:
    streams: Any = LoadStreams("list.streams", img_size=64)
    assert (len(streams), streams.count, streams.mode, streams.rect) == (2, -1, "stream", True)
    assert (streams.fps, streams.frames) == ([30, 30], [float("inf")] * 2)
    assert [int(im0.max()) for im0 in streams.imgs] == [10, 0]
    levels = []
    for names, im, im0s, cap, s in streams:
        assert (names, im.shape, cap, s) == (["one", "two"], (2, 3, 64, 64), None, "")
        levels.append([int(im0[0, 0, 0]) for im0 in im0s])
        assert streams.count == len(levels) - 1
    assert levels == [[10, 0], [20, 30], [20, 40]]
    assert mock_streams == [True]


@pytest.mark.parametrize("name", ["list.txt", "list.streams", "list"])
def test_load_streams_reads_video_files(tmp_path: Path, name: str) -> None:
    """Two videos of different shapes, named in a list, one relative to the list."""
    write_video(tmp_path / "a.avi")
    write_video(tmp_path / "b.avi", (32, 64))
    (tmp_path / name).write_text(f"{tmp_path / 'a.avi'}\nb.avi\n")
    streams = LoadStreams(str(tmp_path / name), img_size=64)
    assert streams.sources == ["a.avi", "b.avi"]
    assert (streams.fps, streams.frames) == ([10, 10], [5, 5])
    assert (streams.rect, streams.auto) == (False, False)
    assert all(thread.name.startswith("reader of ") for thread in streams.threads)
    last = [0, 0]
    for _, im, im0s, _, _ in streams:
        assert im.shape == (2, 3, 64, 64)
        assert [im0.shape for im0 in im0s] == [(48, 64, 3), (64, 32, 3)]
        last = [get_level(im0) for im0 in im0s]
    assert last == [240, 240]
    assert not any(thread.is_alive() for thread in streams.threads)


def test_update_reads_a_capture(mock_streams: list[bool], tmp_path: Path) -> None:
    streams = LoadStreams("0", vid_stride=2)
    streams.update(1, cv2.VideoCapture(str(write_video(tmp_path / "a.avi"))), "own")
    assert [get_level(im0) for im0 in streams.imgs] == [0, 180]  # the fourth of five frames


def test_load_streams_errors(tmp_path: Path) -> None:
    (tmp_path / "bad.avi").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"bad\.avi: damaged, or not a video"):
        LoadStreams([str(tmp_path / "bad.avi")])
    with pytest.raises(InputError, match=r"a\.jpg: neither a webcam number, nor a stream address, nor a video file"):
        LoadStreams("a.jpg")
    (tmp_path / "none.streams").write_text("# none\n")
    with pytest.raises(InputError, match=r"none\.streams: contains no streams"):
        LoadStreams(str(tmp_path / "none.streams"))


def test_load_webcam(tmp_path: Path) -> None:
    """A video file in the place of a camera."""
    camera = LoadWebcam(str(write_video(tmp_path / "a.avi")), img_size=32)
    items = list(camera)
    assert [(item[0], item[1].shape, item[3]) for item in items] == [("a.avi.jpg", (3, 32, 32), None)] * len(items)
    assert get_level(items[-1][2]) == 240
    assert camera.count == len(items) - 1
    assert len(camera) == 0


# -- items of older releases ------------------------------------------------------------------------------------------


def test_items_of_utils_datasets_unpack_into_four_and_five(folder: Path) -> None:
    four = [path for path, im, im0, vid_cap in datasets.LoadImages(str(folder), img_size=64)]
    five = [path for path, im, im0, vid_cap, s in datasets.LoadImages(str(folder), img_size=64, stride=32, auto=True)]
    assert four == five and len(four) == 7
    for i, (path, img, im0s, vid_cap) in enumerate(datasets.LoadImages(str(folder))):
        assert (path, img.shape[0], im0s.shape[2]) == (four[i], 3, 3)
        assert (vid_cap is None) == (i < 2)
    item = next(datasets.LoadImages(str(folder)))
    assert len(item) == 5 and item[0] == four[0] and item[4].startswith("image 1/3")
    assert len(list(item)) == 5
    with pytest.raises(ValueError, match="unpack"):
        _, _, _ = item


def test_mode_of_older_releases(folder: Path) -> None:
    dataset = datasets.LoadImages(str(folder))
    assert dataset.nframes == 5
    modes = []
    for _ in dataset:
        assert not (dataset.mode == "images" and dataset.mode != "images")
        modes.append((dataset.mode == "images", dataset.mode == "image", dataset.mode == "video", str(dataset.mode)))
    assert modes == [(True, True, False, "image")] * 2 + [(False, False, True, "video")] * 5


def test_streams_of_utils_datasets_unpack_into_four_and_five(mock_streams: list[bool]) -> None:
    dataset = datasets.LoadStreams("0", img_size=64, stride=32)
    lengths = []
    path, img, im0s, vid_cap = next(dataset)
    lengths.append((len(path), img.shape[0], len(im0s), vid_cap))
    path, img, im0s, vid_cap, s = next(dataset)
    assert s == ""
    assert lengths == [(2, 2, 2, None)]


def test_webcam_of_utils_datasets(mock_streams: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = sources.open_streams("0")
    source.streams = source.streams[:1]
    monkeypatch.setattr(StreamSource, "batches", lambda self, channels=3: iter([[FRAME]]))
    for path, img, im0, vid_cap in datasets.LoadWebcam("0", img_size=32):
        assert (path, img.shape, im0.shape, vid_cap) == ("one.jpg", (3, 32, 32), (48, 64, 3), None)


FRAME = SourceFrame("one", np.zeros((48, 64, 3), np.uint8), "one", 1)
