"""ImageNet (ILSVRC 2012) as folders of classes, from the archives that image-net.org gives to registered people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.core.downloads import unpack
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.prepare.manual import unpack_given

PAGE = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
TRAIN, VAL, KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
WORK = ".unpacked"  # below the root, until everything is in its place


def prepare_imagenet(root: Path, raw: Mapping[str, Any]) -> None:
    """Arrange `train/<class>/` and `val/<class>/` below `root`; classes are WordNet numbers (n01440764).

    Raises:
        InputError: archives are missing (says which and where they come from), or hold something else.
    """
    unpack_given(root, {TRAIN: WORK, VAL: f"{WORK}/val", KIT: WORK}, PAGE)
    work = root / WORK
    _unpack_classes(sorted(work.glob("n*.tar")), root / "train")
    classes = validation_classes(work / KIT.removesuffix(".tar.gz"))
    moved = sort_validation(sorted((work / "val").glob("*.JPEG")), classes, root / "val")
    LOGGER.info(f"train: {sum(1 for _ in (root / 'train').iterdir())} classes; val: {moved} images sorted")


def _unpack_classes(archives: list[Path], train: Path) -> None:
    """Unpack the archive of each class into a folder of its name; it is removed when that is complete."""
    train.mkdir(parents=True, exist_ok=True)
    for archive in tqdm(archives, desc="classes", disable=None):
        place, beside = train / archive.stem, train / f".{archive.stem}"
        if not place.exists():  # else an earlier run ended between the two lines below
            unpack(archive, beside, progress=False)
            beside.replace(place)
        archive.unlink()


def validation_classes(kit: Path) -> list[str]:
    """WordNet number of each validation image, in their order, from the development kit.

    Raises:
        InputError: its files are missing or not as published.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise InputError("reading ImageNet's development kit needs SciPy: pip install scipy") from error
    try:
        truth = (kit / "data" / "ILSVRC2012_validation_ground_truth.txt").read_text(encoding="utf-8").split()
        synsets = loadmat(kit / "data" / "meta.mat", squeeze_me=True)["synsets"]
        number_of = dict(zip((int(i) for i in synsets["ILSVRC2012_ID"]), synsets["WNID"].tolist(), strict=True))
        return [str(number_of[int(i)]) for i in truth]
    except (OSError, KeyError, ValueError, TypeError, NotImplementedError) as error:
        raise InputError(f"{kit}: not the development kit of ILSVRC 2012 ({error}); get {KIT} from {PAGE}") from error


def sort_validation(images: list[Path], classes: list[str], folder: Path) -> int:
    """Move images, called ..._00000001.JPEG and so on, into folders of their classes; how many.

    Raises:
        InputError: an image's number has no class.
    """
    for image in images:
        number = image.stem.rpartition("_")[2]
        if not number.isdigit() or not 1 <= int(number) <= len(classes):
            raise InputError(f"{image}: the development kit has classes for the images 1 to {len(classes)}")
        place = folder / classes[int(number) - 1]
        place.mkdir(parents=True, exist_ok=True)
        image.replace(place / image.name)
    return len(images)
