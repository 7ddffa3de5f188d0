"""Live streams: one reader thread per stream, newest frame only, automatic reconnection."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, count

import cv2
import numpy as np

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.sources.capture import HLS, VIDEO_FILE, LiveAddress, StreamError, open_capture
from utils.datasets.sources.frames import DEFAULT_FPS, SourceFrame, fit_live_channels, sanitize_fps
from utils.datasets.sources.media import COMPLETE_SHARE

JOIN_TIMEOUT_S = 2.0  # for the threads of a closed source
MAX_FRAMES = 1e9  # of a recording; endless streams report meaningless larger numbers


@dataclass(frozen=True)
class StreamTiming:
    """Timeouts and reconnection delays of streams, in seconds.

    Attributes:
        open_timeout_s, read_timeout_s: for a connection, and for a frame.
        retry_delay_s, max_retry_delay_s: before the first attempt to reconnect; doubles up to the maximum.
        idle_timeout_s: the run ends if no stream sends a frame for this long; 0 waits forever.
    """

    open_timeout_s: float = 10.0
    read_timeout_s: float = 10.0
    retry_delay_s: float = 1.0
    max_retry_delay_s: float = 30.0
    idle_timeout_s: float = 60.0


class Stream:
    """A live source and its reader thread; keeps the newest frame only.

    A recording (its number of frames is known) and an HLS stream, which arrive faster than they play, are read at their
    frame rate. A recording is finished at its end, everything else is reconnected.

    Args:
        connect: opens the source; raises StreamError if it cannot.
        condition: notified of each frame and each failure; guards the attributes.
        vid_stride: sample every Nth frame.

    Attributes:
        fps: frame rate of the source.
        total_frames: frames of a recording; infinite for others.
        num_frames: frames received so far, over all connections.
        failure: why there are no frames at present, or "".
        last_frame_time: time of the last frame, or of the start.
        attempted: the first attempt to connect is over.
        finished: a recording is over.
        error: an unexpected exception in the thread.
        stopped: ends the thread after the frame that it waits for.
    """

    def __init__(
        self,
        address: LiveAddress,
        connect: Callable[[], cv2.VideoCapture],
        *,
        condition: threading.Condition,
        timing: StreamTiming,
        vid_stride: int = 1,
    ) -> None:
        self.address, self.connect, self.condition = address, connect, condition
        self.timing, self.vid_stride = timing, vid_stride
        self.name = address.name
        self.fps, self.num_frames, self.failure = DEFAULT_FPS, 0, ""
        self.total_frames = math.inf
        self.last_frame_time = time.monotonic()
        self.attempted = self.finished = False
        self.error: BaseException | None = None
        self._newest: tuple[np.ndarray, int] | None = None
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"reader of {address.display}", daemon=True)

    def pop_newest(self) -> tuple[np.ndarray, int] | None:
        """The newest frame and its number; None if there is no new one since the last call."""
        newest, self._newest = self._newest, None
        return newest

    def _run(self) -> None:
        try:
            delay = self.timing.retry_delay_s
            while not self.stopped.is_set():
                before = self.num_frames
                reason = self._run_connection()
                if self.finished or self.stopped.is_set():
                    return
                delay = self.timing.retry_delay_s if self.num_frames > before else delay
                if self.attempted:  # failures of the first attempt are reported for all streams at once
                    LOGGER.warning(f"WARNING: {self.address}: {reason}; reconnecting in {delay:g} s")
                self._set_state(failure=reason)
                self.stopped.wait(delay)
                delay = min(2 * delay, self.timing.max_retry_delay_s)
        except BaseException as error:
            self._set_state(error=error)

    def _run_connection(self) -> str:
        """Open the source and read it to its end; returns why it ended."""
        try:
            capture = self.connect()
        except StreamError as error:
            return f"cannot be opened: {error}"
        try:
            return self._read(capture)
        finally:
            capture.release()

    def _read(self, capture: cv2.VideoCapture) -> str:
        fps, total = sanitize_fps(capture.get(cv2.CAP_PROP_FPS)), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        is_recording, is_file = 0 < total < MAX_FRAMES, self.address.kind == VIDEO_FILE
        throttled = is_recording or is_file or self.address.kind == HLS
        self.total_frames = total if is_recording else math.inf
        start, grabbed = time.monotonic(), 0
        while not self.stopped.is_set() and capture.grab():
            grabbed += 1
            decoded, frame = capture.retrieve() if (grabbed - 1) % self.vid_stride == 0 else (False, None)
            if grabbed == 1 and frame is not None:
                LOGGER.info(f"{self.address}: {frame.shape[1]}x{frame.shape[0]} at {fps:g} FPS")
            self._publish(frame if decoded else None, fps)
            if throttled:
                self.stopped.wait(max(0.0, start + grabbed / fps - time.monotonic()))
        if is_file or (is_recording and grabbed >= total * COMPLETE_SHARE):
            self._set_state(finished=True)
        silent_s = time.monotonic() - max(start, self.last_frame_time)
        if silent_s >= self.timing.read_timeout_s:
            return f"no frame for {silent_s:.0f} s"
        return f"lost after {grabbed} frames" if grabbed else "connected, but sent no frame"

    def _publish(self, frame: np.ndarray | None, fps: float) -> None:
        """Count a frame, and keep it as the newest if it was decoded."""
        with self.condition:
            self.num_frames += 1
            if frame is not None:
                self._newest = (frame, self.num_frames)
                self.fps, self.failure, self.last_frame_time, self.attempted = fps, "", time.monotonic(), True
                self.condition.notify_all()

    def _set_state(self, *, failure: str = "", finished: bool = False, error: BaseException | None = None) -> None:
        with self.condition:
            self.failure, self.finished, self.error, self.attempted = failure, finished, error, True
            self.condition.notify_all()


class StreamSource:
    """Frames of live sources: each batch has the newest frame of every stream with a new one.

    A stream without frames is left out until it recovers. The threads start at once.

    Args:
        addresses: the streams.
        vid_stride: sample every Nth frame of each.
        connect: opens a stream; raises StreamError if it cannot.

    Raises:
        InputError: no stream sends a frame at the first attempt.
    """

    live = endless = True

    def __init__(
        self,
        addresses: Sequence[LiveAddress],
        *,
        vid_stride: int = 1,
        timing: StreamTiming | None = None,
        connect: Callable[[LiveAddress], cv2.VideoCapture] | None = None,
    ) -> None:
        self.timing = timing = timing or StreamTiming()
        open_ms, read_ms = round(1000 * timing.open_timeout_s), round(1000 * timing.read_timeout_s)
        connect = connect or partial(open_capture, open_ms=open_ms, read_ms=read_ms)
        self._condition = threading.Condition()
        self._closed = False
        self.streams = [
            Stream(a, partial(connect, a), condition=self._condition, timing=timing, vid_stride=vid_stride)
            for a in addresses
        ]
        self.num_inputs = len(addresses)
        names: set[str] = set()
        for stream in self.streams:
            numbered = (f"{stream.address.name}_{number}" for number in count(2))
            stream.name = next(name for name in chain([stream.address.name], numbered) if name not in names)
            names.add(stream.name)
        for stream in self.streams:
            stream.thread.start()
        try:
            self._await_first_attempts()
        except BaseException:
            self.close()
            raise

    @property
    def problems(self) -> list[str]:
        """Streams without frames at present."""
        return [f"{stream.address}: {stream.failure}" for stream in self.streams if stream.failure]

    def batches(self, channels: int = 3) -> Iterator[list[SourceFrame]]:
        """New frames as they arrive; ends once all recordings are over or no stream has sent any for a while."""
        while not self._closed:
            with self._condition:
                newest = [(position, stream, stream.pop_newest()) for position, stream in enumerate(self.streams, 1)]
                self._raise_thread_errors()
                frames = [self._to_source_frame(stream, i, *item, channels) for i, stream, item in newest if item]
                if not frames:
                    if all(stream.finished for stream in self.streams) or self._is_idle():
                        return
                    self._condition.wait(0.2)
                    continue
            yield frames

    def close(self) -> None:
        """Stop the threads; one that waits for a dead server ends after `read_timeout_s` at the latest."""
        self._closed = True
        for stream in self.streams:
            stream.stopped.set()
        with self._condition:
            self._condition.notify_all()
        end = time.monotonic() + JOIN_TIMEOUT_S
        for stream in self.streams:
            stream.thread.join(max(0.0, end - time.monotonic()))

    def _to_source_frame(
        self, stream: Stream, position: int, frame: np.ndarray, number: int, channels: int
    ) -> SourceFrame:
        display = stream.address.display
        heading = f"{stream.address.kind} {position}/{len(self.streams)} (frame {number}) {display}"
        frame = fit_live_channels(frame, channels, display)
        fps = stream.fps / stream.vid_stride
        return SourceFrame(stream.name, frame, heading, number, fps, stream.vid_stride, live=True)

    def _await_first_attempts(self) -> None:
        with self._condition:
            while not all(stream.attempted for stream in self.streams):
                self._condition.wait(0.2)
            self._raise_thread_errors()
            if not any(stream.num_frames for stream in self.streams):
                others = f" (and {len(self.streams) - 1} more streams)" if len(self.streams) > 1 else ""
                raise InputError(f"{self.problems[0]}{others}; check the address, or start the camera first")
        for problem in self.problems:
            LOGGER.warning(f"WARNING: {problem}; retrying while the other streams run")

    def _raise_thread_errors(self) -> None:
        for stream in self.streams:
            if stream.error is not None:
                raise stream.error

    def _is_idle(self) -> bool:
        """Whether no unfinished stream has sent a frame for `idle_timeout_s`; recorded as their failure."""
        running = [stream for stream in self.streams if not stream.finished]
        silent_s = min(time.monotonic() - stream.last_frame_time for stream in running)
        if not self.timing.idle_timeout_s or silent_s < self.timing.idle_timeout_s:
            return False
        LOGGER.warning(f"WARNING: no frame from any of {len(running)} streams for {silent_s:.0f} s, stopping")
        for stream in running:
            stream.failure = stream.failure or f"no frame for {silent_s:.0f} s"
        return True
