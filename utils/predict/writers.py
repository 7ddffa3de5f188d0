"""Result writers: annotated images and videos, semantic masks, label files, CSV, crops, windows."""

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

from utils.core.errors import InputError, to_one_line
from utils.core.files import UniqueNames, add_path_to_errors, to_folder_name
from utils.datasets.sources.frames import SourceFrame
from utils.imaging.letterbox import letterbox
from utils.imaging.read import imwrite
from utils.ops.boxes import xyxy_to_ltwh
from utils.ops.semantic_masks import colorize, to_source_ids
from utils.predict.video import VideoFile
from utils.tasks.results import DrawStyle, Result

WRITABLE_IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
CROP_JPEG_QUALITY = 95
SLIDESHOW_FILE, SLIDESHOW_FPS = "all_images.mp4", 30.0


class StopRunning(Exception):  # noqa: N818 - not an error
    """The user pressed q in a window."""


class Writer(Protocol):
    """Writes the results of a run, one per image."""

    def write(self, result: Result) -> None: ...
    def close(self) -> None:
        """Finish the files; most writers have none open."""
        return


class MediaWriter(Writer):
    """Saves annotated images under their file names, annotated videos and streams as .mp4.

    A video whose frame size changes continues in `<name>_2.mp4`.

    Args:
        folder: existing folder.
        names: names of output files, shared by all writers of the folder.
    """

    def __init__(self, folder: Path, style: DrawStyle, names: UniqueNames | None = None) -> None:
        self.folder, self.style = folder, style
        self._names = UniqueNames() if names is None else names
        self._videos: dict[str, VideoFile] = {}
        self._parts: Counter[str] = Counter()

    def write(self, result: Result) -> None:
        """Save the image, or append it to the video it is a frame of."""
        annotated, path = result.draw(self.style), Path(result.source.path)
        if result.source.number is not None:
            self._append(annotated, result.source)
            return
        suffix = path.suffix if path.suffix.lower() in WRITABLE_IMAGES else ".jpg"
        imwrite(self.folder / self._names.assign(str(path), path.stem, suffix), annotated)

    def close(self) -> None:
        with ExitStack() as stack:
            for video in self._videos.values():
                stack.callback(video.close)
            self._videos.clear()

    def _append(self, annotated: np.ndarray, source: SourceFrame) -> None:
        video = self._videos.get(source.path)
        if video is None and not source.live:
            self.close()  # files come one after another
        if video is None or video.size_hw != annotated.shape[:2]:
            if video is not None:
                video.close()
            self._parts[source.path] += 1
            part = self._parts[source.path]
            owner = source.path if part == 1 else f"{source.path} (part {part})"
            file = self.folder / self._names.assign(owner, Path(source.path).stem, ".mp4")
            video = self._videos[source.path] = VideoFile(file, annotated.shape[:2], source.fps)
        video.append(annotated, source)


class SlideshowWriter(Writer):
    """Saves all annotated images (not videos) as frames of one .mp4, letterboxed to the size of the first.

    Args:
        folder: existing folder.
    """

    def __init__(self, folder: Path, style: DrawStyle) -> None:
        self.folder, self.style = folder, style
        self._video: VideoFile | None = None

    def write(self, result: Result) -> None:
        if result.source.number is not None:
            return
        annotated = result.draw(self.style)
        if self._video is None:
            self._video = VideoFile(self.folder / SLIDESHOW_FILE, annotated.shape[:2], SLIDESHOW_FPS)
        if annotated.shape[:2] != self._video.size_hw:
            annotated, _ = letterbox(annotated, self._video.size_hw)
        self._video.append(annotated, result.source)

    def close(self) -> None:
        if self._video is not None:
            self._video.close()


class SemanticMaskWriter(Writer):
    """Saves the semantic mask of each image: class numbers in `<stem>_mask.png`, colors in `<stem>_color.png`.

    Args:
        folder: existing folder.
        names: as for `MediaWriter`.
    """

    def __init__(self, folder: Path, names: UniqueNames) -> None:
        self.folder, self._names = folder, names

    def write(self, result: Result) -> None:
        """Save the semantic mask of one image; frames of videos are skipped."""
        semantic_mask, classes, path = result.semantic_mask, result.semantic, result.source.path
        if semantic_mask is None or classes is None or result.source.number is not None:
            return
        for kind, pixels in (("mask", semantic_mask), ("color", colorize(semantic_mask, classes))):
            name = self._names.assign(f"{path} ({kind})", f"{Path(path).stem}_{kind}", ".png")
            imwrite(self.folder / name, pixels)


