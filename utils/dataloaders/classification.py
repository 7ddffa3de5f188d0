"""Classification data sets of class folders, and their loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.utils.data import DataLoader

from utils import augmentations
from utils.core.distributed import local_main_first
from utils.core.errors import InputError
from utils.dataloaders.detection import draw_generator, get_cache_kind
from utils.dataloaders.loaders import build_loader
from utils.datasets import classification
from utils.datasets.index.class_folders import list_class_folders, load_class_index
from utils.datasets.index.data_yaml import DataSpec, SplitSource
from utils.imaging.read import ImageError
from utils.ops.network_input import IMAGENET


class ClassificationDataset(torchvision.datasets.ImageFolder):
    """Items (image, class) of a folder with one folder per class.

    `image` is (3, imgsz, imgsz) float32 RGB, normalized by ImageNet's mean and std: a random crop with
    flips and color jitter, or the center crop. Images that cannot be read are logged and left out.

    Args:
        root: folder of a split, with one folder per class.
        augment: random crops.
        imgsz: image size in pixels.
        cache: True or "ram", or "disk", caches decoded images.

    Attributes:
        classes, class_to_idx, samples, targets: as in torchvision's `ImageFolder`; classes are in alphabetical order.
        torch_transforms: transform from a BGR frame to the center crop, for inference.
        album_transforms: None; augmentation needs no Albumentations.
    """

    def __init__(self, root: str | Path, augment: bool, imgsz: int, cache: bool | str | None = False) -> None:
        folder = Path(root).absolute()
        if not folder.is_dir():
            raise InputError(f"{root}: no such folder; a split has one folder per class")
        self.root, self.augment, self.imgsz = str(root), augment, imgsz
        self.classes = list_class_folders(folder)
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        names = dict(enumerate(self.classes))
        spec = DataSpec(folder, folder.parent, names, {"train": SplitSource("train", (folder,))})
        index = load_class_index(spec, "train")
        self.targets = index.classes.tolist()
        self.samples = self.imgs = list(zip(index.paths, self.targets, strict=True))
        self.album_transforms = None
        kind = get_cache_kind(cache)
        self._data = classification.ClassificationDataset(index, imgsz=imgsz, augment=augment, cache=kind)

    @property
    def torch_transforms(self) -> Any:
        return augmentations.classify_transforms(self.imgsz)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        try:
            image = self._data.load_augmented(i, draw_generator()) if self.augment else self._data[0, i].image
        except ImageError as error:
            raise InputError(str(error)) from error
        pixels = torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy()).float() / 255  # BGR to RGB, (3, H, W)
        return IMAGENET.normalize_(pixels[None])[0], self.targets[i]


def create_classification_dataloader(
    path: str | Path,
    imgsz: int = 224,
    batch_size: int = 16,
    augment: bool = True,
    cache: bool | str | None = False,
    rank: int = -1,
    workers: int = 8,
    shuffle: bool = True,
) -> DataLoader[Any]:
    """The loader of a split: batches (images (B, 3, imgsz, imgsz) float32 normalized, classes (B,) int64).

    Args:
        path, imgsz, augment, cache: as in `ClassificationDataset`, which is the loader's `dataset`.
        batch_size, rank, workers, shuffle: as in `create_dataloader`.
    """
    with local_main_first():
        dataset = ClassificationDataset(path, augment=augment, imgsz=imgsz, cache=cache)
    return build_loader(dataset, batch_size, rank, workers, shuffle)
