"""Live sources by name: webcams, network streams and YouTube videos, and how OpenCV opens each."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

import cv2
import numpy as np

from utils.backends.packages import import_runtime
from utils.core.errors import InputError
from utils.datasets.sources.frames import MEDIA_SUFFIXES

WEBCAM, HLS, YOUTUBE = "webcam", "HLS stream", "YouTube video"
SCHEMES = {
    "rtsp": "RTSP stream",
    "rtsps": "RTSP stream",
    "rtmp": "RTMP stream",
    "rtmps": "RTMP stream",
    "http": "HTTP stream",
    "https": "HTTP stream",
    "udp": "UDP stream",
    "tcp": "TCP stream",
    "rtp": "RTP stream",
}
PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443}
YOUTUBE_HOSTS = ("youtube.com", "youtu.be")
YOUTUBE_FORMAT = "bestvideo[vcodec^=avc1][height<=1080]/best[height<=1080]/best"
URL = re.compile(r"([a-z][a-z0-9+.-]+)://\S*", re.IGNORECASE)  # one letter is a drive of Windows
DIAGNOSE_S = 3.0  # for a connection that only serves to say why there is no stream


class StreamError(Exception):
    """A live source gives no frames at present; the text says why."""


class Capture(Protocol):
    """What is used of cv2.VideoCapture."""

    def grab(self) -> bool: ...
    def retrieve(self) -> tuple[bool, np.ndarray | None]: ...
    def get(self, prop: int) -> float: ...
    def release(self) -> None: ...


@dataclass(frozen=True)
class LiveAddress:
    """A live source as a user named it.

    Attributes:
        text: as given; may hold a password.
        kind: "webcam", "RTSP stream" and so on, for messages.
        shown: as messages name it, without user, password and query.
        name: as files are called after it.
    """

    text: str
    kind: str
    shown: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.shown}"


def parse_address(text: str, *, place: str = "--source") -> LiveAddress | None:
    """The webcam, stream or YouTube video of this name; None where it is not the name of one.

    Args:
        place: where the name stands, for messages.

    Raises:
        InputError: an address of a kind that is not known.
    """
    if text.isdecimal():
        return LiveAddress(text, WEBCAM, text, f"webcam{int(text)}")
    if re.match(rf"(www\.|m\.)?({'|'.join(map(re.escape, YOUTUBE_HOSTS))})/", text, re.IGNORECASE):
        text = f"https://{text}"
    match = URL.fullmatch(text)
    if match is None:
        return None
    scheme, parts = match[1].lower(), _split(text, place)
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise InputError(
            f"{place}: {_without_user(text)}: no stream is known that starts with {scheme}://; known: {known}"
        )
    host = _host(parts)
    shown = f"{scheme}://{host}{parts.path}"
    kind = SCHEMES[scheme]
    if scheme in ("http", "https"):
        kind = YOUTUBE if _is_youtube(parts) else HLS if parts.path.lower().endswith(".m3u8") else kind
    name = re.sub(r"[^\w-]+", "_", f"{host}{parts.path}").strip("_")
    if kind == YOUTUBE:
        shown = text
        name = "youtube_" + (re.sub(r"[^\w-]+", "", parts.query.partition("v=")[2].partition("&")[0]) or name)
    return LiveAddress(text, kind, shown, name)


def is_download(text: str) -> bool:
    """Whether it is an http(s) address of an image or video file, by its suffix."""
    if not re.match("https?://", text, re.IGNORECASE):
        return False
    try:
        path = urlsplit(text).path
    except ValueError:  # `parse_address` says what is wrong with it
        return False
    return PurePosixPath(path).suffix.lower() in MEDIA_SUFFIXES


def open_live(address: LiveAddress, *, open_ms: int, read_ms: int) -> Capture:
    """The source, opened.

    Args:
        open_ms, read_ms: longest wait for a connection, and for a frame.

    Raises:
        StreamError: it cannot be opened at present.
        InputError: a package is missing.
    """
    if address.kind == WEBCAM:
        capture = cv2.VideoCapture(int(address.text))
        if not capture.isOpened():
            capture.release()
            raise StreamError("there is no such camera, or another program has it")
        return capture
    url = resolve_youtube(address.text) if address.kind == YOUTUBE else address.text
    options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_ms]
    one_thread = [cv2.CAP_PROP_N_THREADS, 1]  # several decode frames in parallel, each one frame later
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, options + one_thread)
    if not capture.isOpened():
        capture.release()
        raise StreamError(diagnose(url))
    return capture


def diagnose(url: str) -> str:
    """Why an address gives no stream, as far as a connection to its server tells."""
    parts = urlsplit(url)
    port = parts.port or PORTS.get(parts.scheme.lower())
    if parts.hostname is None or port is None:
        return "nothing arrives there"
    place = f"{_host(parts, with_port=False)}:{port}"
    try:
        socket.create_connection((parts.hostname, port), timeout=DIAGNOSE_S).close()
    except socket.gaierror:
        return f"the name {parts.hostname} is not known"
    except TimeoutError:
        return f"{place} does not answer"
    except OSError as error:
        return f"{place}: {error.strerror or error}"
    return f"{place} answers, but sends no video there"


def resolve_youtube(page: str) -> str:
    """Address of a page's video, from yt-dlp.

    Raises:
        StreamError: there is none, or the site cannot be reached.
        InputError: yt-dlp is not installed.
    """
    package = import_runtime("yt_dlp", needed_for="YouTube videos", install="yt-dlp")
    options = {"format": YOUTUBE_FORMAT, "quiet": True, "no_warnings": True, "noplaylist": True, "logger": _Silent()}
    try:
        with package.YoutubeDL(options) as resolver:
            return str(resolver.extract_info(page, download=False)["url"])
    except package.utils.YoutubeDLError as error:
        raise StreamError(" ".join(str(error).removeprefix("ERROR: ").split())[:200]) from error
    except (KeyError, TypeError) as error:
        raise StreamError("the page has no video that can be played") from error


class _Silent:
    """Takes what yt-dlp would print; what matters comes as an exception."""

    def debug(self, message: str) -> None: ...
    def info(self, message: str) -> None: ...
    def warning(self, message: str) -> None: ...
    def error(self, message: str) -> None: ...


def _split(text: str, place: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        reason = "its port is no number" if "port" in str(error).lower() else str(error)  # may be part of a password
        raise InputError(f"{place}: {_without_user(text)}: not an address ({reason})") from error
    return parts


def _without_user(text: str) -> str:
    """A malformed address without what may be user and password: all from `://` to the last `@`, and the query."""
    return re.sub(r"://\S*@", "://", text).partition("?")[0]


def _host(parts: SplitResult, *, with_port: bool = True) -> str:
    """Host and port without user and password."""
    host = parts.netloc.rpartition("@")[2]
    return host if with_port else re.sub(r":\d+$", "", host)


def _is_youtube(parts: SplitResult) -> bool:
    host = (parts.hostname or "").lower()
    return any(host == known or host.endswith(f".{known}") for known in YOUTUBE_HOSTS)
