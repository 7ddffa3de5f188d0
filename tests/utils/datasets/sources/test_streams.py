"""Live sources: real MJPEG and RTSP servers on loopback, cut, stalled and resumed; webcams and YouTube by stand-ins."""

from __future__ import annotations

import functools
import http.server
import itertools
import re
import shutil
import socket
import subprocess
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.live_servers import CameraServer, MjpegServer, RtspServer, camera_jpeg
from utils.core.errors import InputError
from utils.datasets.sources import live
from utils.datasets.sources.frames import SourceFrame
from utils.datasets.sources.live import LiveAddress, StreamError, diagnose, is_download, open_live, parse_address
from utils.datasets.sources.open import SourceOptions, open_source
from utils.datasets.sources.streams import StreamSource, Timing

QUICK = Timing(open_s=10, read_s=1.5, pause_s=0.05, longest_pause_s=0.2, give_up_s=20)
SERVERS = pytest.mark.parametrize("server_class", [MjpegServer, RtspServer])
FFMPEG = shutil.which("ffmpeg")


def address(text: str) -> LiveAddress:
    found = parse_address(text)
    assert found is not None
    return found


def streams(*urls: str, timing: Timing = QUICK, vid_stride: int = 1) -> StreamSource:
    return StreamSource([address(url) for url in urls], timing=timing, vid_stride=vid_stride)


