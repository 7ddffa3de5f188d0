"""Start-up time and memory of training on a million labeled images.

    python tests/bench/bench_million.py FOLDER [--images 1000000] [--workers 2] [--verify N]

Fills FOLDER with hard links to a few images and label files (about 200 bytes per image) and removes it at the end; uses
and keeps an existing folder. Measures the creation of the links, the first start, which verifies every image, and the
second one, which reads the cache. With --verify only N images are verified; the others, links to the same files, repeat
their entries.

Memory is measured in the second start, for the main process and each worker: unique and proportional set size, at first
and after many batches. Growth means that shared memory was copied.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from utils.config.hyp import Hyperparameters  # noqa: E402
from utils.datasets.detection import DetectionDataset  # noqa: E402
from utils.datasets.index.data_yaml import load_spec  # noqa: E402
from utils.datasets.index.image_index import ImageIndex  # noqa: E402
from utils.datasets.index.labels import load_index, verify_images  # noqa: E402
from utils.datasets.index.shared_arrays import PathTable  # noqa: E402
from utils.datasets.loader import build_loader  # noqa: E402

LINKS = 40_000  # per file; ext4 allows 65,000
PER_FOLDER = 10_000
OBJECTS = 7  # per image, as in COCO
SIDE = 64  # pixels: decoding is not measured
BATCHES = (20, 400)


def write_set(folder: Path, count: int) -> Path:
    """Write hard links in numbered folders, and the data YAML."""
    rng = np.random.default_rng(0)
    for n in range(count):
        part = f"{n // PER_FOLDER:03d}"
        image, label = folder / "images" / part / f"{n:07d}.jpg", folder / "labels" / part / f"{n:07d}.txt"
        if n % PER_FOLDER == 0:
            image.parent.mkdir(parents=True)
            label.parent.mkdir(parents=True)
        source, number = folder / "first" / f"{n // LINKS}", n % LINKS
        if number == 0:
            source.parent.mkdir(exist_ok=True)
            cv2.imwrite(f"{source}.jpg", cv2.resize(rng.integers(0, 255, (4, 4, 3)).astype(np.uint8), (SIDE, SIDE)))
            centers = rng.uniform(0.3, 0.7, (OBJECTS, 2))
            Path(f"{source}.txt").write_text(
                "".join(f"{i % 3} {x:.4f} {y:.4f} 0.2 0.2\n" for i, (x, y) in enumerate(centers))
            )
        os.link(f"{source}.jpg", image)
        os.link(f"{source}.txt", label)
    file = folder / "million.yaml"
    file.write_text("path: .\ntrain: images\nval: images\nnames: [a, b, c]\n")
    return file


def memory_mb(pid: int | str = "self") -> dict[str, float]:
    """Resident, proportional and unique set size of a process in MB; anonymous shared pages count as unique."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    unique = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return {"resident": round(sizes["Rss"]), "proportional": round(sizes["Pss"]), "unique": round(unique)}


def verify_some(
    limit: int, results: dict[str, object], images: Sequence[str], labels: Sequence[str], *settings: Any
) -> Any:
    """Replacement of `verify_images` that verifies the first images and repeats their entries."""
    began = time.perf_counter()
    part, findings = verify_images(images[:limit], labels[:limit], *settings)
    results["images verified per second"] = round(limit / (time.perf_counter() - began))
    count = len(images)
    index = ImageIndex(
        PathTable.from_paths(images),
        np.resize(part.sizes_hw, (count, 2)),
        np.arange(count + 1, dtype=np.int64) * OBJECTS,
        np.resize(part.classes, count * OBJECTS),
        np.resize(part.boxes_xywhn, (count * OBJECTS, 4)),
    )
    return index, findings


def measure_start(data: Path, workers: int, batches: int, limit: int | None) -> dict[str, object]:
    """Start as a training process until some batches are loaded, and measure time and memory."""
    results: dict[str, object] = {"before": memory_mb()}
    began, busy = time.perf_counter(), time.process_time()
    if limit is not None:
        with patch("utils.datasets.index.labels.verify_images", partial(verify_some, limit, results)):
            index = load_index(load_spec(data), "train")
    else:
        index = load_index(load_spec(data), "train")
    results["seconds to the index"] = round(time.perf_counter() - began, 1)
    results["CPU seconds of these"] = round(time.process_time() - busy, 1)
    results["objects"] = index.num_objects
    results["with the index"] = memory_mb()
    if batches:
        dataset = DetectionDataset(index, imgsz=SIDE, hyp=Hyperparameters(), augment=True)
        loader = build_loader(dataset, batch_size=16, workers=workers, shuffle=True)
        began = time.perf_counter()
        for number, _ in enumerate(loader, 1):
            if number == 1:
                results["seconds from there to the first batch"] = round(time.perf_counter() - began, 1)
            if number in BATCHES:
                children = [child.pid for child in multiprocessing.active_children() if child.pid]
                results[f"after {number} batches"] = memory_mb()
                results[f"workers after {number} batches"] = [memory_mb(pid) for pid in children]
            if number == batches:
                break
    return results


def measure_in_process(
    data: Path, method: str, workers: int, batches: int, limit: int | None = None
) -> dict[str, object]:
    """Run `measure_start` in a new process with a start method for its workers."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=_send, args=(sender, method, data, workers, batches, limit)
    )
    process.start()
    results: dict[str, object] = receiver.recv()
    process.join()
    return results


def _send(sender: Any, method: str, *arguments: Any) -> None:
    multiprocessing.set_start_method(method, force=True)
    sender.send(measure_start(*arguments))


def main() -> None:
    """Print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--method", choices=("fork", "spawn"), default="fork", help="start method of workers")
    parser.add_argument("--verify", type=int, help="number of images to verify")
    args = parser.parse_args()
    is_new = not args.folder.exists()
    try:
        began = time.perf_counter()
        data = write_set(args.folder, args.images) if is_new else args.folder / "million.yaml"
        print(json.dumps({"seconds to make the links": round(time.perf_counter() - began, 1)}))
        print(
            json.dumps({"first start": measure_in_process(data, args.method, args.workers, 0, args.verify)}, indent=1),
            flush=True,
        )
        print(
            json.dumps({"second start": measure_in_process(data, args.method, args.workers, BATCHES[-1])}, indent=1),
            flush=True,
        )
    finally:
        if is_new:
            shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
