"""Public address of image augmentations and of the pre-processing of classifiers, with their known signatures.

Random functions draw from Python's `random`, or from a NumPy generator that is seeded from it: after `random.seed` they
repeat. Images are (H, W, 3) uint8 in BGR; labels are (n, 5) rows of class, x1, y1, x2, y2 in pixels unless the function
says otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from torch import Tensor

from utils.config.hyp import Hyperparameters
from utils.core.lazy import OUTSIDE, lazy_exports
from utils.core.logging import LOGGER
from utils.core.renamed import accept_renamed
from utils.core.types import Sample
from utils.datasets.augment.albumentations import LightPipeline, import_albumentations, is_installed
from utils.datasets.augment.compose import Placement, SourceImage, compose
from utils.datasets.augment.mosaic import MAX_PASTE_COVERAGE, compute_coverage
from utils.datasets.augment.transforms import MIXUP_BETA, multiply_hsv, random_transform
from utils.datasets.classification import crop_center
from utils.imaging import letterbox as letterboxing
from utils.ops.network_input import IMAGENET
from utils.ops.polygons import join_rings

__all__ = [
    "IMAGENET_MEAN", "IMAGENET_STD", "Albumentations", "CenterCrop", "LetterBox", "ToTensor", "augment_hsv",
    "box_candidates", "classify_albumentations", "classify_transforms", "copy_paste", "cutout", "denormalize",
    "hist_equalize", "letterbox", "mixup", "normalize", "random_perspective", "replicate", "transform_randomly",
]  # fmt: skip
LAZY_EXPORTS = {  # which the original imports there
    **dict.fromkeys(("check_version", "colorstr", "resample_segments", "segment2box", "xywhn2xyxy"), "utils.general"),
    "bbox_ioa": "utils.metrics.classic",
    **{name: OUTSIDE[name] for name in ("F", "logging", "math")},
}
__all__ += ["LOGGER", "T", "TF", "cv2", "np", "random", "torch", *LAZY_EXPORTS]
__getattr__ = lazy_exports(__name__, LAZY_EXPORTS)
IMAGENET_MEAN, IMAGENET_STD = IMAGENET.mean, IMAGENET.std  # of R, G, B in [0, 1]
NUM_HOLES, HOLE_SIDES, MAX_HIDDEN = 8, (1 / 32, 1 / 2), 0.6
CLAHE_LIMIT, CLAHE_TILES = 2.0, (8, 8)
Statistics = Sequence[float]


def draw_generator() -> np.random.Generator:
    """A NumPy generator that is seeded from Python's `random`."""
    return np.random.default_rng(random.getrandbits(64))


# -- letterbox --------------------------------------------------------------------------------------------------------


