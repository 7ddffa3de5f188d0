"""Camera servers on loopback: MJPEG over HTTP, and RTSP (RFC 2326) with RTP/JPEG."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
import time
from contextlib import suppress
from functools import lru_cache

import cv2
import numpy as np

BOUNDARY = b"frame"
MAX_PAYLOAD = 1400  # bytes of an image in one RTP packet
JPEG_420, TABLES_INBAND = 1, 255  # type and quality of RFC 2435


@lru_cache(maxsize=64)
def camera_jpeg(number: int, size_hw: tuple[int, int]) -> bytes:
    """Image `number` of the camera: noise with a bright bar moving down."""
    height, width = size_hw
    frame = np.random.default_rng(number).integers(0, 60, (height // 8, width // 8, 3), np.uint8)
    frame = np.ascontiguousarray(np.kron(frame, np.ones((8, 8, 1), np.uint8)))
    frame[number * 8 % height :][:8] = 230
    flags = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    return cv2.imencode(".jpg", frame, flags)[1].tobytes()


class CameraServer(socketserver.ThreadingTCPServer):
    """Sends camera images to every client; can be cut, stalled and resumed.

    Args:
        size_hw: of the images, multiples of 16.
        fps: images per second.
    """

    allow_reuse_address = True
    daemon_threads = True
    handler: type[socketserver.BaseRequestHandler]
    scheme = ""

    def __init__(self, *, size_hw: tuple[int, int] = (96, 128), fps: float = 40.0, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), self.handler)
        self.size_hw, self.fps = size_hw, fps
        self.up, self.flowing = threading.Event(), threading.Event()
        self.up.set()
        self.flowing.set()
        self.connections = 0  # that requested images so far
        self.junk = 0  # damaged images still to send
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> CameraServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self.flowing.set()
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/live"

    def cut(self) -> None:
        """Drop all present and new connections."""
        self.up.clear()
        with self._lock:
            for client in self._clients:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def resume(self) -> None:
        """Serve again."""
        self.up.set()
        self.flowing.set()

    def stall(self) -> None:
        """Keep the connections but send nothing."""
        self.flowing.clear()

    def next_jpeg(self, number: int) -> bytes:
        """Wait for the frame interval, then return image `number`."""
        self.flowing.wait()
        time.sleep(1 / self.fps)
        jpeg = camera_jpeg(number % 64, self.size_hw)
        if self.junk:
            self.junk -= 1
            middle = len(jpeg) // 2
            jpeg = jpeg[:middle] + bytes(64) + jpeg[middle + 64 :]
        return jpeg

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        if not self.up.is_set():
            self.shutdown_request(request)
            return
        with self._lock:
            self._clients.add(request)
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        with self._lock:
            self._clients.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


class MjpegHandler(socketserver.StreamRequestHandler):
    """One client of an MJPEG stream (multipart/x-mixed-replace)."""

    server: MjpegServer

    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        self.server.connections += 1
        head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=" + BOUNDARY
        self.wfile.write(head + b"\r\n\r\n")
        number = 0
        while self.server.up.is_set():
            jpeg = self.server.next_jpeg(number)
            part = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
            self.wfile.write(b"--" + BOUNDARY + b"\r\n" + part + jpeg + b"\r\n")
            number += 1


class MjpegServer(CameraServer):
    """A camera that sends MJPEG over HTTP."""

    handler = MjpegHandler
    scheme = "http"


class RtspHandler(socketserver.StreamRequestHandler):
    """One RTSP session with interleaved RTP (RFC 2326, 10.12)."""

    server: RtspServer

    def handle(self) -> None:
        self.writing, self.playing = threading.Lock(), threading.Event()
        while request := self._read_request():
            method, url, sequence = request
            self._answer(method, url, sequence)
            if method == "PLAY" and not self.playing.is_set():
                self.playing.set()
                self.server.connections += 1
                threading.Thread(target=self._play, daemon=True).start()
            if method == "TEARDOWN":
                break
        self.playing.clear()

    def _read_request(self) -> tuple[str, str, str] | None:
        """Method, address and sequence number of the next request; None at the end."""
        while (first := self.rfile.read(1)) == b"$":  # an RTCP report of the client
            _, length = struct.unpack(">BH", self.rfile.read(3))
            self.rfile.read(length)
        method, url = [*(first + self.rfile.readline()).decode().split(), "", ""][:2]
        sequence = "0"
        while line := self.rfile.readline().decode().strip():
            if line.lower().startswith("cseq:"):
                sequence = line.partition(":")[2].strip()
        return (method, url, sequence) if method else None

    def _answer(self, method: str, url: str, sequence: str) -> None:
        headers, body = [f"CSeq: {sequence}"], ""
        if method == "OPTIONS":
            headers.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
        elif method == "DESCRIBE":
            body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:track\r\n"
            headers += ["Content-Type: application/sdp", f"Content-Base: {url}/", f"Content-Length: {len(body)}"]
        elif method == "SETUP":
            headers += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1;timeout=60"]
        elif method in ("PLAY", "GET_PARAMETER", "TEARDOWN"):
            headers.append("Session: 1")
        self._send(("\r\n".join(["RTSP/1.0 200 OK", *headers]) + "\r\n\r\n" + body).encode())

    def _send(self, data: bytes) -> None:
        with self.writing:
            self.wfile.write(data)

    def _play(self) -> None:
        number = packets = 0
        with suppress(OSError, ValueError):
            while self.playing.is_set() and self.server.up.is_set():
                jpeg = self.server.next_jpeg(number)
                timestamp = int(number * 90_000 / self.server.fps) & 0xFFFFFFFF
                for last, payload in jpeg_payloads(jpeg, self.server.size_hw):
                    rtp = struct.pack(">BBHII", 0x80, 26 | last << 7, packets & 0xFFFF, timestamp, 1) + payload
                    self._send(b"$" + struct.pack(">BH", 0, len(rtp)) + rtp)
                    packets += 1
                number += 1


class RtspServer(CameraServer):
    """A camera that sends RTP/JPEG over RTSP."""

    handler = RtspHandler
    scheme = "rtsp"


def jpeg_payloads(jpeg: bytes, size_hw: tuple[int, int]) -> list[tuple[bool, bytes]]:
    """RTP payloads of a baseline JPEG (RFC 2435, section 3), each with a flag for the last one."""
    tables, scan = split_jpeg(jpeg)
    payloads, offset = [], 0
    while offset < len(scan):
        head = struct.pack(">I", offset) + bytes([JPEG_420, TABLES_INBAND, size_hw[1] // 8, size_hw[0] // 8])
        if offset == 0:
            head += struct.pack(">BBH", 0, 0, len(tables)) + tables
        part = scan[offset : offset + MAX_PAYLOAD - len(head)]
        offset += len(part)
        payloads.append((offset == len(scan), head + part))
    return payloads


def split_jpeg(jpeg: bytes) -> tuple[bytes, bytes]:
    """Quantization tables (64 bytes each) and entropy-coded data of a JPEG (ITU-T T.81, annex B)."""
    tables, place = b"", 2
    while True:
        marker, length = struct.unpack_from(">HH", jpeg, place)
        segment = jpeg[place + 4 : place + 2 + length]
        place += 2 + length
        if marker == 0xFFDB:
            tables += b"".join(segment[start + 1 : start + 65] for start in range(0, len(segment), 65))
        elif marker == 0xFFDA:
            return tables, jpeg[place:-2]
