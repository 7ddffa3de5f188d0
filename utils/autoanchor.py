"""Public address of AutoAnchor, with its known signatures (see `utils.ops.autoanchor`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.index.data_yaml import load_spec
from utils.datasets.index.labels import load_index
from utils.general import colorstr
from utils.loss import get_head
from utils.ops import autoanchor
from utils.torch_utils import de_parallel

PREFIX = colorstr("AutoAnchor: ")


@torch.no_grad()
def check_anchor_order(m: Any) -> None:
    """Reverse the levels of a head's `anchors` (nl, na, 2), in pixels, if their areas fall while `stride` rises."""
    areas = m.anchors.prod(dim=-1).mean(dim=-1).flatten()
    if (areas[-1] - areas[0]).cpu() * (m.stride[-1] - m.stride[0]).cpu() < 0:
        LOGGER.info(f"{PREFIX}anchors are in the opposite order of strides; reversing them")
        m.anchors[:] = m.anchors.flip(0)


def check_anchors(dataset: Any, model: Any, thr: float = 4.0, imgsz: int = 640) -> None:
    """Replace the anchors of a model's head in place, if they do not fit a data set and a search finds better ones.

    The random numbers come from NumPy's global generator.

    Args:
        dataset: with `shapes` (n, 2), width and height of the images, and `labels`, n arrays (k, 5) class, xywhn.
        model: network, may be wrapped by DataParallel or DistributedDataParallel.
        thr: an anchor fits a box if no side differs by this factor or more.
        imgsz: longer side of the images in training, pixels.
    """
    head = get_head(de_parallel(model))
    autoanchor.check_anchors(head, _get_box_sizes(dataset, imgsz), threshold=thr, rng=_make_generator())


def kmean_anchors(
    dataset: Any = "./data/coco128.yaml", n: int = 9, img_size: int = 640, thr: float = 4.0, gen: int = 1000,
    verbose: bool = True, *, path: str | None = None,
) -> np.ndarray:  # fmt: skip
    """Anchors for a data set: k-means of the box sizes, then a genetic search.

    The random numbers come from NumPy's global generator.

    Args:
        dataset: data YAML, of which the training split is used, or an object as for `check_anchors`.
        n: number of anchors.
        img_size: longer side of the images in training, pixels.
        thr: as for `check_anchors`.
        gen: steps of the genetic search.
        verbose: log how well the anchors fit.
        path: `dataset` in release 5.0.

    Returns:
        (n, 2) float32 width and height in pixels, smallest area first.

    Raises:
        InputError: the data set has no boxes, or the file cannot be used.
    """
    source = dataset if path is None else path
    boxes = _get_box_sizes(source, img_size)
    if not (boxes >= autoanchor.MIN_SIDE).any():
        raise InputError(f"{source if isinstance(source, str | Path) else 'dataset'}: no boxes to fit anchors to")
    anchors = autoanchor.search_anchors(boxes, n, rng=_make_generator(), threshold=thr, generations=gen)
    if verbose:
        fit = autoanchor.compute_anchor_fit(anchors, boxes, thr)
        sizes = ", ".join(f"{width:.0f},{height:.0f}" for width, height in anchors)
        LOGGER.info(
            f"{PREFIX}{n} anchors for {len(boxes)} boxes at {img_size} px: best possible recall {fit.recall:.4f}, "
            f"{fit.per_box:.2f} anchors per box, mean best ratio {fit.mean_best:.3f}: {sizes}"
        )
    return anchors.astype(np.float32)


def _get_box_sizes(dataset: Any, imgsz: int) -> np.ndarray:
    """Sizes (M, 2) in pixels of the boxes of a data YAML or a data set, at the size of training."""
    if isinstance(dataset, str | Path):
        index = load_index(load_spec(str(dataset)), "train")
        return autoanchor.compute_box_sizes(index.sizes_hw, index.offsets, index.boxes_xywhn, imgsz)
    offsets = np.cumsum([0, *(len(rows) for rows in dataset.labels)])
    boxes = np.concatenate([np.zeros((0, 4)), *(np.asarray(rows).reshape(-1, 5)[:, 1:] for rows in dataset.labels)])
    sizes_hw = np.asarray(dataset.shapes, np.float64).reshape(-1, 2)[:, ::-1]
    return autoanchor.compute_box_sizes(sizes_hw, offsets, boxes, imgsz)


def _make_generator() -> np.random.Generator:
    """A generator seeded from the global one, so that a script's seed makes the result repeatable."""
    return np.random.default_rng(np.random.randint(2**31))