def wait_for(truth: Callable[[], object], seconds: float = 20) -> None:
    """Return once `truth` holds; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def until(batches: Iterator[list[SourceFrame]], truth: Callable[[SourceFrame], bool]) -> SourceFrame:
    """The first frame for which `truth` holds."""
    return next(frame for batch in batches for frame in batch if truth(frame))


def dead_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "shown", "name"),
    [
        ("0", "webcam", "0", "webcam0"),
        ("rtsp://me:secret@cam.lan:8554/a/b?token=1", "RTSP stream", "rtsp://cam.lan:8554/a/b", "cam_lan_8554_a_b"),
        ("RTMP://host/live/x", "RTMP stream", "rtmp://host/live/x", "host_live_x"),
        ("http://10.0.0.7/video.mjpg", "HTTP stream", "http://10.0.0.7/video.mjpg", "10_0_0_7_video_mjpg"),
        ("https://cdn/live/index.m3u8?x=1", "HLS stream", "https://cdn/live/index.m3u8", "cdn_live_index_m3u8"),
        ("youtu.be/abc-D_1", "YouTube video", "https://youtu.be/abc-D_1", "youtube_youtu_be_abc-D_1"),
        (
            "https://www.youtube.com/watch?v=abc-D_1&t=3",
            "YouTube video",
            "https://www.youtube.com/watch?v=abc-D_1&t=3",
            "youtube_abc-D_1",
        ),
        ("https://notyoutube.com/live", "HTTP stream", "https://notyoutube.com/live", "notyoutube_com_live"),
    ],
)
def test_live_addresses_and_what_is_shown_of_them(text: str, kind: str, shown: str, name: str) -> None:
    found = address(text)
    assert (found.kind, found.shown, found.name) == (kind, shown, name)


@pytest.mark.parametrize("text", ["a.jpg", "C:/a.jpg", "C://a.jpg", "folder/0", "youtube.txt", "-", "²"])
def test_paths_are_no_addresses(text: str) -> None:
    assert parse_address(text) is None


def test_addresses_of_files_are_told_from_streams_by_their_suffix() -> None:
    assert is_download("https://host/a%20b.JPG?size=2")
    assert not any(map(is_download, ("http://host/live", "http://host/video.mjpg", "rtsp://host/a.mp4", "a.jpg")))


# -- one stream -------------------------------------------------------------------------------------------------------


@SERVERS
def test_frames_of_a_stream(server_class: type[CameraServer]) -> None:
    with server_class() as server, closing(streams(server.url)) as source:
        batches = source.batches()
        first = next(batches)[0]
        later = until(batches, lambda frame: (frame.number or 0) >= 20)
        assert first.frame.shape == (96, 128, 3)
        assert first.live and first.fps in (25.0, 40.0)  # an MJPEG page does not tell its rate: FFmpeg takes 25
        assert first.path == f"127_0_0_1_{server.server_address[1]}_live"
        assert later.heading.endswith(f"1/1 (frame {later.number}) {server.url}")
        sent = cv2.imdecode(np.frombuffer(camera_jpeg((later.number or 0) - 1, (96, 128)), np.uint8), 1)
        assert np.abs(later.frame.astype(int) - sent).mean() < 3
    wait_for(lambda: not source.streams[0].thread.is_alive())


@SERVERS
def test_a_stream_that_is_cut_comes_back(server_class: type[CameraServer], caplog: pytest.LogCaptureFixture) -> None:
    with server_class() as server, closing(streams(server.url)) as source, caplog.at_level("INFO", "openyolov5"):
        batches, stream = source.batches(), source.streams[0]
        for connection in (1, 2, 3):
            until(batches, lambda frame, c=connection: stream.connections == c)  # type: ignore[misc]
            server.cut()
            wait_for(lambda: stream.failure)
            assert source.problems and server.url in source.problems[0]
            server.resume()
        seen = until(batches, lambda frame: stream.connections == 4)
        assert seen.number == stream.received or (seen.number or 0) <= stream.received
        assert not source.problems
    lost = [record.message for record in caplog.records if "lost after" in record.message]
    assert len(lost) == 3 and "next attempt in 0.05 s" in lost[0]


@SERVERS
def test_a_server_that_falls_silent_is_left_and_found_again(server_class: type[CameraServer]) -> None:
    with server_class() as server, closing(streams(server.url)) as source:
        batches, stream = source.batches(), source.streams[0]
        next(batches)
        server.stall()
        wait_for(lambda: stream.failure)
        assert "no frame for " in stream.failure
        server.resume()
        until(batches, lambda frame: stream.connections == 2)


@SERVERS
def test_damaged_frames_do_not_end_a_stream(server_class: type[CameraServer]) -> None:
    with server_class() as server, closing(streams(server.url)) as source:
        batches = source.batches()
        next(batches)
        server.junk = 3
        wait_for(lambda: server.junk == 0)
        damaged = source.streams[0].received
        until(batches, lambda frame: (frame.number or 0) > damaged + 5)
        assert source.streams[0].connections == 1


def test_every_nth_frame_is_taken() -> None:
    with MjpegServer() as server, closing(streams(server.url, vid_stride=4)) as source:
        batches = source.batches()
        frames = [frame for _ in range(5) for frame in next(batches)]
        assert all((frame.number or 0) % 4 == 1 for frame in frames)
        assert frames[0].fps == 25 / 4


def test_only_the_newest_frame_is_kept() -> None:
    with MjpegServer(fps=100) as server, closing(streams(server.url)) as source:
        batches, stream = source.batches(), source.streams[0]
        next(batches)
        wait_for(lambda: stream.received >= 60)
        first, second = next(batches)[0].number or 0, next(batches)[0].number or 0
        assert first >= 60  # the frames before it are gone
        assert second > first  # and none comes twice


def test_a_gray_network_gets_gray_frames_and_a_wider_one_is_refused() -> None:
    with MjpegServer() as server, closing(streams(server.url)) as source:
        assert next(source.batches(channels=1))[0].frame.shape == (96, 128, 1)
        with pytest.raises(InputError, match="has 3 channels where the model wants 5"):
            next(source.batches(channels=5))


# -- several streams --------------------------------------------------------------------------------------------------


def test_a_dead_stream_does_not_stop_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listing = tmp_path / "cameras.streams"
    with MjpegServer() as good, MjpegServer(size_hw=(48, 64)) as weak:
        listing.write_text(f"# cameras\n{good.url}  {weak.url}\nrtsp://127.0.0.1:{dead_port()}/none\n")
        with closing(open_source(str(listing), SourceOptions(timing=QUICK))) as source:
            assert isinstance(source, StreamSource)
            assert "/none: cannot be opened: 127.0.0.1:" in caplog.text
            assert "Connection refused; it is tried again while the others run" in caplog.text
            batches = source.batches()
            until(batches, lambda frame: frame.heading.startswith("HTTP stream 2/3"))
            until(batches, lambda frame: frame.heading.startswith("HTTP stream 1/3"))
            weak.cut()
            wait_for(lambda: source.streams[1].failure)
            source.streams[1].take()
            names = {frame.path for _ in range(20) for frame in next(batches)}
            assert names == {source.streams[0].name}  # neither the last nor a blank frame of the lost one
            assert [problem.split(":")[0] for problem in source.problems] == ["HTTP stream http", "RTSP stream rtsp"]
            weak.resume()
            until(batches, lambda frame: frame.frame.shape == (48, 64, 3))
    assert not any(stream.thread.is_alive() for stream in source.streams)


def test_frames_of_several_streams_come_together() -> None:
    with MjpegServer() as one, MjpegServer() as two, closing(streams(one.url, two.url)) as source:
        batches = source.batches()
        wait_for(lambda: all(stream.received >= 2 for stream in source.streams))
        assert [frame.path for frame in next(batches)] == [stream.name for stream in source.streams]


def test_streams_of_one_name_are_numbered() -> None:
    with MjpegServer() as server, closing(streams(f"{server.url}?a", f"{server.url}?b")) as source:
        first, second = (stream.name for stream in source.streams)
        assert second == f"{first}_2"


@SERVERS
def test_when_all_streams_stay_dead_the_run_ends(
    server_class: type[CameraServer], caplog: pytest.LogCaptureFixture
) -> None:
    timing = Timing(open_s=10, read_s=1.5, pause_s=0.05, longest_pause_s=0.1, give_up_s=0.6)
    with server_class() as server, closing(streams(server.url, timing=timing)) as source:
        batches = source.batches()
        next(batches)
        server.cut()
        for _ in batches:  # ends, after what was on its way
            pass
        assert source.problems
    assert re.search(r"no frame from any of 1 streams for \d+ s: the run ends", caplog.text)


def test_pauses_double_up_to_the_longest(caplog: pytest.LogCaptureFixture) -> None:
    attempts = itertools.count(1)

    def connect_once(_: LiveAddress) -> live.Capture:
        if (attempt := next(attempts)) > 1:
            raise StreamError(f"attempt {attempt}")
        return Recording(1, total=-1)

    timing = Timing(pause_s=0.01, longest_pause_s=0.04, give_up_s=30)
    source = StreamSource([address("rtsp://host/live")], timing=timing, connect=connect_once)
    with closing(source), caplog.at_level("WARNING", "openyolov5"):
        wait_for(lambda: sum("attempt" in r.message for r in caplog.records) > 5)
    pauses = [record.message.rpartition(" in ")[2] for record in caplog.records if "next attempt" in record.message]
    assert pauses[:5] == ["0.01 s", "0.02 s", "0.04 s", "0.04 s", "0.04 s"]


def test_a_source_that_nobody_serves_is_refused_at_once() -> None:
    port = dead_port()
    with pytest.raises(
        InputError,
        match=rf"HTTP stream http://127\.0\.0\.1:{port}/x: cannot be opened: 127\.0\.0\.1:{port}: Connection refused",
    ):
        open_source(f"http://me:secret@127.0.0.1:{port}/x", SourceOptions(timing=QUICK))
    with MjpegServer() as server:
        server.stall()
        with pytest.raises(InputError, match="answers, but sends no video there; check the address"):
            open_source(server.url, SourceOptions(timing=Timing(open_s=0.5)))
    with pytest.raises(InputError, match=r"webcam 97: cannot be opened: there is no such camera"):
        open_source("97")


def test_a_mistake_in_a_thread_is_raised_by_the_reader() -> None:
    def connect(_: LiveAddress) -> live.Capture:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        StreamSource([address("0")], timing=QUICK, connect=connect)


def test_reasons_why_there_is_no_stream() -> None:
    assert diagnose("http://no-such-host.invalid/x") == "the name no-such-host.invalid is not known"
    assert diagnose("udp://:5000") == "nothing arrives there"


# -- lists ------------------------------------------------------------------------------------------------------------


def test_a_text_file_of_streams_is_a_list_of_streams(tmp_path: Path) -> None:
    listing = tmp_path / "cameras.txt"
    with MjpegServer() as one, RtspServer() as two:
        listing.write_text(f"{one.url} {two.url}")
        with closing(open_source(str(listing), SourceOptions(timing=QUICK))) as source:
            assert isinstance(source, StreamSource)
            assert [stream.address.kind for stream in source.streams] == ["HTTP stream", "RTSP stream"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rtsp://a/b\npics/a.jpg", r"c\.streams:2: pics/a\.jpg: neither a webcam number nor the address of a stream"),
        ("# none", r"c\.streams: names no streams"),
        ("ftp://a/b", r"c\.streams:1: ftp://a/b: no stream is known that starts with ftp"),
    ],
)
def test_wrong_lists_of_streams(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.streams").write_text(text)
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path / "c.streams"))


# -- stand-ins (mocks): what is not on this machine -------------------------------------------------------------------


class Recording:
    """Stands in for cv2.VideoCapture: `count` gray frames, then the end."""

    def __init__(self, count: int, *, total: float, fps: float = 0.0) -> None:
        self.count, self.values = count, {cv2.CAP_PROP_FRAME_COUNT: total, cv2.CAP_PROP_FPS: fps}
        self.number, self.released = 0, False

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def grab(self) -> bool:
        self.number += 1
        return self.number <= self.count

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        return True, np.full((4, 6, 3), self.number % 256, np.uint8)

    def get(self, prop: int) -> float:
        return self.values.get(prop, 0.0)

    def release(self) -> None:
        self.released = True


def test_mock_webcam_of_unknown_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    camera = Recording(10**9, total=-1)
    monkeypatch.setattr(live.cv2, "VideoCapture", lambda *arguments: asked.append(arguments) or camera)
    with closing(open_source("0", SourceOptions(timing=QUICK))) as source:
        frame = next(source.batches())[0]
    assert asked == [(0,)]
    assert (frame.fps, frame.path) == (30.0, "webcam0")
    assert frame.heading.startswith("webcam 1/1 (frame ")
    wait_for(lambda: camera.released)


def test_mock_recording_plays_at_its_speed_and_ends() -> None:
    recording = Recording(10, total=10, fps=50)
    start = time.monotonic()
    with closing(StreamSource([address("http://host/film")], connect=lambda _: recording)) as source:
        numbers = [frame.number for batch in source.batches() for frame in batch]
    assert time.monotonic() - start >= 9 / 50
    assert numbers and numbers == sorted(set(numbers)) and numbers[-1] == 10
    assert not source.problems and recording.released


def fake_youtube(info: object) -> types.SimpleNamespace:
    class YoutubeDLError(Exception):
        pass

    class YoutubeDL:
        def __init__(self, options: dict[str, object]) -> None:
            assert {"format", "quiet", "noplaylist"} <= set(options)

        def __enter__(self) -> YoutubeDL:
            return self

        def __exit__(self, *_: object) -> None: ...

        def extract_info(self, page: str, download: bool) -> object:
            assert not download
            if info is None:
                raise YoutubeDLError(f"ERROR: {page}: Video unavailable")
            return info

    return types.SimpleNamespace(YoutubeDL=YoutubeDL, utils=types.SimpleNamespace(YoutubeDLError=YoutubeDLError))


def test_mock_youtube_gives_the_address_of_the_video(monkeypatch: pytest.MonkeyPatch) -> None:
    with MjpegServer() as server:
        monkeypatch.setattr(live, "import_runtime", lambda *_, **__: fake_youtube({"url": server.url}))
        capture = open_live(address("https://youtu.be/abc"), open_ms=2000, read_ms=2000)
        assert capture.grab()
        capture.release()


@pytest.mark.parametrize(
    ("info", "message"), [(None, r"^https://youtu\.be/abc: Video unavailable"), ({}, "no video that can be played")]
)
def test_mock_youtube_without_a_video(monkeypatch: pytest.MonkeyPatch, info: object, message: str) -> None:
    monkeypatch.setattr(live, "import_runtime", lambda *_, **__: fake_youtube(info))
    with pytest.raises(StreamError, match=message):
        open_live(address("https://youtu.be/abc"), open_ms=100, read_ms=100)


def test_youtube_without_its_package_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "yt_dlp", None)
    with pytest.raises(InputError, match=r"YouTube videos need the package yt_dlp: pip install yt-dlp"):
        open_source("https://youtu.be/abc")


# -- what FFmpeg's own program serves ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of video at 25 frames a second."""
    file = tmp_path_factory.mktemp("clip") / "clip.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 25, (128, 96))
    for number in range(75):
        writer.write(cv2.imdecode(np.frombuffer(camera_jpeg(number % 64, (96, 128)), np.uint8), 1))
    writer.release()
    return file


