"""HTTP servers on loopback, and small archives of data sets."""

from __future__ import annotations

import functools
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np

from utils.datasets.index.data_yaml import DataSpec, load_spec

IMAGE = cv2.imencode(".jpg", np.full((50, 100, 3), 90, np.uint8))[1].tobytes()
Responder = Callable[[http.server.BaseHTTPRequestHandler], None]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve_folder(folder: Path) -> Iterator[tuple[Path, str]]:
    """Create a folder and serve it; yields the folder and its URL."""
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def serve_responses(responders: dict[str, Responder]) -> Iterator[str]:
    """A web server with a function for each path; yields its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):
                responders[self.path.partition("?")[0]](self)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def respond(body: bytes, *, status: int = 200, length: int | None = None, **headers: str) -> Responder:
    def send(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if length != -1:
            handler.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return send


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def tar_bytes(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return memory.getvalue()


def tar_entry(
    name: bytes, content: bytes = b"", *, kind: bytes = b"0", link: bytes = b"", size: int | None = None
) -> bytes:
    """Header and content of an entry of a tar archive, which may be invalid; `size` is what the header declares."""
    size = len(content) if size is None else size
    number = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    fields = {0: name, 100: b"0004777\0", 124: number, 148: b" " * 8, 156: kind, 157: link, 257: b"ustar\x0000"}
    header = bytearray(512)
    for offset, value in fields.items():
        header[offset : offset + len(value)] = value
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512)


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    return put(path, zip_bytes(files))


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    return put(path, tar_bytes(files, "w:gz" if path.suffix == ".gz" else "w"))


def make_spec(folder: Path, text: str) -> DataSpec:
    path = folder / "set.yaml"
    path.write_text(text)
    return load_spec(path)
