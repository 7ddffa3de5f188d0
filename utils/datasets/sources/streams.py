"""Several live sources at once: a thread reads each, the newest frame wins, lost ones are opened again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.sources.frames import DEFAULT_FPS, SourceFrame, fit_live, frame_rate
from utils.datasets.sources.live import HLS, Capture, LiveAddress, StreamError, open_live
from utils.datasets.sources.media import COMPLETE_SHARE

JOIN_S = 2.0  # waited for the threads of a source that is closed
MOST_FRAMES = 1e9  # of a recording; a stream without end reports a number that is none


@dataclass(frozen=True)
class Timing:
    """How long a stream is waited for.

    Attributes:
        open_s, read_s: longest wait for a connection, and for a frame of it.
        pause_s, longest_pause_s: before the second attempt to connect; doubled for each further one up to the latter.
        give_up_s: the run ends when no stream has sent a frame for so long; 0 waits for ever.
    """

    open_s: float = 10.0
    read_s: float = 10.0
    pause_s: float = 1.0
    longest_pause_s: float = 30.0
    give_up_s: float = 60.0


class Stream:
    """A live source with the thread that reads it; keeps the newest frame only.

    A recording (a number of frames is known) and an HLS stream, which arrive faster than they play, are read at their
    frame rate. A recording is over at its end, everything else is opened again.

    Args:
        address: names it.
        connect: opens it; StreamError where it cannot.
        news: notified of each frame and each failure; guards the attributes.
        vid_stride: keep every Nth frame.

    Attributes:
        fps: frames per second of the source.
        received: frames so far, over all connections.
        connections: that gave frames.
        failure: why it gives no frames at present, or "".
        last_seen: time of the last frame, or of the start.
        tried: whether the first attempt is over.
        finished: a recording that is over.
        crash: a mistake of ours in the thread.
    """

    def __init__(
        self,
        address: LiveAddress,
        connect: Callable[[], Capture],
        *,
        news: threading.Condition,
        timing: Timing,
        vid_stride: int = 1,
    ) -> None:
        self.address, self.connect, self.news, self.timing, self.vid_stride = address, connect, news, timing, vid_stride
        self.name = address.name
        self.fps, self.received, self.connections, self.failure = DEFAULT_FPS, 0, 0, ""
        self.last_seen = time.monotonic()
        self.tried = self.finished = False
        self.crash: BaseException | None = None
        self._newest: tuple[np.ndarray, int] | None = None
        self._stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"reader of {address.shown}", daemon=True)

    def take(self) -> tuple[np.ndarray, int] | None:
        """The newest frame and its number; None where there was no new one since the last call."""
        newest, self._newest = self._newest, None
        return newest

    def stop(self) -> None:
        """Have the thread end after the frame it waits for."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            pause = self.timing.pause_s
            while not self._stopped.is_set():
                before = self.received
                reason = self._one_connection()
                if self.finished or self._stopped.is_set():
                    return
                pause = self.timing.pause_s if self.received > before else pause
                if self.tried:  # what the first attempt gives is told for all streams at once
                    LOGGER.warning(f"WARNING: {self.address}: {reason}; next attempt in {pause:g} s")
                self._tell(failure=reason)
                self._stopped.wait(pause)
                pause = min(2 * pause, self.timing.longest_pause_s)
        except BaseException as error:
            self._tell(crash=error)

    def _one_connection(self) -> str:
        """Open the source and read it to its end; why it ended."""
        try:
            capture = self.connect()
        except StreamError as error:
            return f"cannot be opened: {error}"
        try:
            return self._read(capture)
        finally:
            capture.release()

    def _read(self, capture: Capture) -> str:
        fps, total = frame_rate(capture.get(cv2.CAP_PROP_FPS)), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        is_recording = 0 < total < MOST_FRAMES
        in_time = is_recording or self.address.kind == HLS
        start, grabbed = time.monotonic(), 0
        while not self._stopped.is_set() and capture.grab():
            grabbed += 1
            decoded, frame = capture.retrieve() if (grabbed - 1) % self.vid_stride == 0 else (False, None)
            if grabbed == 1 and frame is not None:
                LOGGER.info(f"{self.address}: {frame.shape[1]}x{frame.shape[0]} at {fps:g} FPS")
            self._publish(frame if decoded else None, fps, first=grabbed == 1)
            if in_time:
                self._stopped.wait(max(0.0, start + grabbed / fps - time.monotonic()))
        if is_recording and grabbed >= total * COMPLETE_SHARE:
            self._tell(finished=True)
        silent_s = time.monotonic() - max(start, self.last_seen)
        if silent_s >= self.timing.read_s:
            return f"no frame for {silent_s:.0f} s"
        return f"lost after {grabbed} frames" if grabbed else "connected, but sent no frame"

    def _publish(self, frame: np.ndarray | None, fps: float, *, first: bool) -> None:
        """Count a frame, and keep it as the newest where it was decoded."""
        with self.news:
            self.received += 1
            if frame is not None:
                self._newest = (frame, self.received)
                self.fps, self.failure, self.last_seen, self.tried = fps, "", time.monotonic(), True
                self.news.notify_all()
            self.connections += first

    def _tell(self, *, failure: str = "", finished: bool = False, crash: BaseException | None = None) -> None:
        with self.news:
            self.failure, self.finished, self.crash, self.tried = failure, finished, crash, True
            self.news.notify_all()


