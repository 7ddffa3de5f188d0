"""Where results go: annotated media, text lines, a table, crops, windows; each asked once per image."""

from __future__ import annotations

import csv
import os
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from utils.core.errors import InputError
from utils.core.files import UniqueNames, check_space, folder_name, naming
from utils.datasets.sources.frames import SourceFrame
from utils.imaging.letterbox import letterbox
from utils.imaging.read import imwrite
from utils.ops.semantic_masks import colored, source_map
from utils.predict.results import DrawStyle, Result

WRITABLE_IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
CROP_QUALITY = 95  # of JPEG
ALBUM, ALBUM_FPS = "all_images.mp4", 30.0
SPACE_EVERY = 100  # frames of a video between two looks whether the disk still takes anything


class StopRunning(Exception):  # noqa: N818 - a wish of the user, not an error
    """The user asked in a window for the run to end."""


class Writer(Protocol):
    """Takes the results of a run one by one."""

    def write(self, result: Result) -> None: ...
    def close(self) -> None: ...


class VideoFile:
    """An .mp4 that is being written.

    A live source is written in its own time: the frames that were missed since the last one are filled by repeating
    the new one, up to a second's worth.

    Args:
        file: replaced if it exists.
        size_hw: of the images.

    Raises:
        InputError: OpenCV cannot write it, or did not write all of it.
    """

    def __init__(self, file: Path, size_hw: tuple[int, int], fps: float) -> None:
        self.file, self.size_hw, self.fps = file, size_hw, fps
        self.frames = 0
        self._last: int | None = None
        codec = cv2.VideoWriter_fourcc(*"mp4v")  # type: ignore[attr-defined]
        self._writer = cv2.VideoWriter(str(file), codec, fps, size_hw[::-1])
        if not self._writer.isOpened():
            raise InputError(f"{file}: OpenCV cannot write this video; add --nosave, or check the disk")

    def append(self, drawing: np.ndarray, source: SourceFrame) -> None:
        """Add the image drawn for a frame."""
        times = 1
        if source.live and source.number is not None and self._last is not None:
            times = min(max((source.number - self._last) // source.step, 1), max(round(self.fps), 1))
        self._last = source.number
        for _ in range(times):
            self._writer.write(drawing)
            self.frames += 1
            if self.frames % SPACE_EVERY == 0:
                check_space(self.file.parent)

    def close(self) -> None:
        """Finish the file, and look whether it is all there: OpenCV does not say so."""
        self._writer.release()
        written = cv2.VideoCapture(str(self.file))
        count = int(written.get(cv2.CAP_PROP_FRAME_COUNT)) if written.isOpened() else 0
        written.release()
        if count < self.frames:
            raise InputError(
                f"{self.file}: {count} of its {self.frames} frames could be written; free space, or --nosave"
            )


class MediaWriter:
    """Saves annotated images under their own names, annotated videos and streams as .mp4.

    A video whose size changes goes on in `<name>_2.mp4`.

    Args:
        folder: existing folder.
        style: how boxes are drawn.
        names: what gives the files their names, shared by all who write into the folder.
    """

    def __init__(self, folder: Path, style: DrawStyle, names: UniqueNames | None = None) -> None:
        self.folder, self.style = folder, style
        self._names = UniqueNames() if names is None else names
        self._videos: dict[str, VideoFile] = {}
        self._parts: Counter[str] = Counter()

    def write(self, result: Result) -> None:
        """Save the image, or append it to the video it is a frame of."""
        drawing, path = result.drawing(self.style), Path(result.source.path)
        if result.source.number is not None:
            self._append(drawing, result.source)
            return
        suffix = path.suffix if path.suffix.lower() in WRITABLE_IMAGES else ".jpg"
        imwrite(self.folder / self._names.take(str(path), path.stem, suffix), drawing)

    def close(self) -> None:
        """Finish the videos that are being written."""
        with ExitStack() as stack:
            for video in self._videos.values():
                stack.callback(video.close)
            self._videos.clear()

    def _append(self, drawing: np.ndarray, source: SourceFrame) -> None:
        height, width = drawing.shape[:2]
        video = self._videos.get(source.path)
        if video is None and not source.live:
            self.close()  # files come one after another
        if video is None or video.size_hw != (height, width):
            if video is not None:
                video.close()
            self._parts[source.path] += 1
            part = self._parts[source.path]
            owner = source.path if part == 1 else f"{source.path} from {width}x{height} on (part {part})"
            file = self.folder / self._names.take(owner, Path(source.path).stem, ".mp4")
            video = self._videos[source.path] = VideoFile(file, (height, width), source.fps)
        video.append(drawing, source)


class AlbumWriter:
    """Shows the annotated images, not videos, one after another in one .mp4; other sizes than the first are padded.

    Args:
        folder: existing folder.
        style: how boxes are drawn.
    """

    def __init__(self, folder: Path, style: DrawStyle) -> None:
        self.folder, self.style = folder, style
        self._video: VideoFile | None = None

    def write(self, result: Result) -> None:
        """Append the image."""
        if result.source.number is not None:
            return
        drawing = result.drawing(self.style)
        if self._video is None:
            self._video = VideoFile(self.folder / ALBUM, (drawing.shape[0], drawing.shape[1]), ALBUM_FPS)
        if drawing.shape[:2] != self._video.size_hw:
            drawing, _ = letterbox(drawing, self._video.size_hw)
        self._video.append(drawing, result.source)

    def close(self) -> None:
        """Finish the video."""
        if self._video is not None:
            self._video.close()


class SemanticMaskWriter:
    """Saves the semantic mask of each image: class numbers in `<stem>_mask.png`, their colors in `<stem>_color.png`.

    Args:
        folder: existing folder.
        names: as of `MediaWriter`.
    """

    def __init__(self, folder: Path, names: UniqueNames | None = None) -> None:
        self.folder = folder
        self._names = UniqueNames() if names is None else names

    def write(self, result: Result) -> None:
        """Save the semantic mask of one image; frames of videos have none saved."""
        semantic_mask, classes, path = result.semantic_mask, result.semantic, result.source.path
        if semantic_mask is None or classes is None or result.source.number is not None:
            return
        for kind, pixels in (("mask", semantic_mask), ("color", colored(semantic_mask, classes))):
            name = self._names.take(f"{path} ({kind})", f"{Path(path).stem}_{kind}", ".png")
            imwrite(self.folder / name, pixels)

    def close(self) -> None:
        """Nothing is left to write."""


class SubmissionWriter:
    """Saves semantic masks as a benchmark's server wants them: `<stem>_pred.png`, the data set's own label numbers.

    Args:
        folder: made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = UniqueNames()
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, result: Result) -> None:
        """Save the semantic mask of one image; frames of videos have none saved."""
        semantic_mask, classes, path = result.semantic_mask, result.semantic, result.source.path
        if semantic_mask is not None and classes is not None and result.source.number is None:
            name = self._names.take(path, f"{Path(path).stem}_pred", ".png")
            imwrite(self.folder / name, source_map(semantic_mask, classes))

    def close(self) -> None:
        """Nothing is left to write."""


class TextWriter:
    """Appends a line per object to `<stem>.txt`, `<stem>_<frame>.txt` for videos; no file where nothing was found.

    A second input of the same stem gets `<stem>_2.txt`, with a warning.

    Args:
        folder: made if missing.
        with_score: append the score to each line.
        corners: normalized x1, y1, x2, y2 instead of center and size.
    """

    def __init__(self, folder: Path, *, with_score: bool = False, corners: bool = False) -> None:
        self.folder, self.with_score, self.corners = folder, with_score, corners
        self._names = UniqueNames()
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, result: Result) -> None:
        """Append the lines of one image."""
        if lines := result.text_lines(with_score=self.with_score, corners=self.corners):
            path, number = result.source.path, result.source.number
            stem = self._names.take(path, Path(path).stem, "")
            file = self.folder / f"{stem if number is None else f'{stem}_{number}'}.txt"
            with open(file, "a", encoding="utf-8") as stream:
                stream.writelines(line + "\n" for line in lines)

    def close(self) -> None:
        """Nothing is left to write."""


class CsvWriter:
    """Writes one row per object: file name, class name, score.

    Args:
        file: replaced if it exists.
    """

    def __init__(self, file: Path) -> None:
        self._stream = open(file, "w", encoding="utf-8", newline="")  # noqa: SIM115 - closed by close()
        self._rows = csv.writer(self._stream)
        self._rows.writerow(("Image Name", "Prediction", "Confidence"))

    def write(self, result: Result) -> None:
        """Append the rows of one image."""
        name = Path(result.source.path).name
        with naming(self._stream.name):
            for label, score in zip(result.labels, result.boxes[:, 4].tolist(), strict=True):
                self._rows.writerow((name, label, f"{score:.5f}"))

    def close(self) -> None:
        """Flush and close the table."""
        with naming(self._stream.name):
            self._stream.close()


class CropWriter:
    """Saves each object to `<class>/<stem>.jpg`, `<stem>2.jpg`, ... without drawing on it; transparent ones as .png.

    Stems of frames end in their number, so theirs are `<video>_1.jpg`, `<video>_1_2.jpg`, ... for frame 1.

    Args:
        folder: parent of the class folders.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last: Counter[Path] = Counter()  # numbers given to the crops of images, whose stems may recur

    def write(self, result: Result) -> None:
        """Save the crops of one image."""
        last = self._last if result.source.number is None else Counter[Path]()
        between = "" if result.source.number is None else "_"
        for label, crop in result.crops():
            if crop.size:
                base = self.folder / folder_name(label) / result.stem
                transparent = crop.shape[2] == 4
                name = self._free_name(base, last, between, ".png" if transparent else ".jpg")
                imwrite(name, crop, quality=None if transparent else CROP_QUALITY)

    def close(self) -> None:
        """Nothing is left to write."""

    def _free_name(self, base: Path, last: Counter[Path], between: str, suffix: str) -> Path:
        """The next name of this stem and suffix that no file has, after number `last[base]`."""
        base.parent.mkdir(parents=True, exist_ok=True)
        while True:
            last[base] += 1
            name = base.with_name(f"{base.name}{f'{between}{last[base]}' if last[base] > 1 else ''}{suffix}")
            if not name.exists():
                return name


class WindowViewer:
    """Shows each source in a window; the key q ends the run.

    Raises:
        InputError: this OpenCV has no windows, or there is no screen.
    """

    def __init__(self, style: DrawStyle) -> None:
        self.style = style
        if sys.platform == "linux" and not (os.getenv("DISPLAY") or os.getenv("WAYLAND_DISPLAY")):
            raise InputError("--view-img: there is no screen (DISPLAY is not set); leave the flag out")
        try:
            cv2.namedWindow("OpenYOLOv5")
            cv2.destroyWindow("OpenYOLOv5")
        except cv2.error as error:
            raise InputError(
                "--view-img: this OpenCV is built without windows; "
                "pip uninstall opencv-python-headless, then pip install opencv-python"
            ) from error

    def write(self, result: Result) -> None:
        """Show one image; StopRunning once q was pressed."""
        cv2.imshow(result.source.path, result.drawing(self.style))
        if cv2.waitKey(1) & 0xFF == ord("q"):
            raise StopRunning

    def close(self) -> None:
        """Close the windows."""
        cv2.destroyAllWindows()
