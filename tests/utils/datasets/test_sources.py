"""Sources of detect.py: what is found, in which order, and what happens to files that cannot be read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.datasets.image_io import imwrite
from utils.datasets.sources import MediaSource, find_media, open_source
from utils.errors import InputError


def picture(path: Path, value: int = 0, size_hw: tuple[int, int] = (6, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    imwrite(path, np.full((*size_hw, 3), value, np.uint8))
    return path


def video(path: Path, frames: int, fps: float = 10.0) -> Path:
    """A clip whose frame k (from 0) has the grey value 20 k."""
    codec = cv2.VideoWriter_fourcc(*("mp4v" if path.suffix == ".mp4" else "MJPG"))
    writer = cv2.VideoWriter(str(path), codec, fps, (64, 48))
    for k in range(frames):
        writer.write(np.full((48, 64, 3), 20 * k, np.uint8))
    writer.release()
    return path


def test_a_folder_gives_its_media_sorted_without_subfolders(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "inner/c.jpg"):
        picture(tmp_path / name)
    (tmp_path / "notes.md").write_text("no picture")
    assert [Path(p).name for p in find_media(str(tmp_path))] == ["a.jpg", "b.PNG"]


def test_a_glob_can_walk_subfolders(tmp_path: Path) -> None:
    for name in ("x/b.png", "y/a.png", "y/a.jpg"):
        picture(tmp_path / name)
    found = find_media(str(tmp_path / "**" / "*.png"))
    assert [Path(p).relative_to(tmp_path).as_posix() for p in found] == ["x/b.png", "y/a.png"]


def test_a_file_with_brackets_in_its_name_is_no_glob(tmp_path: Path) -> None:
    path = picture(tmp_path / "shot[1].png")
    assert find_media(str(path)) == [str(path)]


def test_a_list_is_relative_to_itself_or_else_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, elsewhere = picture(tmp_path / "lists/a.png"), picture(tmp_path / "run/b.png")
    listing = tmp_path / "lists" / "media.txt"
    listing.write_text("# pictures\na.png\n\nb.png\nmissing.png\n", encoding="utf-8")
    monkeypatch.chdir(elsewhere.parent)
    assert find_media(str(listing)) == [str(beside), "b.png", "missing.png"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("0", "webcams", id="webcam"),
        pytest.param("screen 0 10 10 200 100", "screen capture", id="screen"),
        pytest.param("rtsp://camera/1", "streams and URLs", id="stream"),
        pytest.param("https://youtu.be/abc", "streams and URLs", id="youtube-url"),
        pytest.param("youtu.be/abc", "YouTube", id="youtube"),
        pytest.param("cameras.streams", "stream lists", id="stream-list"),
        pytest.param("nowhere/*.jpg", "the glob has no pictures or videos", id="empty-glob"),
        pytest.param(" ", "--source is empty; give a file", id="empty"),
        pytest.param("nowhere.jpg", "--source nowhere.jpg: there is no such file or folder", id="missing"),
    ],
)
def test_sources_that_give_nothing_say_why(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_media(source)


def test_an_empty_folder_a_strange_file_and_an_empty_list_say_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the folder has no pictures or videos; pictures: bmp .*videos: asf"):
        find_media(str(tmp_path))
    (tmp_path / "model.xyz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"model\.xyz: \.xyz is no format known here"):
        find_media(str(tmp_path / "model.xyz"))
    (tmp_path / "list.txt").write_text("\n# nothing\n")
    with pytest.raises(InputError, match="names no pictures or videos"):
        find_media(str(tmp_path / "list.txt"))


def test_a_wrong_line_of_a_list_is_named(tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("a.png\nrtsp://camera/1\n")
    with pytest.raises(InputError, match=r"list\.txt:2: rtsp://camera/1: streams and URLs cannot be read yet"):
        find_media(str(listing))
    listing.write_text("notes.md\n")
    with pytest.raises(InputError, match=r"list\.txt:1: notes\.md: neither a picture nor a video"):
        find_media(str(listing))


def test_damaged_and_missing_pictures_are_passed_over(tmp_path: Path) -> None:
    good = picture(tmp_path / "ünïcode 图.png", 7)
    broken, empty, missing = tmp_path / "broken.png", tmp_path / "empty.jpg", tmp_path / "missing.jpg"
    broken.write_bytes(good.read_bytes()[:40])
    empty.write_bytes(b"")
    source = MediaSource([str(p) for p in (broken, good, empty, missing)])
    frames = list(source)
    assert [(f.path, f.heading, f.number) for f in frames] == [(str(good), f"image 2/4 {good}", None)]
    assert frames[0].frame.shape == (6, 8, 3)
    assert [str(Path(p.split(": ")[0]).name) for p in source.problems] == ["broken.png", "empty.jpg", "missing.jpg"]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi"])
def test_video_frames_carry_number_and_speed(tmp_path: Path, name: str) -> None:
    path = video(tmp_path / name, 7)
    source = open_source(str(path))
    frames = list(source)
    assert [f.number for f in frames] == [1, 2, 3, 4, 5, 6, 7]
    assert [round(float(f.frame.mean()) / 20) for f in frames] == [0, 1, 2, 3, 4, 5, 6]
    assert frames[2].heading == f"video 1/1 (3/7) {path}"
    assert frames[0].fps == pytest.approx(10.0)
    assert not source.problems


def test_stride_takes_every_nth_frame_and_keeps_the_playing_time(tmp_path: Path) -> None:
    frames = list(open_source(str(video(tmp_path / "clip.avi", 7)), vid_stride=3))
    assert [(f.number, round(float(f.frame.mean()) / 20)) for f in frames] == [(1, 0), (4, 3), (7, 6)]
    assert frames[0].fps == pytest.approx(10 / 3)


def test_a_video_that_breaks_off_gives_what_it_has_and_is_named(tmp_path: Path) -> None:
    whole = video(tmp_path / "clip.mkv", 12).read_bytes()
    junk, cut = tmp_path / "junk.mp4", tmp_path / "cut.mkv"
    junk.write_bytes(b"no video at all")
    cut.write_bytes(whole[: len(whole) // 2])
    source = MediaSource([str(junk), str(cut)])
    numbers = [f.number for f in source]
    assert 1 <= len(numbers) < 11
    assert len(source.problems) == 2
    assert "junk.mp4: damaged, or not a video" in source.problems[0]
    assert f"cut.mkv: breaks off after frame {numbers[-1]} of 12" in source.problems[1]


def test_gray_networks_get_one_channel_from_pictures_and_videos(tmp_path: Path) -> None:
    files = [str(picture(tmp_path / "a.png")), str(video(tmp_path / "clip.avi", 1))]
    assert [f.frame.shape for f in MediaSource(files, channels=1)] == [(6, 8, 1), (48, 64, 1)]