class StreamSource:
    """The frames of live sources: each time the newest of every stream that has a new one.

    A stream that gives none is left out until it does. The threads start at once.

    Args:
        addresses: the sources.
        vid_stride: keep every Nth frame of each.
        connect: opens one; StreamError where it cannot.

    Raises:
        InputError: none of them gives a frame at the first attempt.
    """

    live = endless = True

    def __init__(
        self,
        addresses: Sequence[LiveAddress],
        *,
        vid_stride: int = 1,
        timing: Timing | None = None,
        connect: Callable[[LiveAddress], Capture] | None = None,
    ) -> None:
        self.timing = timing = timing or Timing()
        open_ms, read_ms = round(1000 * timing.open_s), round(1000 * timing.read_s)

        def open_by_name(address: LiveAddress) -> Capture:
            return open_live(address, open_ms=open_ms, read_ms=read_ms)

        def opener(address: LiveAddress) -> Callable[[], Capture]:
            return lambda: (connect or open_by_name)(address)

        self._news = threading.Condition()
        self._closed = False
        self.streams = [
            Stream(address, opener(address), news=self._news, timing=timing, vid_stride=vid_stride)
            for address in addresses
        ]
        _name_apart(self.streams)
        for stream in self.streams:
            stream.thread.start()
        try:
            self._await_first_attempts()
        except BaseException:
            self.close()
            raise

    @property
    def inputs(self) -> int:
        """Number of streams."""
        return len(self.streams)

    @property
    def problems(self) -> list[str]:
        """Streams that give no frames at present."""
        return [f"{stream.address}: {stream.failure}" for stream in self.streams if stream.failure]

    def batches(self, channels: int = 3) -> Iterator[list[SourceFrame]]:
        """New frames as they come; ends once all recordings are over, or no stream has sent any for `give_up_s`."""
        while not self._closed:
            with self._news:
                taken = [(place, stream, stream.take()) for place, stream in enumerate(self.streams, start=1)]
                self._check_threads()
                frames = [self._as_frame(stream, place, *newest, channels) for place, stream, newest in taken if newest]
                if not frames:
                    if all(stream.finished for stream in self.streams) or self._given_up():
                        return
                    self._news.wait(0.2)
                    continue
            yield frames

    def close(self) -> None:
        """End the threads; one that waits for a dead server ends, and lets go of it, after `read_s` at the latest."""
        self._closed = True
        for stream in self.streams:
            stream.stop()
        with self._news:
            self._news.notify_all()
        end = time.monotonic() + JOIN_S
        for stream in self.streams:
            stream.thread.join(max(0.0, end - time.monotonic()))

    def _as_frame(self, stream: Stream, place: int, frame: np.ndarray, number: int, channels: int) -> SourceFrame:
        heading = f"{stream.address.kind} {place}/{len(self.streams)} (frame {number}) {stream.address.shown}"
        frame = fit_live(frame, channels, stream.address.shown)
        fps = stream.fps / stream.vid_stride
        return SourceFrame(stream.name, frame, heading, number, fps, stream.vid_stride, live=True)

    def _await_first_attempts(self) -> None:
        with self._news:
            while not all(stream.tried for stream in self.streams):
                self._news.wait(0.2)
            self._check_threads()
            if not any(stream.received for stream in self.streams):
                others = f" (and {len(self.streams) - 1} more streams)" if len(self.streams) > 1 else ""
                raise InputError(f"{self.problems[0]}{others}; check the address, or start the camera first")
        for problem in self.problems:
            LOGGER.warning(f"WARNING: {problem}; it is tried again while the others run")

    def _check_threads(self) -> None:
        """Raise what went wrong in a thread."""
        for stream in self.streams:
            if stream.crash is not None:
                raise stream.crash

    def _given_up(self) -> bool:
        """Whether every stream has been silent for too long; it is noted as their failure."""
        going = [stream for stream in self.streams if not stream.finished]
        silent_s = min(time.monotonic() - stream.last_seen for stream in going)
        if not self.timing.give_up_s or silent_s < self.timing.give_up_s:
            return False
        LOGGER.warning(f"WARNING: no frame from any of {len(going)} streams for {silent_s:.0f} s: the run ends")
        for stream in going:
            stream.failure = stream.failure or f"no frame for {silent_s:.0f} s"
        return True


def _name_apart(streams: Sequence[Stream]) -> None:
    """Number the streams of one name: cam, cam_2, cam_3."""
    taken: set[str] = set()
    for stream in streams:
        wanted, number = stream.name, 1
        while stream.name in taken:
            number += 1
            stream.name = f"{wanted}_{number}"
        taken.add(stream.name)
