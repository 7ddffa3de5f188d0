"""Video capture from webcams, network streams and YouTube."""

from __future__ import annotations

import logging
import re
import socket
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import SplitResult, urlsplit

import cv2

from utils.core.errors import InputError
from utils.core.packages import import_runtime
from utils.datasets.sources.frames import MEDIA_SUFFIXES
from utils.datasets.sources.media import open_video

WEBCAM, HLS, YOUTUBE, VIDEO_FILE = "webcam", "HLS stream", "YouTube video", "video file"
SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp", "rtp")
PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443}
YOUTUBE_HOSTS = ("youtube.com", "youtu.be")
YOUTUBE_FORMAT = "bestvideo[vcodec^=avc1][height<=1080]/best[height<=1080]/best"
URL = re.compile(r"([a-z][a-z0-9+.-]+)://\S*", re.IGNORECASE)  # a single letter is a Windows drive
DIAGNOSE_TIMEOUT_S = 3.0
MAX_DIGITS = 9  # of a webcam number, which OpenCV takes as a 32-bit integer


class StreamError(Exception):
    """A live source has no frames at present; the text says why."""


@dataclass(frozen=True)
class LiveAddress:
    """Address of a live source.

    Attributes:
        text: as the user wrote it; may contain a password.
        kind: "webcam", "RTSP stream" and so on, for messages.
        display: for messages, without user, password and query.
        name: for file names.
    """

    text: str
    kind: str
    display: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.display}"


def parse_address(text: str, *, place: str = "--source") -> LiveAddress | None:
    """Parse a webcam number, a stream address or a YouTube link; None if the text is none of them.

    Args:
        place: flag or file and line of the text, for messages.

    Raises:
        InputError: a malformed address or an unsupported scheme.
    """
    if text.isdecimal():
        if len(text) > MAX_DIGITS:
            raise InputError(f"{place}: {text}: no webcam has this number; the first one is 0")
        return LiveAddress(text, WEBCAM, text, f"webcam{int(text)}")
    if re.match(rf"(www\.|m\.)?({'|'.join(map(re.escape, YOUTUBE_HOSTS))})/", text, re.IGNORECASE):
        text = f"https://{text}"
    match = URL.fullmatch(text)
    if match is None:
        return None
    scheme, parts = match[1].lower(), _split_url(text, place)
    if scheme not in SCHEMES:
        supported = ", ".join(f"{name}://" for name in SCHEMES)
        raise InputError(
            f"{place}: {_strip_secrets(text)}: unsupported stream scheme {scheme}://; supported: {supported}"
        )
    host = parts.netloc.rpartition("@")[2]  # with the port, without user and password
    display = f"{scheme}://{host}{parts.path}"
    kind = f"{scheme.removesuffix('s').upper()} stream"
    if scheme in ("http", "https"):
        kind = YOUTUBE if _is_youtube(parts) else HLS if parts.path.lower().endswith(".m3u8") else kind
    name = re.sub(r"[^\w-]+", "_", f"{host}{parts.path}").strip("_")
    if kind == YOUTUBE:
        display = text
        name = "youtube_" + (re.sub(r"[^\w-]+", "", parts.query.partition("v=")[2].partition("&")[0]) or name)
    return LiveAddress(text, kind, display, name)


def is_media_url(text: str) -> bool:
    """Whether the text is an http(s) address with the suffix of an image or video."""
    match = re.match(r"https?://[^/?#]*(/[^?#]*)", text, re.IGNORECASE)
    return match is not None and PurePosixPath(match[1]).suffix.lower() in MEDIA_SUFFIXES


def open_capture(address: LiveAddress, *, open_ms: int, read_ms: int) -> cv2.VideoCapture:
    """Open a live source.

    Args:
        open_ms, read_ms: timeouts for the connection and for a frame.

    Raises:
        StreamError: it cannot be opened at present.
        InputError: a package is missing, or a video file is unusable.
    """
    if address.kind == VIDEO_FILE:
        return open_video(address.text)
    if address.kind == WEBCAM:
        capture = cv2.VideoCapture(int(address.text))
        if not capture.isOpened():
            raise StreamError("no such camera, or another program is using it")
        return capture
    url = _resolve_youtube(address.text) if address.kind == YOUTUBE else address.text
    options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_ms]
    one_thread = [cv2.CAP_PROP_N_THREADS, 1]  # each further thread delays the video by one frame
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, options + one_thread)
    if not capture.isOpened():
        raise StreamError(diagnose_connection(url))
    return capture


def diagnose_connection(url: str) -> str:
    """Connect to the server of an address that has no stream, to find out why."""
    parts = urlsplit(url)
    port = parts.port or PORTS.get(parts.scheme.lower())
    if parts.hostname is None or port is None:
        return "no data arrives"
    server = f"{parts.hostname}:{port}"
    try:
        socket.create_connection((parts.hostname, port), timeout=DIAGNOSE_TIMEOUT_S).close()
    except (socket.gaierror, UnicodeError):  # UnicodeError: not a valid host name
        return f"unknown host {parts.hostname}"
    except TimeoutError:
        return f"{server} does not answer"
    except OSError as error:
        return f"{server}: {error.strerror or error}"
    return f"{server} answers but sends no video"


def _resolve_youtube(page: str) -> str:
    """Look up the video address of a YouTube page with yt-dlp; StreamError if there is none."""
    package = import_runtime("yt_dlp", needed_for="YouTube videos", install="yt-dlp")
    options = {
        "format": YOUTUBE_FORMAT,
        "quiet": True,
        "no_warnings": True,
        "noplaylist": True,
        "logger": logging.Logger("yt_dlp", logging.CRITICAL),  # silent: errors arrive as exceptions
    }
    try:
        with package.YoutubeDL(options) as resolver:
            return str(resolver.extract_info(page, download=False)["url"])
    except package.utils.YoutubeDLError as error:
        raise StreamError(" ".join(str(error).removeprefix("ERROR: ").split())[:200]) from error
    except (KeyError, TypeError) as error:
        raise StreamError("the page has no playable video") from error


def _split_url(text: str, place: str) -> SplitResult:
    try:
        if not text.isprintable():
            raise ValueError("it contains control characters or is not UTF-8")
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        # the text of a port error may contain part of a password
        reason = "the port is not a number" if "port" in str(error).lower() else str(error)
        raise InputError(f"{place}: {_strip_secrets(text)}: invalid address ({reason})") from error
    return parts


def _strip_secrets(text: str) -> str:
    """Remove the query and everything from `://` to the last `@`, even from a malformed address."""
    return re.sub(r"://\S*@", "://", text).partition("?")[0]


def _is_youtube(parts: SplitResult) -> bool:
    host = (parts.hostname or "").lower()
    return any(host == known or host.endswith(f".{known}") for known in YOUTUBE_HOSTS)
