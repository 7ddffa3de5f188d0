"""Background threads: order, limits, errors, cancellation, constant memory."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from models.yolo import DetectionModel
from utils.backends.pytorch import PyTorchBackend
from utils.core.errors import InputError
from utils.core.signals import StopSignals
from utils.datasets.sources.frames import SourceFrame
from utils.datasets.sources.media import MediaSource
from utils.predict.pipeline import BackgroundWriter, prefetch
from utils.predict.predictor import Predictor
from utils.predict.run import run_images
from utils.predict.writers import CropWriter, CsvWriter, MediaWriter, StopRunning, TextWriter, Writer
from utils.tasks import results
from utils.tasks.options import PostprocessOptions
from utils.tasks.results import DrawStyle, Result


def wait_for(truth: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.005)


def result(number: int) -> Result:
    frame = SourceFrame("clip.avi", np.zeros((4, 6, 3), np.uint8), f"frame {number}", number, 10.0)
    return Result(frame, np.zeros((0, 6), np.float32), {})


def find_threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def clip(path: Path, frames: int, size_hw: tuple[int, int] = (48, 64)) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, size_hw[::-1])
    rng = np.random.default_rng(0)
    for _ in range(frames):
        small = rng.integers(0, 255, (size_hw[0] // 8, size_hw[1] // 8, 3), np.uint8)
        writer.write(np.kron(small, np.ones((8, 8, 1), np.uint8)))
    writer.release()
    return path


class Collector:
    """A writer that records frame numbers, waiting for `gate` before each."""

    def __init__(self) -> None:
        self.numbers: list[int | None] = []
        self.gate, self.closed = threading.Event(), False
        self.gate.set()

    def write(self, result: Result) -> None:
        self.gate.wait()
        self.numbers.append(result.source.number)

    def close(self) -> None:
        self.closed = True


# -- prefetch ---------------------------------------------------------------------------------------------------------


def test_prefetch_is_limited_to_its_depth() -> None:
    produced: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            produced.append(number)
            yield number

    ahead = prefetch(items(), depth=4)
    with closing(ahead):
        assert next(ahead) == 0
        wait_for(lambda: len(produced) == 6)  # one taken, four in the queue, one waiting for room
        assert next(ahead) == 1
        wait_for(lambda: len(produced) == 7)
        assert not len(produced) > 7
        assert list(ahead) == list(range(2, 50))
    wait_for(lambda: not find_threads("reader"))


def test_reader_error_is_raised_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise InputError("disk: gone; find it")

    taken = []
    with pytest.raises(InputError, match="disk: gone"):
        for item in prefetch(items()):
            taken.append(item)
    assert taken == [1, 2]


def test_closing_ends_the_thread_and_its_iterator() -> None:
    ended = threading.Event()

    def items() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            ended.set()  # where a video is released

    ahead = prefetch(items())
    assert next(ahead) == 0
    ahead.close()
    assert ended.is_set()
    assert not find_threads("reader")


# -- background writer ------------------------------------------------------------------------------------------------


def test_results_are_written_in_order_before_close_returns() -> None:
    collector = Collector()
    writer = BackgroundWriter([collector], depth=2)
    collector.gate.clear()
    for number in range(2):
        writer.write(result(number))  # does not wait
    collector.gate.set()
    for number in range(2, 30):
        writer.write(result(number))
    writer.close()
    assert collector.numbers == list(range(30))
    assert collector.closed and not find_threads("writer")


def test_slow_writer_blocks_the_run() -> None:
    collector = Collector()
    collector.gate.clear()
    writer = BackgroundWriter([collector], depth=2)
    written: list[int] = []

    def write() -> None:
        for number in range(10):
            writer.write(result(number))
            written.append(number)

    thread = threading.Thread(target=write)
    thread.start()
    wait_for(lambda: len(written) == 3)  # one being written, two in the queue
    time.sleep(0.05)
    assert len(written) == 3
    collector.gate.set()
    thread.join(10)
    writer.close()
    assert collector.numbers == list(range(10))


class Refusing(Collector):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, result: Result) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), r"clip\.avi: results cannot be written: .*No space left"),
        (InputError("a.mp4: OpenCV cannot write this video"), "OpenCV cannot write"),
    ],
)
def test_writer_error_ends_the_run(error: Exception, message: str) -> None:
    other = Collector()
    writer = BackgroundWriter([other, Refusing(error)])
    with pytest.raises(InputError, match=message):
        for number in range(100):
            writer.write(result(number))
            wait_for(lambda: writer._pending[0].done())
    writer.close()
    assert other.closed and other.numbers == [0]


def test_error_of_the_last_result_is_raised_by_close() -> None:
    writer = BackgroundWriter([Refusing(InputError("no"))])
    writer.write(result(1))
    with pytest.raises(InputError, match="no"):
        writer.close()


# -- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """Untrained network with three detections per image."""
    torch.manual_seed(0)
    model: Any = DetectionModel("yolov5n.yaml", nc=2).eval()
    model.names = {0: "cat", 1: "dog"}
    backend = PyTorchBackend(model, device=torch.device("cpu"))
    options = PostprocessOptions(0.0, 0.45, max_det=3, multi_label=False, original=True, round_boxes=True)
    return Predictor(backend, options, size_hw=(64, 64))


class Finder:
    """A fast backend with one detection in the middle of each image."""

    task, stride, names, channels, dtype, fixed_hw = "detect", 32, {0: "thing"}, 3, torch.float32, None
    has_thread_pool = False
    device = torch.device("cpu")
    semantic = None

    def forward(self, images: Tensor, **_: object) -> Tensor:
        height, width = images.shape[2:]
        return torch.tensor([[[width / 2, height / 2, width / 2, height / 2, 0.9, 1.0]]]).repeat(len(images), 1, 1)

    def warmup(self, size_hw: tuple[int, int]) -> None: ...


def finder(fixed_hw: tuple[int, int] | None = None) -> Predictor:
    backend: Any = Finder()
    backend.fixed_hw = fixed_hw
    options = PostprocessOptions(0.25, 0.45, max_det=1000, multi_label=False, original=True)
    return Predictor(backend, options, size_hw=(64, 64))


def all_writers(folder: Path) -> list[Writer]:
    folder.mkdir()
    text = TextWriter(folder / "labels", with_score=True)
    return [CropWriter(folder / "crops"), text, CsvWriter(folder / "a.csv"), MediaWriter(folder, DrawStyle())]


def test_overlapped_run_writes_the_same_files_as_a_sequential_one(predictor: Predictor, tmp_path: Path) -> None:
    files = [str(clip(tmp_path / "one.avi", 25)), str(clip(tmp_path / "two.avi", 9, (64, 48)))]
    cv2.imwrite(str(tmp_path / "three.png"), np.full((40, 50, 3), 90, np.uint8))
    files.append(str(tmp_path / "three.png"))
    for overlap, name in ((True, "overlapped"), (False, "sequential")):
        writers = all_writers(tmp_path / name)
        assert run_images(MediaSource(files), predictor, writers, overlap=overlap) == 35
    first, second = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("overlapped", "sequential")
    )
    assert len(first) > 35 and first == second


def test_nothing_is_drawn_without_saving_or_viewing(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(results, "draw_boxes", lambda frame, *_, **__: drawn.append(1) or frame)
    monkeypatch.setattr(results, "to_bgr", lambda frame: drawn.append(1) or frame)
    source = str(clip(tmp_path / "clip.avi", 5))
    text = TextWriter(tmp_path / "labels")
    assert run_images(MediaSource([source]), predictor, [text]) == 5
    assert not drawn
    run_images(MediaSource([source]), predictor, [MediaWriter(tmp_path, DrawStyle())])
    assert len(drawn) == 10  # a copy and a drawing of each


def test_windows_are_called_in_the_main_thread_and_q_ends_the_run(predictor: Predictor, tmp_path: Path) -> None:
    class Window(Collector):
        def write(self, result: Result) -> None:
            assert threading.current_thread() is threading.main_thread()
            super().write(result)
            if len(self.numbers) == 4:
                raise StopRunning

    window, written = Window(), Collector()
    source = MediaSource([str(clip(tmp_path / "clip.avi", 50))])
    assert run_images(source, predictor, [written], viewers=[window]) == 4
    assert window.numbers == [1, 2, 3, 4]
    assert written.numbers == [1, 2, 3, 4] and written.closed  # what was shown is kept
    assert not find_threads("reader") and not find_threads("writer")


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself Ctrl-C there")
@pytest.mark.parametrize("endless", [True, False])
def test_ctrl_c_ends_all_threads_and_keeps_results(tmp_path: Path, endless: bool) -> None:
    class Interrupting(Collector):
        def write(self, result: Result) -> None:
            super().write(result)
            if len(self.numbers) == 3:
                signal.raise_signal(signal.SIGINT)

    viewer, written = Interrupting(), Collector()
    source = MediaSource([str(clip(tmp_path / "clip.avi", 50))], endless=endless)
    if endless:  # the usual end of a watched folder or a stream
        assert run_images(source, finder(), [written], viewers=[viewer]) == 3
    else:
        with pytest.raises(KeyboardInterrupt):
            run_images(source, finder(), [written], viewers=[viewer])
    assert written.closed and written.numbers == [1, 2, 3]  # what was counted is kept
    assert not find_threads("reader") and not find_threads("writer")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("endless", [True, False])
def test_stop_signal_ends_the_source(tmp_path: Path, number: signal.Signals, endless: bool) -> None:
    class Stopping(Collector):
        def write(self, result: Result) -> None:
            super().write(result)
            if len(self.numbers) == 3:
                signal.raise_signal(number)

    written, source = Collector(), MediaSource([str(clip(tmp_path / "clip.avi", 50))], endless=endless)
    with StopSignals() as stop:
        assert run_images(source, finder(), [written], viewers=[Stopping()], stop=stop) == 3
    assert stop.received == number
    assert written.closed and written.numbers == [1, 2, 3]
    assert not find_threads("reader") and not find_threads("writer")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_stop_signal_does_not_interrupt_closing(tmp_path: Path) -> None:
    class Closing(Collector):
        def close(self) -> None:
            signal.raise_signal(signal.SIGTERM)
            super().close()

    window, source = Closing(), MediaSource([str(clip(tmp_path / "clip.avi", 5))])
    with StopSignals() as stop:
        assert run_images(source, finder(), [Collector()], viewers=[window], stop=stop) == 5
    assert window.closed and stop.received == signal.SIGTERM


def test_nothing_is_written_after_an_error() -> None:
    """Queued frames would leave a gap in a video."""

    class Once(Collector):
        def write(self, result: Result) -> None:
            super().write(result)
            if result.source.number == 2:
                raise OSError(28, "No space left on device")

    written = Once()
    written.gate.clear()
    writer = BackgroundWriter([written])
    for number in (1, 2, 3, 4):
        writer.write(result(number))
    written.gate.set()
    with pytest.raises(InputError, match="No space left on device; free disk space, or add --nosave"):
        writer.close()
    assert written.numbers == [1, 2] and written.closed


def test_error_on_close_is_one_line() -> None:
    class Full(Collector):
        def close(self) -> None:
            raise OSError(28, "No space left on device", "clip.mp4")

    with pytest.raises(InputError, match=r"^results cannot be written: .*No space left.*clip\.mp4"):
        BackgroundWriter([Full()]).close()


def test_full_disk_ends_a_run_and_its_threads(tmp_path: Path) -> None:
    source = MediaSource([str(clip(tmp_path / "clip.avi", 200))])
    with pytest.raises(InputError, match=r"cannot be written: .*No space left"):
        run_images(source, finder(), [Refusing(OSError(28, "No space left on device"))])
    assert not find_threads("reader") and not find_threads("writer")


@pytest.mark.parametrize(("fixed_hw", "batches"), [(None, [3, 1, 3, 1]), ((64, 64), [4, 4])])
def test_frames_of_equal_input_size_are_batched(fixed_hw: tuple[int, int] | None, batches: list[int]) -> None:
    sizes = [(48, 64), (96, 128), (48, 64), (48, 64)]

    class Live:
        live = endless = True
        inputs, problems = 4, []

        def batches(self, channels: int = 3) -> Iterator[list[SourceFrame]]:
            for number in (1, 2):
                yield [
                    SourceFrame(f"s{i}", np.zeros((*size, 3), np.uint8), "", number, 30.0, live=True)
                    for i, size in enumerate(sizes)
                ]

        def close(self) -> None: ...

    predictor, seen, written = finder(fixed_hw), [], Collector()
    forward = predictor.backend.forward
    predictor.backend.forward = lambda images, **more: seen.append(len(images)) or forward(images, **more)  # type: ignore[method-assign, func-returns-value]
    assert run_images(Live(), predictor, [written]) == 8
    assert seen == batches
    assert written.numbers == [1] * 4 + [2] * 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_constant_over_two_thousand_frames(tmp_path: Path) -> None:
    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    class Watch(Collector):
        sizes: list[float] = []  # noqa: RUF012

        def write(self, result: Result) -> None:
            if result.source.number is not None and result.source.number % 100 == 0:
                self.sizes.append(resident_mb())

    clip(tmp_path / "clip.avi", 2000, (144, 192))
    watch = Watch()
    writers = [*all_writers(tmp_path / "run")[1:], watch]  # no crops: thousands of files take time
    assert run_images(MediaSource([str(tmp_path / "clip.avi")]), finder(), writers) == 2000
    assert len(watch.sizes) == 20
    assert max(watch.sizes) - watch.sizes[3] < 10, watch.sizes  # all frames are 166 MB