def ffmpeg(*arguments: object) -> subprocess.Popen[bytes]:
    if FFMPEG is None:
        pytest.skip("the program ffmpeg is not installed")
    return subprocess.Popen([FFMPEG, "-nostdin", "-v", "error", *map(str, arguments)])


@pytest.mark.parametrize("scheme", ["rtmp", "tcp", "udp"])
def test_ffmpeg_streams(scheme: str, clip: Path) -> None:
    url = f"{scheme}://127.0.0.1:{dead_port()}" + ("/live/x" if scheme == "rtmp" else "")
    server_url = url + ("?listen=1" if scheme == "tcp" else "")
    options = ["-f", "flv", "-listen", 1] if scheme == "rtmp" else ["-f", "mpegts"]
    codec = ["-c:v", "flv"] if scheme == "rtmp" else ["-c:v", "mpeg2video"]
    server = ffmpeg("-re", "-stream_loop", -1, "-i", clip, *codec, *options, server_url)
    try:
        patient = Timing(open_s=5, read_s=5, pause_s=0.2, longest_pause_s=0.2)

        def connect(wanted: LiveAddress) -> live.Capture:
            return eventually(lambda: open_live(wanted, open_ms=5000, read_ms=5000))

        with closing(StreamSource([address(url)], timing=patient, connect=connect)) as source:
            frame = until(source.batches(), lambda frame: (frame.number or 0) >= 10)
        assert frame.frame.shape == (96, 128, 3)
        assert frame.heading.startswith(f"{scheme.upper()} stream 1/1")
    finally:
        server.kill()
        server.wait()


def eventually(connect: Callable[[], live.Capture]) -> live.Capture:
    """The capture, as soon as its server listens."""
    for _ in range(50):
        try:
            return connect()
        except StreamError:
            time.sleep(0.1)
    return connect()


def test_hls_plays_at_its_speed_to_its_end(clip: Path, tmp_path: Path) -> None:
    made = ffmpeg("-i", clip, "-c:v", "mpeg2video", "-f", "hls", "-hls_time", 1, tmp_path / "live.m3u8")
    assert made.wait() == 0
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/live.m3u8"
        start = time.monotonic()
        with closing(open_source(url, SourceOptions(timing=QUICK))) as source:
            frames = [frame for batch in source.batches() for frame in batch]
        server.shutdown()
    assert frames[0].heading.startswith("HLS stream")
    assert len(frames) >= 30 and frames[-1].number == pytest.approx(75, abs=8)
    assert time.monotonic() - start >= 2
