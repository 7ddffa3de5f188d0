"""A first run: `python -m utils.demo` trains, validates and detects on generated images and writes an HTML page.

It takes about five minutes on two cores and needs no network.
"""

from __future__ import annotations

import base64
import html
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detect
import train
import val
from utils.config.base import BaseConfig, option
from utils.config.flag_types import positive_int
from utils.core.logging import LOGGER
from utils.core.script import run_script

# Small images and one validation at the end, to be quick; --amp bf16 is ignored where it is slower.
TRAIN: dict[str, Any] = {
    "data": "shapes.yaml",
    "weights": "",
    "cfg": "yolov5n.yaml",
    "hyp": "hyp.shapes.yaml",
    "optimizer": "Muon",
    "imgsz": 256,
    "batch_size": 16,
    "cache": "ram",
    "amp": "bf16",
    "workers": 0,
    "noval": True,
}
VAL: dict[str, Any] = {"data": TRAIN["data"], "imgsz": 352}  # small objects are easier to detect in larger images
DETECT: dict[str, Any] = {"imgsz": 256}
NUM_DETECTIONS = 6  # images on the page
TYPES = {".jpg": "image/jpeg", ".png": "image/png"}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
img { max-width: 100%; border: 1px solid #ddd } table { border-collapse: collapse } figure { margin: 1rem 0 }
td, th { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right } td:first-child { text-align: left }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto } figcaption { color: #666 }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: 1rem }
"""


@dataclass(frozen=True)
class DemoConfig(BaseConfig):
    """Train, validate and detect on generated images, and write an HTML page about it."""

    epochs: int = option(24, "--epochs", type=positive_int, help="training epochs")
    project: str = option("runs/demo", "--project", help="folder of all results")
    device: str = option("", "--device", help="cpu, mps or a CUDA index; empty: CUDA if available")


@dataclass(frozen=True)
class Section:
    """A heading, a sentence, and images side by side.

    Attributes:
        images: files with captions; missing files are left out.
    """

    title: str
    text: str
    images: Mapping[Path, str]


def run(**options: Any) -> Path:
    """Run the demo with options as keyword arguments (epochs, project, device); the HTML page.

    Raises:
        InputError: an option is invalid, or the folders are not writable.
    """
    return run_demo(DemoConfig.from_kwargs(**options))


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line entry point."""
    run_demo(DemoConfig.from_args(argv))


def run_demo(config: DemoConfig) -> Path:
    """Train, validate and detect below `config.project`; the HTML page."""
    project, device = Path(config.project), config.device
    place = {"project": str(project), "exist_ok": True, "device": device}
    LOGGER.info(f"1/4 training: {TRAIN['cfg']} on {TRAIN['data']}, {config.epochs} epochs")
    fit: Any = train.run(**TRAIN, epochs=config.epochs, name="train", **place)
    weights = str(fit.best or fit.last)
    LOGGER.info(f"\n2/4 validation at {VAL['imgsz']} px")
    metrics, per_class, _ = val.run(**VAL, weights=weights, name="val", **place)
    LOGGER.info("\n3/4 detection")
    from utils.datasets.index.data_yaml import load_spec

    spec = load_spec(TRAIN["data"])
    source = str(spec.root / "images" / "val")
    detect.run(**DETECT, weights=weights, source=source, name="detect", **place)
    page = project / "index.html"
    table = format_table(metrics[:4], dict(zip(spec.names.values(), per_class, strict=True)))
    page.write_text(format_page(table, list_sections(project), list_commands(weights)), encoding="utf-8")
    LOGGER.info(f"\n4/4 the results on one page: {page.resolve().as_uri()}")
    return page


def list_commands(weights: str) -> dict[str, str]:
    """What to try next: a sentence and its command."""
    file = shlex.quote(weights)
    return {
        "Detect objects in a folder of images": f"python detect.py --weights {file} --source data/images",
        "Export the model to ONNX": f"python export.py --weights {file} --include onnx",
        "Train on your own data": "python train.py --data my.yaml --weights yolov5s.pt --img 640",
    }


def list_sections(project: Path) -> list[Section]:
    """The images of the page, from the folders train, val and detect."""
    training, validation = project / "train", project / "val"
    detections = sorted((project / "detect").glob("*.*g"))[:NUM_DETECTIONS]
    return [
        Section(
            "Training batch",
            "Mosaics of four images each, with their labels, as the network sees them.",
            {training / "train_batch0.jpg": "first batch of the first epoch"},
        ),
        Section("Curves", "Losses by epoch.", {training / "results.png": "train/results.png"}),
        Section(
            "Validation",
            "Precision against recall, and which classes are mistaken for which.",
            {
                validation / "PR_curve.png": "precision and recall",
                validation / "confusion_matrix.png": "confusion matrix",
            },
        ),
        Section(
            "Predictions",
            "Validation images: labels, and what the model predicts.",
            {validation / "val_batch0_labels.jpg": "labels", validation / "val_batch0_pred.jpg": "predictions"},
        ),
        Section("Detections", "Single images, as written by the detection command.", dict.fromkeys(detections, "")),
    ]


def format_table(metrics: Sequence[float], per_class: Mapping[str, float]) -> str:
    """HTML of precision, recall and AP.

    Args:
        metrics: precision, recall, mAP50, mAP50-95.
        per_class: AP50-95 by class name.
    """
    names = ("precision", "recall", "mAP50", "mAP50-95")
    rows = [*zip(names, metrics, strict=True), *((f"AP50-95 of {name}", value) for name, value in per_class.items())]
    return "<table>" + "".join(f"<tr><td>{html.escape(k)}</td><td>{v:.3f}</td></tr>" for k, v in rows) + "</table>"


def format_page(table: str, sections: Sequence[Section], commands: Mapping[str, str]) -> str:
    """A self-contained HTML page: images are part of it.

    Args:
        table: HTML of the metrics.
        commands: what to try next, a sentence each.
    """
    parts = [
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'><title>OpenYOLOv5 demo</title>",
        f"<style>{STYLE}</style></head>",
        "<body><h1>OpenYOLOv5 demo</h1>",
        f"<p>{TRAIN['cfg']}, trained from scratch on generated images, validated at {VAL['imgsz']} px:</p>",
        table,
    ]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2><p>{html.escape(section.text)}</p><div class=row>")
        parts += [format_image(file, caption) for file, caption in section.images.items() if file.is_file()]
        parts.append("</div>")
    parts.append("<h2>What to try next</h2>")
    parts += [f"<p>{html.escape(text)}:</p><pre>{html.escape(code)}</pre>" for text, code in commands.items()]
    return "\n".join([*parts, "</body></html>\n"])


def format_image(file: Path, caption: str) -> str:
    """HTML of an image with its caption (default: the file name)."""
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    text = html.escape(caption or file.name)
    source = f"data:{TYPES[file.suffix.lower()]};base64,{data}"
    return f"<figure><img alt='{text}' src='{source}'><figcaption>{text}</figcaption></figure>"


if __name__ == "__main__":
    run_script(main)
