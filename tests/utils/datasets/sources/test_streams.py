"""Live sources: MJPEG and RTSP servers on loopback, cut, stalled and resumed; mock webcams and YouTube."""

from __future__ import annotations

import functools
import http.server
import itertools
import re
import shutil
import socket
import socketserver
import subprocess
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.live_servers import CameraServer, MjpegServer, RtspServer, camera_jpeg
from utils.core.errors import InputError
from utils.datasets.sources import capture
from utils.datasets.sources.capture import (
    LiveAddress,
    StreamError,
    diagnose_connection,
    is_media_url,
    open_capture,
    parse_address,
)
from utils.datasets.sources.factory import SourceOptions, open_source
from utils.datasets.sources.frames import SourceFrame
from utils.datasets.sources.streams import StreamSource, StreamTiming

QUICK = StreamTiming(
    open_timeout_s=10, read_timeout_s=1.5, retry_delay_s=0.05, max_retry_delay_s=0.2, idle_timeout_s=20
)
SERVERS = pytest.mark.parametrize("server_class", [MjpegServer, RtspServer])
FFMPEG = shutil.which("ffmpeg")


def address(text: str) -> LiveAddress:
    parsed = parse_address(text)
    assert parsed is not None
    return parsed


def streams(*urls: str, timing: StreamTiming = QUICK, vid_stride: int = 1) -> StreamSource:
    return StreamSource([address(url) for url in urls], timing=timing, vid_stride=vid_stride)


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    """Return once `condition` holds; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


def until(batches: Iterator[list[SourceFrame]], condition: Callable[[SourceFrame], bool]) -> SourceFrame:
    """The first frame for which `condition` holds."""
    return next(frame for batch in batches for frame in batch if condition(frame))


def dead_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "display", "name"),
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
def test_parse_address(text: str, kind: str, display: str, name: str) -> None:
    parsed = address(text)
    assert (parsed.kind, parsed.display, parsed.name) == (kind, display, name)


@pytest.mark.parametrize("text", ["a.jpg", "C:/a.jpg", "C://a.jpg", "folder/0", "youtube.txt", "-", "²"])
def test_paths_are_not_addresses(text: str) -> None:
    assert parse_address(text) is None


def test_media_urls_are_recognized_by_suffix() -> None:
    assert is_media_url("https://host/a%20b.JPG?size=2")
    assert not any(map(is_media_url, ("http://host/live", "http://host/video.mjpg", "rtsp://host/a.mp4", "a.jpg")))


# -- one stream -------------------------------------------------------------------------------------------------------


@SERVERS
def test_frames_of_a_stream(server_class: type[CameraServer]) -> None:
    with server_class() as server, closing(streams(server.url)) as source:
        batches = source.batches()
        first = next(batches)[0]
        later = until(batches, lambda frame: (frame.number or 0) >= 20)
        assert first.frame.shape == (96, 128, 3)
        assert first.live and first.fps in (25.0, 40.0)  # an MJPEG page does not report its frame rate: FFmpeg takes 25
        assert first.path == f"127_0_0_1_{server.server_address[1]}_live"
        assert later.heading.endswith(f"1/1 (frame {later.number}) {server.url}")
        sent = cv2.imdecode(np.frombuffer(camera_jpeg((later.number or 0) - 1, (96, 128)), np.uint8), 1)
        assert np.abs(later.frame.astype(int) - sent).mean() < 3
    wait_for(lambda: not source.streams[0].thread.is_alive())


@SERVERS
def test_reconnect_after_a_cut(server_class: type[CameraServer], caplog: pytest.LogCaptureFixture) -> None:
    with server_class() as server, closing(streams(server.url)) as source, caplog.at_level("INFO", "openyolov5"):
        batches, stream = source.batches(), source.streams[0]
        for _ in range(3):
            until(batches, lambda frame: not stream.failure)
            server.cut()
            wait_for(lambda: stream.failure)
            assert source.problems and server.url in source.problems[0]
            server.resume()
        frame = until(batches, lambda frame: not stream.failure)
        assert (frame.number or 0) <= stream.num_frames
        assert not source.problems
    lost = [record.message for record in caplog.records if "lost after" in record.message]
    assert len(lost) == 3 and "reconnecting in 0.05 s" in lost[0]


@SERVERS
def test_reconnect_after_a_silent_server(server_class: type[CameraServer]) -> None:
    with server_class() as server, closing(streams(server.url)) as source:
        batches, stream = source.batches(), source.streams[0]
        next(batches)
        server.stall()
        wait_for(lambda: stream.failure)
        assert "no frame for " in stream.failure
        server.resume()
        until(batches, lambda frame: not stream.failure)


@SERVERS
def test_damaged_frames_keep_the_connection(server_class: type[CameraServer]) -> None:
    with server_class() as server, closing(streams(server.url)) as source:
        batches = source.batches()
        next(batches)
        server.junk = 3
        wait_for(lambda: server.junk == 0)
        damaged = source.streams[0].num_frames
        until(batches, lambda frame: (frame.number or 0) > damaged + 5)
        assert server.connections == 1


def test_every_nth_frame_is_sampled() -> None:
    with MjpegServer() as server, closing(streams(server.url, vid_stride=4)) as source:
        batches = source.batches()
        frames = [frame for _ in range(5) for frame in next(batches)]
        assert all((frame.number or 0) % 4 == 1 for frame in frames)
        assert frames[0].fps == 25 / 4


def test_only_the_newest_frame_is_kept() -> None:
    with MjpegServer(fps=100) as server, closing(streams(server.url)) as source:
        batches, stream = source.batches(), source.streams[0]
        next(batches)
        wait_for(lambda: stream.num_frames >= 60)
        first, second = next(batches)[0].number or 0, next(batches)[0].number or 0
        assert first >= 60  # earlier frames are dropped
        assert second > first  # and none is repeated


def test_channels_are_converted_or_refused() -> None:
    with MjpegServer() as server, closing(streams(server.url)) as source:
        assert next(source.batches(channels=1))[0].frame.shape == (96, 128, 1)
        with pytest.raises(InputError, match="has 3 channels, but the model expects 5"):
            next(source.batches(channels=5))


# -- several streams --------------------------------------------------------------------------------------------------


def test_dead_stream_does_not_stop_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listing = tmp_path / "cameras.streams"
    with MjpegServer() as good, MjpegServer(size_hw=(48, 64)) as weak:
        listing.write_text(f"# cameras\n{good.url}  {weak.url}\nrtsp://127.0.0.1:{dead_port()}/none\n")
        with closing(open_source(str(listing), SourceOptions(timing=QUICK))) as source:
            assert isinstance(source, StreamSource)
            assert "/none: cannot be opened: 127.0.0.1:" in caplog.text
            assert "Connection refused; retrying while the other streams run" in caplog.text
            batches = source.batches()
            until(batches, lambda frame: frame.heading.startswith("HTTP stream 2/3"))
            until(batches, lambda frame: frame.heading.startswith("HTTP stream 1/3"))
            weak.cut()
            wait_for(lambda: source.streams[1].failure)
            source.streams[1].pop_newest()
            names = {frame.path for _ in range(20) for frame in next(batches)}
            assert names == {source.streams[0].name}  # neither the last nor a blank frame of the lost one
            assert [problem.split(":")[0] for problem in source.problems] == ["HTTP stream http", "RTSP stream rtsp"]
            weak.resume()
            until(batches, lambda frame: frame.frame.shape == (48, 64, 3))
    assert not any(stream.thread.is_alive() for stream in source.streams)


def test_frames_of_several_streams_form_a_batch() -> None:
    with MjpegServer() as one, MjpegServer() as two, closing(streams(one.url, two.url)) as source:
        batches = source.batches()
        wait_for(lambda: all(stream.num_frames >= 2 for stream in source.streams))
        assert [frame.path for frame in next(batches)] == [stream.name for stream in source.streams]


def test_streams_of_the_same_name_are_numbered() -> None:
    with MjpegServer() as server, closing(streams(f"{server.url}?a", f"{server.url}?b")) as source:
        first, second = (stream.name for stream in source.streams)
        assert second == f"{first}_2"


@SERVERS
def test_source_ends_when_all_streams_stay_dead(
    server_class: type[CameraServer], caplog: pytest.LogCaptureFixture
) -> None:
    timing = StreamTiming(
        open_timeout_s=10, read_timeout_s=1.5, retry_delay_s=0.05, max_retry_delay_s=0.1, idle_timeout_s=0.6
    )
    with server_class() as server, closing(streams(server.url, timing=timing)) as source:
        batches = source.batches()
        next(batches)
        server.cut()
        for _ in batches:  # ends after the frames in flight
            pass
        assert source.problems
    assert re.search(r"no frame from any of 1 streams for \d+ s, stopping", caplog.text)


def test_retry_delays_double_up_to_the_maximum(caplog: pytest.LogCaptureFixture) -> None:
    attempts = itertools.count(1)

    def connect_once(_: LiveAddress) -> cv2.VideoCapture:
        if (attempt := next(attempts)) > 1:
            raise StreamError(f"attempt {attempt}")
        return Recording(1, total=-1)

    timing = StreamTiming(retry_delay_s=0.01, max_retry_delay_s=0.04, idle_timeout_s=30)
    source = StreamSource([address("rtsp://host/live")], timing=timing, connect=connect_once)
    with closing(source), caplog.at_level("WARNING", "openyolov5"):
        wait_for(lambda: sum("attempt" in r.message for r in caplog.records) > 5)
    delays = [record.message.rpartition(" in ")[2] for record in caplog.records if "reconnecting in" in record.message]
    assert delays[:5] == ["0.01 s", "0.02 s", "0.04 s", "0.04 s", "0.04 s"]


def test_source_without_a_server_fails_at_once() -> None:
    port = dead_port()
    with pytest.raises(
        InputError,
        match=rf"HTTP stream http://127\.0\.0\.1:{port}/x: cannot be opened: 127\.0\.0\.1:{port}: Connection refused",
    ):
        open_source(f"http://me:secret@127.0.0.1:{port}/x", SourceOptions(timing=QUICK))
    with MjpegServer() as server:
        server.stall()
        with pytest.raises(InputError, match="answers but sends no video; check the address"):
            open_source(server.url, SourceOptions(timing=StreamTiming(open_timeout_s=0.5)))
    with pytest.raises(InputError, match=r"webcam 97: cannot be opened: no such camera"):
        open_source("97")


HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
PART = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: "


def read_resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("start", "drip"),
    [
        pytest.param(b"", b"", id="silent"),
        pytest.param(b"", b"H", id="dripping-head"),
        pytest.param(HEAD, b"", id="head-only"),
        pytest.param(HEAD + b"--frame\r\n", b"X", id="dripping-part-head"),
        pytest.param(HEAD + PART + b"4294967295\r\n\r\n", b"\0", id="part-of-4-gb"),
        pytest.param(HEAD + PART + b"-1\r\n\r\n", b"\0", id="part-of-negative-length"),
    ],
)
@pytest.mark.parametrize("first_frames", [0, 3])
def test_servers_that_never_send_a_frame(start: bytes, drip: bytes, first_frames: int) -> None:
    """The first connection sends some frames, then this and all others stay without."""
    connections = itertools.count()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            if first_frames and next(connections) == 0:
                frame = camera_jpeg(0, (96, 128))
                part = PART + f"{len(frame)}\r\n\r\n".encode() + frame + b"\r\n"
                self.request.sendall(HEAD + first_frames * part + start.removeprefix(HEAD))
            else:
                self.request.sendall(start)
            while not ended.wait(0.1):
                with suppress(OSError):
                    self.request.sendall(drip)

    timing = StreamTiming(
        open_timeout_s=1, read_timeout_s=1, retry_delay_s=0.05, max_retry_delay_s=0.2, idle_timeout_s=2
    )
    ended, memory, begin = threading.Event(), read_resident_mb(), time.monotonic()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/live"
        try:
            if first_frames:
                with closing(streams(url, timing=timing)) as source:
                    assert sum(map(len, source.batches())) > 0
                    assert source.problems
            else:
                with pytest.raises(InputError, match=r"(sends no video|connected, but sent no frame); check the addr"):
                    streams(url, timing=timing)
        finally:
            ended.set()
            server.shutdown()
    assert time.monotonic() - begin < 8
    assert read_resident_mb() - memory < 50


def test_exception_in_a_thread_is_raised_by_the_reader() -> None:
    def connect(_: LiveAddress) -> cv2.VideoCapture:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        StreamSource([address("0")], timing=QUICK, connect=connect)


def test_diagnose_connection() -> None:
    assert diagnose_connection("http://no-such-host.invalid/x") == "unknown host no-such-host.invalid"
    assert diagnose_connection("udp://:5000") == "no data arrives"


# -- lists ------------------------------------------------------------------------------------------------------------


def test_text_file_of_streams_is_a_stream_list(tmp_path: Path) -> None:
    listing = tmp_path / "cameras.txt"
    with MjpegServer() as one, RtspServer() as two:
        listing.write_text(f"{one.url} {two.url}")
        with closing(open_source(str(listing), SourceOptions(timing=QUICK))) as source:
            assert isinstance(source, StreamSource)
            assert [stream.address.kind for stream in source.streams] == ["HTTP stream", "RTSP stream"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rtsp://a/b\npics/a.jpg", r"c\.streams:2: pics/a\.jpg: neither a webcam number nor a stream address"),
        ("# none", r"c\.streams: contains no streams"),
        ("ftp://a/b", r"c\.streams:1: ftp://a/b: unsupported stream scheme ftp"),
    ],
)
def test_bad_stream_lists(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.streams").write_text(text)
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path / "c.streams"))


# -- mocks ------------------------------------------------------------------------------------------------------------


class Recording:
    """Mock of cv2.VideoCapture: `count` gray frames, then the end."""

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


def test_mock_webcam_of_unknown_frame_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    camera = Recording(10**9, total=-1)
    monkeypatch.setattr(capture.cv2, "VideoCapture", lambda *arguments: calls.append(arguments) or camera)
    with closing(open_source("0", SourceOptions(timing=QUICK))) as source:
        frame = next(source.batches())[0]
    assert calls == [(0,)]
    assert (frame.fps, frame.path) == (30.0, "webcam0")
    assert frame.heading.startswith("webcam 1/1 (frame ")
    wait_for(lambda: camera.released)


def test_mock_recording_plays_at_its_frame_rate_and_ends() -> None:
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


def test_mock_youtube_resolves_the_video(monkeypatch: pytest.MonkeyPatch) -> None:
    with MjpegServer() as server:
        monkeypatch.setattr(capture, "import_runtime", lambda *_, **__: fake_youtube({"url": server.url}))
        video = open_capture(address("https://youtu.be/abc"), open_ms=2000, read_ms=2000)
        assert video.grab()
        video.release()


@pytest.mark.parametrize(
    ("info", "message"), [(None, r"^https://youtu\.be/abc: Video unavailable"), ({}, "no playable video")]
)
def test_mock_youtube_without_a_video(monkeypatch: pytest.MonkeyPatch, info: object, message: str) -> None:
    monkeypatch.setattr(capture, "import_runtime", lambda *_, **__: fake_youtube(info))
    with pytest.raises(StreamError, match=message):
        open_capture(address("https://youtu.be/abc"), open_ms=100, read_ms=100)


def test_youtube_without_yt_dlp_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "yt_dlp", None)
    with pytest.raises(InputError, match=r"YouTube videos need the package yt_dlp: pip install yt-dlp"):
        open_source("https://youtu.be/abc")


# -- streams served by ffmpeg -----------------------------------------------------------------------------------------


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
        patient = StreamTiming(open_timeout_s=5, read_timeout_s=5, retry_delay_s=0.2, max_retry_delay_s=0.2)

        def connect(target: LiveAddress) -> cv2.VideoCapture:
            return retry(lambda: open_capture(target, open_ms=5000, read_ms=5000))

        with closing(StreamSource([address(url)], timing=patient, connect=connect)) as source:
            frame = until(source.batches(), lambda frame: (frame.number or 0) >= 10)
        assert frame.frame.shape == (96, 128, 3)
        assert frame.heading.startswith(f"{scheme.upper()} stream 1/1")
    finally:
        server.kill()
        server.wait()


def retry(connect: Callable[[], cv2.VideoCapture]) -> cv2.VideoCapture:
    """Connect as soon as the server listens."""
    for _ in range(50):
        try:
            return connect()
        except StreamError:
            time.sleep(0.1)
    return connect()


def test_hls_plays_at_its_frame_rate_to_its_end(clip: Path, tmp_path: Path) -> None:
    encoder = ffmpeg("-i", clip, "-c:v", "mpeg2video", "-f", "hls", "-hls_time", 1, tmp_path / "live.m3u8")
    assert encoder.wait() == 0
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
