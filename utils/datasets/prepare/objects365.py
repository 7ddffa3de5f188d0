"""Objects365 version 2 (Shao et al., ICCV 2019; www.objects365.org), converted to YOLO labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.datasets.index.coco_file import count_crowds, read_coco
from utils.datasets.index.coco_json import iter_image_labels
from utils.datasets.index.label_files import LabelWriter, get_class_names, get_source_url
from utils.datasets.prepare.archives import download_archive

SOURCE = "https://dorc.ks3-cn-beijing.ksyun.com/data-set/2020Objects365%E6%95%B0%E6%8D%AE%E9%9B%86"
PATCHES = {  # image archives of each split
    "train": [f"train/patch{i}.tar.gz" for i in range(51)],
    "val": [f"val/images/{'v1' if i < 16 else 'v2'}/patch{i}.tar.gz" for i in range(44)],
}


def prepare_objects365(root: Path, raw: Mapping[str, Any]) -> None:
    """Download Objects365 into `root`: images/<split>/ and labels/<split>/; 350 GB of archives, as much unpacked.

    Reading the training annotations (25 million boxes) takes about 21 GB of memory."""
    source = get_source_url(raw, SOURCE)
    for split, patches in PATCHES.items():
        download_archive(f"{source}/{split}/zhiyuan_objv2_{split}.tar.gz", root)
        for patch in patches:
            download_archive(f"{source}/{patch}", root / "images" / split)
        annotations = next(iter(sorted(root.rglob(f"zhiyuan_objv2_{split}.json"))), root / f"{split}.json")
        _write_patch_labels(annotations, root, split, len(get_class_names(raw)))


def _write_patch_labels(annotations: Path, root: Path, split: str, num_classes: int) -> None:
    """Write labels/<split>/ in the layout of the images: subfolders (`patch8/name.jpg`) or a single folder."""
    content, writer, missing = read_coco(annotations), LabelWriter(num_classes), 0
    images, labels = root / "images" / split, root / "labels" / split
    image_labels = iter_image_labels(content, num_classes, annotations)
    for image, rows in tqdm(image_labels, total=len(content["images"]), desc=f"labels {split}", disable=None):
        path = Path(str(image["file_name"]))
        patch, name = path.parent.name, path.name
        folder = next((folder for folder in (patch, "") if folder != ".." and (images / folder / name).is_file()), None)
        if folder is None:
            missing += 1
            continue
        (labels / folder).mkdir(parents=True, exist_ok=True)
        writer.write(labels / folder / f"{Path(name).stem}.txt", rows)
    writer.report(split, f"{count_crowds(content)} crowd regions and {missing} images missing in the archives skipped")
