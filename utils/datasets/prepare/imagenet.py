"""ImageNet (ILSVRC 2012) as class folders, from archives that you download by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.packages import import_runtime
from utils.datasets.prepare.manual import unpack_local_archives
from utils.datasets.prepare.unpack import unpack_archive

PAGE = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
TRAIN, VAL, KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
WORDNET_ID = re.compile(r"n\d{8}")
WORK = ".unpacked"  # temporary folder below the root


def prepare_imagenet(root: Path, raw: Mapping[str, Any]) -> None:
    """Create `train/<class>/` and `val/<class>/` below `root`; classes are WordNet ids (n01440764)."""
    unpack_local_archives(root, {TRAIN: WORK, VAL: f"{WORK}/val", KIT: WORK}, PAGE)
    work = root / WORK
    _unpack_classes(sorted(work.glob("n*.tar")), root / "train")
    classes = _read_validation_classes(work / KIT.removesuffix(".tar.gz"))
    num_images = _sort_validation_images(sorted((work / "val").glob("*.JPEG")), classes, root / "val")
    LOGGER.info(f"train: {sum(1 for _ in (root / 'train').iterdir())} classes; val: {num_images} images sorted")


def _unpack_classes(archives: list[Path], train: Path) -> None:
    """Unpack the archive of each class into a folder of its name, then remove the archive."""
    train.mkdir(parents=True, exist_ok=True)
    for archive in tqdm(archives, desc="classes", disable=None):
        folder, partial = train / archive.stem, train / f".{archive.stem}"
        if not folder.exists():  # else an earlier run was stopped before it removed the archive
            unpack_archive(archive, partial)
            partial.replace(folder)
        archive.unlink()


def _read_validation_classes(kit: Path) -> list[str]:
    """Read the WordNet id of each validation image, in order, from the development kit."""
    loadmat = import_runtime("scipy.io", needed_for="class lists of ImageNet", install="scipy").loadmat
    try:
        truth = (kit / "data" / "ILSVRC2012_validation_ground_truth.txt").read_text(encoding="utf-8").split()
        synsets = loadmat(kit / "data" / "meta.mat", squeeze_me=True)["synsets"]
        wordnet_ids = dict(zip((int(i) for i in synsets["ILSVRC2012_ID"]), synsets["WNID"].tolist(), strict=True))
        classes = [str(wordnet_ids[int(i)]) for i in truth]
        if invalid := [name for name in classes if not WORDNET_ID.fullmatch(name)]:
            raise ValueError(f"{invalid[0][:40]!r} is not a WordNet id")
        return classes
    except Exception as error:  # scipy has errors of its own for a damaged file
        raise InputError(f"{kit}: not the development kit of ILSVRC 2012 ({error}); get {KIT} from {PAGE}") from error


def _sort_validation_images(images: list[Path], classes: list[str], folder: Path) -> int:
    """Move images (..._00000001.JPEG and so on) into class folders; returns their number."""
    for image in images:
        number = image.stem.rpartition("_")[2]
        if not number.isdecimal() or not 1 <= int(number) <= len(classes):
            raise InputError(f"{image}: the development kit has classes for images 1 to {len(classes)} only")
        class_folder = folder / classes[int(number) - 1]
        class_folder.mkdir(parents=True, exist_ok=True)
        image.replace(class_folder / image.name)
    return len(images)
