"""Start-up time and memory of training on a million labelled images.

    python tests/bench/bench_million.py FOLDER [--images 1000000] [--workers 2] [--verify N]

FOLDER is filled with hard links to a few images and label files (about 200 bytes an image) and removed at the end;
one that is there already is taken as it is and kept. Timed apart: making the links, the first start, which verifies
every image, and the next one, which finds them verified. With --verify only N are verified, and the index of the
others is constructed from theirs: they are links to the same files.

Memory is that of the second start: of the process itself, and of each loader process what it has for itself alone
(unique) and its share of what it has in common (proportional set size), at first and after many batches: copies of
what was shared would show as growth.
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

LINKS = 40_000  # to one file; ext4 allows 65,000
PER_FOLDER = 10_000
OBJECTS = 7  # an image, as in COCO
SIDE = 64  # pixels: decoding is not what is measured
BATCHES = (20, 400)


def make_set(folder: Path, count: int) -> Path:
    """Hard links by thousands in numbered folders; the data YAML."""
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
    """Resident, proportional and unique memory of a process, MB; shared pages that are anonymous count as unique."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    unique = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return {"resident": round(sizes["Rss"]), "proportional": round(sizes["Pss"]), "unique": round(unique)}


def verify_some(
    limit: int, found: dict[str, object], images: Sequence[str], labels: Sequence[str], *settings: Any
) -> Any:
    """In place of `verify_images`: the first images verified, the rest as copies of their entries."""
    began = time.perf_counter()
    part, findings = verify_images(images[:limit], labels[:limit], *settings)
    found["images verified a second"] = round(limit / (time.perf_counter() - began))
    count = len(images)
    index = ImageIndex(
        PathTable.from_paths(images),
        np.resize(part.sizes_hw, (count, 2)),
        np.arange(count + 1, dtype=np.int64) * OBJECTS,
        np.resize(part.classes, count * OBJECTS),
        np.resize(part.boxes_xywhn, (count * OBJECTS, 4)),
    )
    return index, findings


def start(data: Path, workers: int, batches: int, limit: int | None) -> dict[str, object]:
    """What a training process does before its first batch, and memory before and after."""
    found: dict[str, object] = {"before": memory_mb()}
    began, busy = time.perf_counter(), time.process_time()
    if limit is not None:
        with patch("utils.datasets.index.labels.verify_images", partial(verify_some, limit, found)):
            index = load_index(load_spec(data), "train")
    else:
        index = load_index(load_spec(data), "train")
    found["seconds to the index"] = round(time.perf_counter() - began, 1)
    found["of them on the processor"] = round(time.process_time() - busy, 1)
    found["objects"] = index.num_objects
    found["with the index"] = memory_mb()
    if batches:
        dataset = DetectionDataset(index, imgsz=SIDE, hyp=Hyperparameters(), augment=True)
        loader = build_loader(dataset, batch_size=16, workers=workers, shuffle=True)
        began = time.perf_counter()
        for number, _ in enumerate(loader, 1):
            if number == 1:
                found["seconds from there to the first batch"] = round(time.perf_counter() - began, 1)
            if number in BATCHES:
                children = [child.pid for child in multiprocessing.active_children() if child.pid]
                found[f"after {number} batches"] = memory_mb()
                found[f"loader processes after {number} batches"] = [memory_mb(pid) for pid in children]
            if number == batches:
                break
    return found


def fresh(data: Path, method: str, workers: int, batches: int, limit: int | None = None) -> dict[str, object]:
    """`start` in a new process, whose loader processes are started by a method."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=_send, args=(sender, method, data, workers, batches, limit)
    )
    process.start()
    found: dict[str, object] = receiver.recv()
    process.join()
    return found


def _send(sender: Any, method: str, *arguments: Any) -> None:
    multiprocessing.set_start_method(method, force=True)
    sender.send(start(*arguments))


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--method", choices=("fork", "spawn"), default="fork", help="how loader processes are started")
    parser.add_argument("--verify", type=int, help="verify so many only")
    args = parser.parse_args()
    made = not args.folder.exists()
    try:
        began = time.perf_counter()
        data = make_set(args.folder, args.images) if made else args.folder / "million.yaml"
        print(json.dumps({"seconds to make the links": round(time.perf_counter() - began, 1)}))
        print(json.dumps({"first start": fresh(data, args.method, args.workers, 0, args.verify)}, indent=1), flush=True)
        print(json.dumps({"second start": fresh(data, args.method, args.workers, BATCHES[-1])}, indent=1), flush=True)
    finally:
        if made:
            shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