class SubmissionWriter(Writer):
    """Saves semantic masks for a benchmark server: `<stem>_pred.png` with the label numbers of the data set.

    Args:
        folder: created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = UniqueNames()
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, result: Result) -> None:
        """Save the semantic mask of one image; frames of videos are skipped."""
        semantic_mask, classes, path = result.semantic_mask, result.semantic, result.source.path
        if semantic_mask is not None and classes is not None and result.source.number is None:
            name = self._names.assign(path, f"{Path(path).stem}_pred", ".png")
            imwrite(self.folder / name, to_source_ids(semantic_mask, classes))


class TextWriter(Writer):
    """Appends a line per object to `<stem>.txt`, for videos `<stem>_<frame>.txt`; no file without objects.

    A second input with the same stem gets `<stem>_2.txt`, with a warning.

    Args:
        folder: created if missing.
        with_score: append the score to each line.
        corners: normalized x1, y1, x2, y2 instead of center and size.
    """

    def __init__(self, folder: Path, *, with_score: bool = False, corners: bool = False) -> None:
        self.folder, self.with_score, self.corners = folder, with_score, corners
        self._names = UniqueNames()
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, result: Result) -> None:
        if lines := result.to_text_lines(with_score=self.with_score, corners=self.corners):
            path, number = result.source.path, result.source.number
            stem = self._names.assign(path, Path(path).stem, "")
            file = self.folder / f"{stem if number is None else f'{stem}_{number}'}.txt"
            with open(file, "a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.writelines(line + "\n" for line in lines)


class MotWriter(Writer):
    """Writes the tracks of each source to `<stem>.txt`: frame, id, left, top, width, height, score, -1, -1, -1.

    Frames count from 1; boxes are in pixels (the result format of the MOT Challenge, arXiv:1603.00831).

    Args:
        folder: created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = UniqueNames()
        self._images = 0
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, result: Result) -> None:
        source = result.source
        self._images += source.number is None
        if result.tracks is None:
            return
        number = self._images if source.number is None else source.number
        name = "images" if source.number is None else self._names.assign(source.path, Path(source.path).stem, "")
        boxes = xyxy_to_ltwh(result.boxes[:, :4])
        rows = zip(result.tracks.ids.tolist(), boxes.tolist(), result.boxes[:, 4].tolist(), strict=True)
        with open(self.folder / f"{name}.txt", "a", encoding="utf-8", errors="backslashreplace") as stream:
            for track, box, score in sorted(rows):
                stream.write(f"{number},{track},{','.join(f'{v:.2f}' for v in box)},{score:.4f},-1,-1,-1\n")


class CsvWriter(Writer):
    """Writes a CSV table with a row per object, least certain first: file name, class name, score.

    Args:
        file: replaced if it exists.
        with_ids: write the id of the track, too.
    """

    def __init__(self, file: Path, *, with_ids: bool = False) -> None:
        self.with_ids = with_ids
        self._stream = open(  # noqa: SIM115 - closed by close()
            file, "w", encoding="utf-8", newline="", errors="backslashreplace"
        )
        self._csv = csv.writer(self._stream)
        self._csv.writerow(("Image Name", "Prediction", "Confidence", *(("ID",) if with_ids else ())))

    def write(self, result: Result) -> None:
        name = Path(result.source.path).name
        with add_path_to_errors(self._stream.name):
            scores = result.boxes[:, 4].tolist()
            rows = [[name, label, f"{score:.2f}"] for label, score in zip(result.labels, scores, strict=True)]
            if self.with_ids and result.tracks is not None:
                rows = [[*row, str(number)] for row, number in zip(rows, result.tracks.ids.tolist(), strict=True)]
            self._csv.writerows(reversed(rows))
            self._stream.flush()  # a kill loses no rows

    def close(self) -> None:
        with add_path_to_errors(self._stream.name):
            self._stream.close()


class CropWriter(Writer):
    """Saves the crop of each object to `<class>/<stem>.jpg`, `<stem>2.jpg`, ..., the least certain of an image first.

    Crops with transparency become .png. The number of a video's crops runs over all of its frames.

    Args:
        folder: parent of the class folders, created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._last: Counter[Path] = Counter()  # number of the last crop of each stem

    def write(self, result: Result) -> None:
        for label, crop in result.extract_crops():
            if crop.size:
                base = self.folder / to_folder_name(label) / Path(result.source.path).stem
                transparent = crop.shape[2] == 4
                name = self._find_free_name(base, ".png" if transparent else ".jpg")
                imwrite(name, crop, quality=None if transparent else CROP_JPEG_QUALITY)

    def _find_free_name(self, base: Path, suffix: str) -> Path:
        """The next unused name of this stem and suffix."""
        base.parent.mkdir(exist_ok=True)
        while True:
            self._last[base] += 1
            number = self._last[base]
            name = base.with_name(f"{base.name}{number if number > 1 else ''}{suffix}")
            if not name.exists():
                return name


class WindowViewer(Writer):
    """Shows each source in a window; the key q ends the run.

    Raises:
        InputError: OpenCV is built without GUI support, or there is no display.
    """

    def __init__(self, style: DrawStyle) -> None:
        self.style = style
        if sys.platform == "linux" and not (os.getenv("DISPLAY") or os.getenv("WAYLAND_DISPLAY")):
            raise InputError("--view-img: no display (DISPLAY is not set); remove the flag")
        try:
            cv2.namedWindow("OpenYOLOv5")
            cv2.destroyWindow("OpenYOLOv5")
        except cv2.error as error:
            raise InputError(
                "--view-img: OpenCV is built without GUI support; "
                "pip uninstall opencv-python-headless, then pip install opencv-python"
            ) from error

    def write(self, result: Result) -> None:
        """Show one image; raises StopRunning if q is pressed."""
        cv2.imshow(to_one_line(result.source.path), result.draw(self.style))
        if cv2.waitKey(1) & 0xFF == ord("q"):
            raise StopRunning

    def close(self) -> None:
        cv2.destroyAllWindows()