@accept_renamed(img="im")
def letterbox(
    im: np.ndarray,
    new_shape: int | Sequence[int] = (640, 640),
    color: Sequence[int] = (114, 114, 114),
    auto: bool = True,
    scaleFill: bool = False,
    scaleup: bool = True,
    stride: int = 32,
) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Resize and pad an image (H, W, C) or (H, W) to `new_shape` (h, w); see `utils.imaging.letterbox.letterbox`.

    Returns:
        The image; the ratio before rounding along x and y; half of the padding along x and y, in pixels.
    """
    target: Any = new_shape if isinstance(new_shape, int) else (new_shape[0], new_shape[1])
    border: Any = np.array(color if im.ndim == 3 else color[0], np.uint8)
    padded, transform = letterboxing.letterbox(
        im, target, color=border, auto=auto, scale_fill=scaleFill, scale_up=scaleup, stride=stride
    )
    (height, width), (out_h, out_w) = im.shape[:2], padded.shape[:2]
    inner_w, inner_h = round(width * transform.ratio_wh[0]), round(height * transform.ratio_wh[1])
    if scaleFill and not auto:
        ratio = (out_w / width, out_h / height)
    else:
        target_hw = (target, target) if isinstance(target, int) else target
        scale = min(target_hw[0] / height, target_hw[1] / width)
        ratio = (scale if scaleup else min(scale, 1.0),) * 2
    return padded, ratio, ((out_w - inner_w) / 2, (out_h - inner_h) / 2)


class LetterBox:
    """Resizes and pads an image (H, W, C) to `size` (h, w), or with `auto` to the next multiples of `stride`."""

    def __init__(self, size: int | Sequence[int] = (640, 640), auto: bool = False, stride: int = 32) -> None:
        self.h, self.w = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.auto, self.stride = auto, stride

    def __call__(self, im: np.ndarray) -> np.ndarray:
        return letterboxing.letterbox(im, (self.h, self.w), auto=self.auto, stride=self.stride)[0]


# -- colors -----------------------------------------------------------------------------------------------------------


class Albumentations:
    """Blur, median blur, gray and CLAHE with a probability of 1 % each; nothing if Albumentations is not installed.

    Args:
        size: ignored: no transform changes the size.
    """

    def __init__(self, size: int = 640) -> None:
        self.transform = LightPipeline() if is_installed() else None

    def __call__(self, im: np.ndarray, labels: np.ndarray, p: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Apply it with probability `p`; labels (n, 5) in any box format are returned as they are."""
        if self.transform is None or random.random() >= p:
            return im, labels
        sample = Sample(im, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        for effect in self.transform.select(draw_generator()):
            sample = effect(sample)
        return sample.image, labels


@accept_renamed(img="im")
def augment_hsv(im: np.ndarray, hgain: float = 0.5, sgain: float = 0.5, vgain: float = 0.5) -> None:
    """Multiply hue, saturation and value of an image by random factors of 1 - gain to 1 + gain, in place."""
    gains = 1 + draw_generator().uniform(-1, 1, 3) * (hgain, sgain, vgain)
    changed = np.empty_like(im)
    multiply_hsv(im, changed, gains=gains)
    im[:] = changed


@accept_renamed(img="im")
def hist_equalize(im: np.ndarray, clahe: bool = True, bgr: bool = False) -> np.ndarray:
    """Equalize the histogram of the luma of an image, with `clahe` in tiles (contrast-limited).

    Args:
        bgr: the image is BGR, else RGB; so is the result.
    """
    to_yuv, from_yuv = (
        (cv2.COLOR_BGR2YUV, cv2.COLOR_YUV2BGR) if bgr else (cv2.COLOR_RGB2YUV, cv2.COLOR_YUV2RGB)
    )  # fmt: skip
    yuv = cv2.cvtColor(im, to_yuv)
    luma = np.ascontiguousarray(yuv[..., 0])
    yuv[..., 0] = cv2.createCLAHE(CLAHE_LIMIT, CLAHE_TILES).apply(luma) if clahe else cv2.equalizeHist(luma)
    return cv2.cvtColor(yuv, from_yuv)


def normalize(
    x: Tensor, mean: Statistics = IMAGENET_MEAN, std: Statistics = IMAGENET_STD, inplace: bool = False
) -> Tensor:
    """Subtract the mean of each channel of (..., C, H, W) and divide by its std."""
    return TF.normalize(x, list(mean), list(std), inplace=inplace)


def denormalize(x: Tensor, mean: Statistics = IMAGENET_MEAN, std: Statistics = IMAGENET_STD) -> Tensor:
    """The inverse of `normalize`, as a new tensor."""
    return x * x.new_tensor(list(std)).view(-1, 1, 1) + x.new_tensor(list(mean)).view(-1, 1, 1)


# -- geometry ---------------------------------------------------------------------------------------------------------


@accept_renamed(img="im")
def random_perspective(
    im: np.ndarray,
    targets: np.ndarray | Sequence[Sequence[float]] = (),
    segments: Sequence[np.ndarray] = (),
    degrees: float = 10,
    translate: float = 0.1,
    scale: float = 0.1,
    shear: float = 10,
    perspective: float = 0.0,
    border: Sequence[int] = (0, 0),
) -> tuple[np.ndarray, np.ndarray]:
    """As `transform_randomly`, without the outlines: image and targets."""
    hyp = Hyperparameters(degrees=degrees, translate=translate, scale=scale, shear=shear, perspective=perspective)
    outlines = segments if any(np.any(ring) for ring in segments) else ()
    return transform_randomly(im, targets, outlines, hyp, border, draw_generator())[:2]


def transform_randomly(
    im: np.ndarray,
    targets: np.ndarray | Sequence[Sequence[float]],
    segments: Sequence[np.ndarray],
    hyp: Hyperparameters,
    border: Sequence[int],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """A random perspective of an image and its objects; those that are hardly visible are left out.

    Args:
        im: (H, W, C) uint8.
        targets: (n, 5) class and xyxy in pixels.
        segments: n outlines (K, 2) in pixels; if there are none, boxes are transformed by their corners.
        hyp: `degrees` and `shear` are maximum angles, `translate` the maximum shift over the side, the scale is
            1 - `scale` to 1 + `scale`, `perspective` the maximum tilt per pixel.
        border: pixels added on each side, vertically and horizontally; negative to crop.

    Returns:
        The image (H + 2 * border[0], W + 2 * border[1], C); targets (m, 5), clipped to it; m outlines or none.
    """
    rows = np.asarray(targets, np.float32).reshape(-1, 5)
    height, width = im.shape[:2]
    size_wh, out_hw = np.array([width, height], np.float32), (height + 2 * border[0], width + 2 * border[1])
    polygons = None
    if len(segments):
        polygons = [[np.asarray(ring, np.float32).reshape(-1, 2) / size_wh] for ring in segments]
    boxes = rows[:, 1:] / np.tile(size_wh, 2)
    source = SourceImage((height, width), lambda longest: im, np.arange(len(rows)), boxes, polygons)
    to_output = random_transform(rng, hyp, (height, width), out_hw)
    sample = compose([Placement(source, np.diag([*size_wh, 1.0]))], to_output, out_hw, channels=im.shape[2])
    kept = np.concatenate([rows[sample.classes, :1], sample.boxes_xyxy], axis=1)
    return sample.image, kept, [join_rings(rings) for rings in sample.polygons or []]


def box_candidates(
    box1: np.ndarray,
    box2: np.ndarray,
    wh_thr: float = 2,
    ar_thr: float = 100,
    area_thr: float | np.ndarray = 0.1,
    eps: float = 1e-16,
) -> np.ndarray:
    """Which boxes (n,) are still worth a label after an augmentation.

    Args:
        box1, box2: (4, n) x1, y1, x2, y2 before and after it.
        wh_thr: width and height must exceed it, in pixels.
        ar_thr: the longer over the shorter side must be below it.
        area_thr: the area after over that before must exceed it.
    """
    before, after = box1[2:4] - box1[:2], box2[2:4] - box2[:2]
    aspect = after.max(axis=0) / (after.min(axis=0) + eps)
    share = after.prod(axis=0) / (before.prod(axis=0) + eps)
    return (after.min(axis=0) > wh_thr) & (share > area_thr) & (aspect < ar_thr)


# -- objects ----------------------------------------------------------------------------------------------------------


@accept_renamed(img="im")
def replicate(im: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Copy the smaller half of the objects to random places; the image is changed in place.

    Returns:
        The image, and the labels (m, 5) with those of the copies.
    """
    height, width = im.shape[:2]
    boxes = np.rint(labels[:, 1:]).astype(int)
    sides = boxes[:, 2:] - boxes[:, :2]
    for index in sides.sum(axis=1).argsort(kind="stable")[: round(len(labels) / 2)]:
        (x1, y1), (box_w, box_h) = boxes[index, :2], sides[index]
        x, y = random.randint(0, max(0, width - box_w)), random.randint(0, max(0, height - box_h))
        patch = im[y1 : y1 + box_h, x1 : x1 + box_w].copy()
        im[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
        copy = np.array([[labels[index, 0], x, y, x + box_w, y + box_h]], labels.dtype)
        labels = np.concatenate([labels, copy])
    return im, labels


def copy_paste(
    im: np.ndarray, labels: np.ndarray, segments: list[np.ndarray], p: float = 0.5
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Paste mirrored copies of objects (Ghiasi et al. 2021, arXiv:2012.07177); the image is changed in place.

    Args:
        segments: an outline (K, 2) in pixels for each label.
        p: fraction of the objects that are candidates; a copy that hides 30 % of another object is left out.

    Returns:
        The image, and labels and outlines with those of the copies.
    """
    height, width = im.shape[:2]
    mask, outlines = np.zeros((height, width), np.uint8), list(segments)
    for index in random.sample(range(len(outlines)), round(p * len(outlines))):
        label, x1, y1, x2, y2 = labels[index]
        box = np.array([width - x2, y1, width - x1, y2], labels.dtype)
        if (compute_coverage(labels[:, 1:], box) < MAX_PASTE_COVERAGE).all():
            labels = np.concatenate([labels, [[label, *box]]]).astype(labels.dtype)
            ring = np.stack([width - segments[index][:, 0], segments[index][:, 1]], axis=1).astype(
                segments[index].dtype
            )
            outlines.append(ring)
            cv2.fillPoly(mask, [np.floor(ring).astype(np.int32)], (1,))
    pasted = mask.astype(bool)
    im[pasted] = im[:, ::-1][pasted]
    return im, labels, outlines


@accept_renamed(image="im")
def cutout(im: np.ndarray, labels: np.ndarray, p: float = 0.5) -> np.ndarray:
    """Fill random rectangles with random colors, in place (DeVries and Taylor 2017, arXiv:1708.04552).

    Args:
        p: probability of doing so.

    Returns:
        The labels of objects of which no rectangle hides more than 60 %.
    """
    if random.random() >= p:
        return labels
    height, width = im.shape[:2]
    for _ in range(NUM_HOLES):
        hole_h, hole_w = (max(1, int(side * random.uniform(*HOLE_SIDES) ** 1.5)) for side in (height, width))
        x, y = random.randint(0, width - hole_w), random.randint(0, height - hole_h)
        im[y : y + hole_h, x : x + hole_w] = [random.randint(64, 191) for _ in range(im.shape[2])]
        if len(labels):
            hidden = compute_coverage(labels[:, 1:], np.array([x, y, x + hole_w, y + hole_h], np.float64))
            labels = labels[hidden <= MAX_HIDDEN]
    return labels


def mixup(im: np.ndarray, labels: np.ndarray, im2: np.ndarray, labels2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blend two images of the same size, with the labels of both (Zhang et al. 2018, arXiv:1710.09412)."""
    ratio = random.betavariate(MIXUP_BETA, MIXUP_BETA)
    return cv2.addWeighted(im, ratio, im2, 1 - ratio, 0), np.concatenate([labels, labels2])


# -- classifiers ------------------------------------------------------------------------------------------------------


class CenterCrop:
    """Crops the center of an image (H, W, C) with the aspect of `size` (h, w) and resizes it bilinearly to it."""

    def __init__(self, size: int | Sequence[int] = 640) -> None:
        self.h, self.w = (size, size) if isinstance(size, int) else (size[0], size[1])

    def __call__(self, im: np.ndarray) -> np.ndarray:
        return crop_center(im, (self.h, self.w))[0]


class ToTensor:
    """Converts an image (H, W, 3) BGR uint8 to a tensor (3, H, W) RGB in [0, 1], with `half` in FP16."""

    def __init__(self, half: bool = False) -> None:
        self.half = half

    def __call__(self, im: np.ndarray) -> Tensor:
        planes = torch.from_numpy(np.ascontiguousarray(im[..., ::-1].transpose(2, 0, 1)))
        return (planes.half() if self.half else planes.float()) / 255


def classify_transforms(size: int = 224) -> T.Compose:
    """Pre-processing for inference: BGR image (H, W, 3) uint8 to a normalized tensor (3, size, size)."""
    return T.Compose([CenterCrop(size), ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)])


def classify_albumentations(
    augment: bool = True,
    size: int = 224,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (0.75, 1.0 / 0.75),
    hflip: float = 0.5,
    vflip: float = 0.0,
    jitter: float = 0.4,
    mean: Statistics = IMAGENET_MEAN,
    std: Statistics = IMAGENET_STD,
    auto_aug: bool = False,
) -> Any:
    """An Albumentations pipeline for classification: RGB image (H, W, 3) to a normalized tensor (3, size, size).

    Args:
        augment: random resized crop, flips and color jitter; otherwise a center crop.
        scale, ratio: of the crop: area over that of the image, and aspect.
        hflip, vflip: probabilities.
        jitter: strength of the change of brightness, contrast and saturation.
        auto_aug: not supported, with a warning.

    Returns:
        The pipeline, called as `pipeline(image=image)["image"]`; None, with a warning, without Albumentations.
    """
    if not is_installed():
        LOGGER.warning("WARNING: Albumentations is not installed: pip install 'albumentations>=2'")
        return None
    library = import_albumentations()
    if not augment:
        steps = [library.SmallestMaxSize(max_size=size), library.CenterCrop(size, size)]
    else:
        if auto_aug:
            LOGGER.warning("WARNING auto_aug is not supported: using color jitter instead")
        steps = [library.RandomResizedCrop(size=(size, size), scale=scale, ratio=ratio)]
        steps += [library.HorizontalFlip(p=hflip), library.VerticalFlip(p=vflip)]
        strength = float(jitter)
        if strength > 0:
            steps.append(library.ColorJitter(strength, strength, strength, 0))
    return library.Compose([*steps, library.Normalize(mean=mean, std=std), library.pytorch.ToTensorV2()])
