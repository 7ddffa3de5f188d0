"""Objects365 (version 2, 2020) as YOLO labels (Shao et al., ICCV 2019; www.objects365.org)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.datasets.index.coco_large import load_boxes
from utils.datasets.index.label_files import LabelWriter, names_of, source_of
from utils.datasets.prepare.archives import fetch_and_unpack

SOURCE = "https://dorc.ks3-cn-beijing.ksyun.com/data-set/2020Objects365%E6%95%B0%E6%8D%AE%E9%9B%86"
PATCHES = {  # archives of images of each split
    "train": [f"train/patch{i}.tar.gz" for i in range(51)],
    "val": [f"val/images/{'v1' if i < 16 else 'v2'}/patch{i}.tar.gz" for i in range(44)],
}


def prepare_objects365(root: Path, raw: Mapping[str, Any]) -> None:
    """Fetch Objects365 below `root`: images/<split>/, labels/<split>/; some 350 GB to fetch, as much again unpacked.

    Args:
        raw: the data YAML; `source`, if given, replaces the official address.

    Raises:
        InputError: an archive cannot be fetched, or holds something else.
    """
    source = source_of(raw, SOURCE)
    for split, patches in PATCHES.items():
        fetch_and_unpack(f"{source}/{split}/zhiyuan_objv2_{split}.tar.gz", root)
        for patch in patches:
            fetch_and_unpack(f"{source}/{patch}", root / "images" / split)
        annotations = next(iter(sorted(root.rglob(f"zhiyuan_objv2_{split}.json"))), root / f"{split}.json")
        write_patch_labels(annotations, root, split, len(names_of(raw)))


def write_patch_labels(annotations: Path, root: Path, split: str, num_classes: int) -> None:
    """labels/<split>/ in the folders of the images: `patch8/name.jpg`, or all in one where they were unpacked so.

    Raises:
        InputError: the file is no Objects365 annotation.
    """
    table, writer, missing = load_boxes(annotations), LabelWriter(num_classes), 0
    images, labels = root / "images" / split, root / "labels" / split
    for i, rows in tqdm(table.images(num_classes), total=len(table.names), desc=f"labels {split}", disable=None):
        patch, name = Path(table.names[i]).parent.name, Path(table.names[i]).name
        place = next((place for place in (patch, "") if (images / place / name).is_file()), None)
        if place is None:
            missing += 1
            continue
        (labels / place).mkdir(parents=True, exist_ok=True)
        writer.write(labels / place / f"{Path(name).stem}.txt", rows)
    writer.report(split, f"{table.crowds} crowd regions and {missing} images that are not in the archives")
