"""Draw the detections of every available runtime side by side.

python tests/bench/draw_runtimes.py --weights best.pt --source photo.jpg --out docs/images/runtimes.jpg [--imgsz 320]
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path
from shutil import copyfile

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import export
from utils.backends.registry import FORMATS, OPENCV_DNN, find_format, load_backend
from utils.core.errors import InputError
from utils.core.logging import setup_logging
from utils.datasets.sources.frames import SourceFrame
from utils.imaging.read import imwrite, read_image
from utils.predict.predictor import Predictor
from utils.tasks.options import PREDICT_DEFAULTS
from utils.tasks.results import DrawStyle, Result

CPU = torch.device("cpu")
COLUMNS, TITLE_HEIGHT = 4, 24


def draw(file: str, source: Path, side: int, *, dnn: bool = False) -> np.ndarray:
    """Draw the detections of a model file under the name of its runtime."""
    backend = load_backend(file, device=CPU, dnn=dnn)
    predictor = Predictor(backend, PREDICT_DEFAULTS, size_hw=(side, side), auto=False)
    frame = read_image(source)
    rows = predictor.predict([frame])[0][0].boxes
    assert rows is not None
    result = Result(SourceFrame(str(source), frame, str(source)), rows.numpy(), backend.names)
    title = np.full((TITLE_HEIGHT, frame.shape[1], 3), 255, np.uint8)
    name = OPENCV_DNN.title if dnn else find_format(file).title
    cv2.putText(title, f"{name}: {len(rows)}", (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([title, result.draw(DrawStyle())])


def main() -> None:
    """Export, predict, draw."""
    parser = argparse.ArgumentParser(description="draw the detections of every runtime")
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint")
    parser.add_argument("--source", type=Path, required=True, help="an image file")
    parser.add_argument("--out", type=Path, required=True, help="image to write")
    parser.add_argument("--imgsz", type=int, default=320, help="image size")
    args = parser.parse_args()
    setup_logging()
    with tempfile.TemporaryDirectory() as folder:
        weights = copyfile(args.weights, Path(folder) / "model.pt")
        panels = [draw(str(weights), args.source, args.imgsz)]
        for fmt in FORMATS:
            try:
                include = [fmt.include] if fmt.include and fmt.cpu else []
                for file in export.run(weights=str(weights), imgsz=[args.imgsz], include=include) if include else ():
                    panels.append(draw(file, args.source, args.imgsz))
                    if fmt.ending == OPENCV_DNN.ending:
                        panels.append(draw(file, args.source, args.imgsz, dnn=True))
            except InputError as error:
                print(f"{fmt.title}: skipped: {error}")
    blank = np.full_like(panels[0], 255)
    panels += [blank] * (math.ceil(len(panels) / COLUMNS) * COLUMNS - len(panels))
    imwrite(
        args.out, np.vstack([np.hstack(panels[start : start + COLUMNS]) for start in range(0, len(panels), COLUMNS)])
    )
    print(f"saved to {args.out}")


if __name__ == "__main__":
    main()
