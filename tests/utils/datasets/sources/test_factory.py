"""Sources of detect.py: files, order, unreadable files, watch folders, standard input and downloads."""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.core.errors import InputError
from utils.datasets.sources import factory
from utils.datasets.sources.factory import SourceOptions, _list_files, find_media, open_source
from utils.datasets.sources.frames import Source, SourceFrame
from utils.datasets.sources.media import MediaSource
from utils.datasets.sources.watch import PathLines, WatchedFiles
from utils.imaging.read import imwrite
from utils.predict.run import find_source


def image(path: Path, value: int = 0, size_hw: tuple[int, int] = (6, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    imwrite(path, np.full((*size_hw, 3), value, np.uint8))
    return path


def video(path: Path, frames: int, fps: float = 10.0) -> Path:
    """A clip whose frame k (from 0) has the gray value 20 k."""
    codec = cv2.VideoWriter_fourcc(*("mp4v" if path.suffix == ".mp4" else "MJPG"))
    writer = cv2.VideoWriter(str(path), codec, fps, (64, 48))
    for k in range(frames):
        writer.write(np.full((48, 64, 3), 20 * k, np.uint8))
    writer.release()
    return path


def read_all(source: Source, channels: int = 3) -> list[SourceFrame]:
    """All frames of a finite source."""
    with closing(source):
        return [frame for batch in source.batches(channels) for frame in batch]


def test_folder_is_sorted_without_subfolders(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "inner/c.jpg"):
        image(tmp_path / name)
    (tmp_path / "notes.md").write_text("no image")
    assert [Path(p).name for p in find_media(str(tmp_path))] == ["a.jpg", "b.PNG"]


def test_glob_walks_subfolders(tmp_path: Path) -> None:
    for name in ("x/b.png", "y/a.png", "y/a.jpg"):
        image(tmp_path / name)
    paths = find_media(str(tmp_path / "**" / "*.png"))
    assert [Path(p).relative_to(tmp_path).as_posix() for p in paths] == ["x/b.png", "y/a.png"]


def test_folder_links_that_loop_count_once(tmp_path: Path) -> None:
    for name in ("x/b.png", "x/y/a.png"):
        image(tmp_path / name)
    (tmp_path / "x/y/loop").symlink_to("..")
    (tmp_path / "x/y/loop2").symlink_to(tmp_path)
    (tmp_path / "x/c.png").symlink_to("b.png")  # a link to a file is a file
    paths = find_media(str(tmp_path / "**" / "*.png"))
    assert [Path(p).relative_to(tmp_path).as_posix() for p in paths] == ["x/b.png", "x/c.png", "x/y/a.png"]
    assert [Path(p).name for p in find_media(str(tmp_path / "**" / "?.png"))] == ["b.png", "c.png", "a.png"]


def test_glob_lists_files_of_a_bounded_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        image(tmp_path / f"{number}/a.png")
    monkeypatch.setattr("utils.datasets.index.listing.MAX_ENTRIES", 9)
    with pytest.raises(InputError, match="10 files and folders, the limit is 9; use --no-limits"):
        find_media(str(tmp_path / "**" / "*.png"))
    monkeypatch.setenv("YOLOv5_NO_LIMITS", "1")
    assert len(find_media(str(tmp_path / "**" / "*.png"))) == 5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.parametrize("name", ["pipe.png", "pipe.mp4"])
@pytest.mark.parametrize("how", ["folder", "glob", "recursive glob", "list", "standard input"])
def test_named_pipes_are_skipped(name: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "images/a.png")
    os.mkfifo(tmp_path / "images" / name)
    (tmp_path / "list.txt").write_text(f"images/a.png\nimages/{name}\n")
    reader, writer = os.pipe()
    os.write(writer, f"{tmp_path}/images/a.png\n{tmp_path}/images/{name}\n".encode())
    os.close(writer)
    sources = {"folder": "images", "glob": "images/*", "recursive glob": "**/*", "list": "list.txt"}
    with open(reader) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        source = open_source(str(tmp_path / sources[how]) if how in sources else "-")
        assert [Path(frame.path).name for frame in read_all(source)] == ["a.png"]
    assert source.problems == [f"{tmp_path}/images/{name}: not a regular file"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.parametrize("name", ["pipe.png", "pipe.mp4", "pipe.txt", "pipe.streams"])
def test_named_pipe_as_source(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=rf"--source .*{name}: not a regular file"):
        open_source(str(tmp_path / name))


def test_file_with_brackets_is_not_a_glob(tmp_path: Path) -> None:
    path = image(tmp_path / "shot[1].png")
    assert find_media(str(path)) == [str(path)]


def test_list_is_relative_to_itself_or_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, elsewhere = image(tmp_path / "lists/a.png"), image(tmp_path / "run/b.png")
    listing = tmp_path / "lists" / "media.txt"
    listing.write_text("# images\na.png\n\nb.png\nmissing.png\n", encoding="utf-8")
    monkeypatch.chdir(elsewhere.parent)
    assert find_media(str(listing)) == [str(beside), "b.png", "missing.png"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("nowhere/*.jpg", "the glob has no images or videos", id="empty-glob"),
        pytest.param(" ", "--source is empty; pass a file", id="empty"),
        pytest.param("nowhere.jpg", "--source nowhere.jpg: no such file or folder", id="missing"),
        pytest.param("no.streams", r"--source no\.streams: no such file", id="missing-list"),
        pytest.param("no.txt", r"--source no\.txt: no such file", id="missing-text"),
        pytest.param("ftp://host/live", "unsupported stream scheme ftp://; supported: rtsp://", id="scheme"),
        pytest.param(
            "rtsp://host:x/live", r"rtsp://host:x/live: invalid address \(the port is not a number\)", id="port"
        ),
        pytest.param(
            "rtsp://me:pass/word@host/1?k=2", r"^--source: rtsp://host/1: invalid address \(the", id="password"
        ),
        pytest.param(
            "ftp://me:word@host/1", "^--source: ftp://host/1: unsupported stream scheme", id="scheme-password"
        ),
        pytest.param("http://me:word@host/a.jpg?k=2", "^http://host/a.jpg: user names in URLs", id="file-password"),
        pytest.param(
            "http://[::1/a.jpg", r"http://\[::1/a\.jpg: .*(Invalid IPv6 URL|not a valid)", id="file-of-no-host"
        ),
        pytest.param("screen 1 2", r"expected screen \[N\] \[left top width height\]", id="screen-numbers"),
        pytest.param("screen a", "expected screen", id="screen-words"),
        pytest.param("screen 0 0 0 0 5", "width and height must be at least 1", id="screen-size"),
        pytest.param("screen " + "9" * 5000, "expected screen", id="screen-of-many-digits"),
        pytest.param("9" * 20, "99: no webcam has this number", id="webcam-beyond-32-bits"),
        pytest.param("a\0.jpg", r"--source a\\x00\.jpg: no such file", id="null-byte"),
        pytest.param(
            "http://h/\0", r"http://h/\\x00: invalid address \(it contains control", id="null-byte-in-address"
        ),
        pytest.param("rtsp://h/\udcff", r"rtsp://h/\\udcff: invalid address .* not UTF-8", id="address-not-utf-8"),
        pytest.param("http://h/\udcff.jpg", r"http://h/\\udcff\.jpg: ", id="url-not-utf-8"),
        pytest.param("http://[::1", r"http://\[::1: invalid address \(Invalid IPv6 URL\)", id="ipv6"),
        pytest.param("http://a..b/live", r"http://a\.\.b/live: cannot be opened: unknown host a\.\.b", id="host"),
    ],
)
def test_unusable_sources(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(source)


def test_empty_folder_unknown_format_and_empty_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the folder has no images or videos; images: bmp .*videos: asf"):
        find_media(str(tmp_path))
    (tmp_path / "model.xyz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"model\.xyz: \.xyz is not a supported format"):
        find_media(str(tmp_path / "model.xyz"))
    (tmp_path / "list.txt").write_text("\n# nothing\n")
    with pytest.raises(InputError, match="contains no images or videos"):
        find_media(str(tmp_path / "list.txt"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rtsp://camera/1", "rtsp://camera/1: a list contains either files or streams, not both"),
        ("http://host/a.jpg", "http://host/a.jpg: a list contains files; pass a URL to --source directly"),
        ("notes.md", r"notes\.md: neither an image nor a video"),
    ],
)
def test_bad_line_of_a_list_is_reported(tmp_path: Path, line: str, message: str) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text(f"# media\na.png\n{line}\n")
    with pytest.raises(InputError, match=rf"list\.txt:3: {message}"):
        open_source(str(listing))


@pytest.mark.parametrize("suffix", ["txt", "streams"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"rtsp://h/a\nb\xff\n", "2: not UTF-8; save the list as UTF-8", id="latin-1"),
        pytest.param(b"rtsp://h/a\n\0\n", "2: a null byte, which no path or address has", id="null-byte"),
        pytest.param(b"rtsp://h/a\nhttp://[::1\n", r"2: http://\[::1: invalid address", id="address"),
        pytest.param(b"rtsp://h/a\n" * 257, "257: 257 streams, the limit is 256; use --no-limits", id="many"),
    ],
)
def test_damaged_lists(suffix: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.{suffix}:{message}"):
        open_source(str(tmp_path / f"a.{suffix}"))


def test_list_of_bounded_size(tmp_path: Path) -> None:
    with open(tmp_path / "a.txt", "wb") as stream:
        stream.truncate(factory.MAX_LIST_BYTES + 1)  # a hole, which takes no space
    with pytest.raises(InputError, match=r"a\.txt: 268,435,457 bytes, the limit is 268,435,456; use --no-limits"):
        open_source(str(tmp_path / "a.txt"))


def test_list_with_a_long_line(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(f"{'x' * 100_000}.png\na.png\n")
    source = open_source(str(tmp_path / "a.txt"))
    assert [Path(frame.path).name for frame in read_all(source)] == ["a.png"]
    assert len(source.problems) == 1 and source.problems[0].endswith(".png: File name too long")
    assert len(source.problems[0]) < 1000


@pytest.mark.skipif(sys.platform != "linux", reason="macOS and Windows have no such names")
def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"b\xffd")
    image(tmp_path / f"{name}.png", 7)
    video(tmp_path / "clip.avi", 2).rename(tmp_path / f"{name}.avi")
    source = open_source(str(tmp_path))
    assert [frame.heading for frame in read_all(source)] == [f"image 2/2 {tmp_path}/b\\udcffd.png"]
    assert source.problems == [
        f"{tmp_path}/b\\udcffd.avi: OpenCV cannot open a video whose name is not UTF-8; rename it"
    ]


def test_video_of_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.datasets.sources.media.MAX_PIXELS", 3000)
    source = open_source(str(video(tmp_path / "clip.avi", 2)))
    assert not read_all(source)
    assert source.problems == [
        f"{tmp_path}/clip.avi: 3,072 pixels, the limit is 3,000; use --no-limits if you trust the file"
    ]


def test_damaged_and_missing_images_are_skipped(tmp_path: Path) -> None:
    good = image(tmp_path / "ünïcode 图.png", 7)
    broken, empty, missing = tmp_path / "broken.png", tmp_path / "empty.jpg", tmp_path / "missing.jpg"
    broken.write_bytes(good.read_bytes()[:40])
    empty.write_bytes(b"")
    source = MediaSource([str(p) for p in (broken, good, empty, missing)])
    frames = read_all(source)
    assert [(f.path, f.heading, f.number) for f in frames] == [(str(good), f"image 2/4 {good}", None)]
    assert frames[0].frame.shape == (6, 8, 3)
    assert [str(Path(p.split(": ")[0]).name) for p in source.problems] == ["broken.png", "empty.jpg", "missing.jpg"]


def test_truncated_images_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (320, 240, 3), np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    little, most, empty = (tmp_path / f"{name}.jpg" for name in ("little", "most", "empty"))
    for path, share in ((little, 0.3), (most, 0.7), (empty, 0.0)):
        path.write_bytes(whole[: max(int(share * len(whole)), 700)])
    source = MediaSource([str(p) for p in (little, most, empty)])
    assert [Path(item.path).name for item in read_all(source)] == ["most.jpg"]
    assert [re.sub(r"\d+%", "N%", problem.removeprefix(f"{tmp_path}/")) for problem in source.problems] == [
        "little.jpg: truncated, about N% of the image is missing",
        "most.jpg: truncated, about N% of the image is missing and shown gray; used",
        "empty.jpg: truncated, about N% of the image is missing",
    ]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi"])
def test_video_frames_have_number_and_fps(tmp_path: Path, name: str) -> None:
    path = video(tmp_path / name, 7)
    source = open_source(str(path))
    frames = read_all(source)
    assert [f.number for f in frames] == [1, 2, 3, 4, 5, 6, 7]
    assert [round(float(f.frame.mean()) / 20) for f in frames] == [0, 1, 2, 3, 4, 5, 6]
    assert frames[2].heading == f"video 1/1 (3/7) {path}"
    assert frames[0].fps == pytest.approx(10.0)
    assert not source.problems


def test_stride_samples_every_nth_frame_and_keeps_the_duration(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.avi", 7)
    frames = read_all(open_source(str(path), SourceOptions(vid_stride=3)))
    assert [(f.number, round(float(f.frame.mean()) / 20)) for f in frames] == [(1, 2), (2, 5)]  # the 3rd and the 6th
    assert [f.heading for f in frames] == [f"video 1/1 ({n}/2) {path}" for n in (1, 2)]
    assert frames[0].fps == pytest.approx(10 / 3)
    source = open_source(str(path), SourceOptions(vid_stride=8))
    assert read_all(source) == []
    assert source.problems == [f"{path}: 7 frames, fewer than --vid-stride 8"]


def test_truncated_video_is_read_as_far_as_possible(tmp_path: Path) -> None:
    whole = video(tmp_path / "clip.mkv", 12).read_bytes()
    junk, cut = tmp_path / "junk.mp4", tmp_path / "cut.mkv"
    junk.write_bytes(b"no video at all")
    cut.write_bytes(whole[: len(whole) // 2])
    source = MediaSource([str(junk), str(cut)])
    numbers = [f.number for f in read_all(source)]
    assert 1 <= len(numbers) < 11
    assert len(source.problems) == 2
    assert "junk.mp4: damaged, or not a video" in source.problems[0]
    assert f"cut.mkv: truncated after frame {numbers[-1]} of 12" in source.problems[1]


def test_failed_download_does_not_name_the_temporary_folder(allow_private_urls: None) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens
        with pytest.raises(InputError, match=r"cannot be reached .*; check the address, or download the file yourself"):
            open_source(f"http://127.0.0.1:{unused.getsockname()[1]}/a.jpg")


@pytest.mark.skipif(os.name != "posix", reason="the limits are those of Linux and macOS")
def test_source_with_a_name_that_is_too_long() -> None:
    with pytest.raises(InputError, match=r"--source a+: cannot be read: File name too long$"):
        open_source(find_source("a" * 300))


def test_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"--source .*: cannot be read: Permission denied$"):
        open_source(str(tmp_path))


def test_video_continues_after_a_damaged_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, noise = tmp_path / "clip.mp4", np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(60):
        writer.write(noise.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    quarter = (len(content) - start) // 4
    content[start + quarter : start + 2 * quarter] = bytes(quarter)
    path.write_bytes(content)
    source = MediaSource([str(path)])
    frames = read_all(source)
    assert 40 < len(frames) < 60  # 5 of them before the damaged part
    assert source.problems == [f"{path}: damaged, {len(frames)} of 60 frames can be read"]
    assert "skipped" not in caplog.text


def test_gray_networks_get_one_channel(tmp_path: Path) -> None:
    files = [str(image(tmp_path / "a.png")), str(video(tmp_path / "clip.avi", 1))]
    assert [f.frame.shape for f in read_all(MediaSource(files), channels=1)] == [(6, 8, 1), (48, 64, 1)]


# -- watch folders and standard input ---------------------------------------------------------------------------------


def test_watch_folder_yields_new_and_changed_files(tmp_path: Path) -> None:
    image(tmp_path / "b.png", 10)
    watched = WatchedFiles(partial(_list_files, str(tmp_path)), poll_s=0.02)
    watched.ignored_folder = tmp_path / "runs"
    source = MediaSource(watched, endless=True, on_close=(watched.close,))
    batches = source.batches()
    assert next(batches)[0].heading == f"image 1 {tmp_path / 'b.png'}"
    image(tmp_path / "a.png", 20)
    image(tmp_path / "runs" / "own.png", 30)
    assert next(batches)[0].path == str(tmp_path / "a.png")
    os.utime(image(tmp_path / "b.png", 40), (1, 1))
    again = next(batches)[0]
    assert (again.path, int(again.frame.mean())) == (str(tmp_path / "b.png"), 40)
    source.close()
    assert list(batches) == []
    assert source.num_inputs == 3


def test_watched_file_is_yielded_once_complete() -> None:
    scans = iter([{}, {"a": (1, 10)}, {"a": (2, 20)}, {"a": (2, 20)}, {"a": (2, 20)}])
    watched = WatchedFiles(list, poll_s=0.001)
    current: dict[str, tuple[int, int]] = {}
    history: list[dict[str, tuple[int, int]]] = []

    def scan() -> dict[str, tuple[int, int]]:
        current.update(next(scans, current))
        history.append(dict(current))
        return dict(current)

    watched._scan = scan  # type: ignore[method-assign]
    assert next(iter(watched)) == "a"
    assert history == [{}, {"a": (1, 10)}, {"a": (2, 20)}, {"a": (2, 20)}]


def test_watch_folder_may_disappear_and_return(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    image(folder / "a.png")
    listed = threading.Event()

    def listing() -> list[str]:
        listed.set()
        return sorted(str(p) for p in folder.iterdir())

    watched = WatchedFiles(listing, poll_s=0.01)
    paths = iter(watched)
    assert next(paths) == str(folder / "a.png")
    folder.rename(tmp_path / "away")
    new: list[str] = []
    thread = threading.Thread(target=lambda: new.append(next(paths)))
    thread.start()
    listed.clear()
    assert listed.wait(5)
    image(folder / "b.png")
    thread.join(5)
    assert new == [str(folder / "b.png")]


def test_watch_needs_a_folder_or_glob(tmp_path: Path) -> None:
    with closing(open_source(str(tmp_path), SourceOptions(watch=True))) as source:
        assert source.endless and not source.live
    with pytest.raises(InputError, match=r"--watch: .*a\.png is neither a folder nor a glob"):
        open_source(str(image(tmp_path / "a.png")), SourceOptions(watch=True))


def test_paths_from_standard_input_arrive_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = image(tmp_path / "ünï 1.png"), video(tmp_path / "clip.avi", 2)
    reader, writer = os.pipe()
    with open(reader) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with closing(open_source("-")) as source:
            batches = source.batches()
            os.write(writer, f"\n  {first}\r\n{tmp_path}/clip".encode())
            assert next(batches)[0].heading == f"image 1 {first}"
            os.write(writer, f".avi\n{tmp_path}/gone.png\nnotes.md\n{first}".encode())
            os.close(writer)
            assert [batch[0].path for batch in batches] == [str(second), str(second), str(first)]
            assert source.num_inputs == 5
            assert [problem.partition(": ")[2].partition(";")[0] for problem in source.problems] == [
                "No such file or directory", "neither an image nor a video"
            ]  # fmt: skip


def test_endless_line_on_standard_input() -> None:
    reader, writer = os.pipe()
    thread = threading.Thread(target=lambda: [os.write(writer, bytes(1 << 16)) for _ in range(17)])
    thread.start()
    with pytest.raises(InputError, match="--source: a line of over 1,048,576 bytes is no path"):
        list(PathLines(reader))
    thread.join()
    os.close(reader)
    os.close(writer)


@pytest.mark.skipif(os.name != "posix", reason="Windows cannot wait for input and for close at once")
def test_close_ends_waiting_for_standard_input() -> None:
    reader, writer = os.pipe()
    lines = PathLines(reader)
    done: list[list[str]] = []
    thread = threading.Thread(target=lambda: done.append(list(lines)))
    thread.start()
    lines.close()
    thread.join(5)
    os.close(writer)
    os.close(reader)
    assert done == [[]]


# -- downloads --------------------------------------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow_private_urls: None) -> Iterator[str]:
    """URL of a server of the folder `tmp_path/web`."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web"))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_file_of_a_url_is_downloaded_and_removed(web: str, tmp_path: Path) -> None:
    image(tmp_path / "web" / "ünï 1.png", 30)
    source = open_source(f"{web}/%C3%BCn%C3%AF%201.png?size=1")
    frame = next(source.batches())[0]
    assert int(frame.frame.mean()) == 30
    assert frame.heading == f"image 1/1 {web}/%C3%BCn%C3%AF%201.png"  # a query may contain a key
    file = Path(frame.path)
    assert file.name == "ünï 1.png" and file.is_file()
    source.close()
    assert not file.parent.exists()


def test_video_of_a_url_has_all_frames(web: str, tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    video(tmp_path / "web" / "clip.mp4", 7)
    assert [frame.number for frame in read_all(open_source(f"{web}/clip.mp4"))] == [1, 2, 3, 4, 5, 6, 7]


def test_unavailable_urls(web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "web" / "a.png")
    before = set(Path(tempfile.gettempdir()).glob("openyolov5-*"))
    with pytest.raises(InputError, match=r"gone\.png: the server answered 404"):
        open_source(f"{web}/gone.png")
    monkeypatch.setattr(factory, "DOWNLOAD_BYTES", 10)
    with pytest.raises(InputError, match=r"a\.png: larger than 0 MB"):
        open_source(f"{web}/a.png")
    assert set(Path(tempfile.gettempdir()).glob("openyolov5-*")) == before
