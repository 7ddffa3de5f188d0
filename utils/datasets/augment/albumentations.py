"""Albumentations: a light default set, or the serialized pipeline of a hyp file.

Albumentations 2.x is optional. It is imported when a pipeline is built, not with this module.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from utils.core.errors import InputError
from utils.core.types import Sample
from utils.datasets.augment.compose import IGNORE
from utils.ops.polygons import clip_rings, compute_bounding_box

Effect = Callable[[Sample], Sample]
LIGHT_PROBABILITY = 0.01  # of each transform of the default set
LIGHT_SET: tuple[tuple[str, dict[str, Any]], ...] = (  # names and settings
    ("Blur", {"blur_limit": (3, 7)}),
    ("MedianBlur", {"blur_limit": (3, 7)}),
    ("ToGray", {}),
    ("CLAHE", {"clip_limit": (1.0, 4.0), "tile_grid_size": (8, 8)}),
)
PIXEL_CENTER = 0.5  # the origin of its keypoints is the center of the first pixel, that of ours its edge


def import_albumentations() -> ModuleType:
    """The package, without its online version check, here and in worker processes; InputError if not importable."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    try:
        return importlib.import_module("albumentations")
    except ImportError as error:
        raise InputError(
            f"hyperparameter albumentations: the package cannot be imported ({error}); pip install 'albumentations>=2'"
        ) from error


def is_installed() -> bool:
    """Whether the package is installed, without importing it."""
    return importlib.util.find_spec("albumentations") is not None


class LightPipeline:
    """Blur, MedianBlur, ToGray and CLAHE with a probability of 1 % each, for three-channel images only."""

    def __init__(self) -> None:
        library = import_albumentations()
        self._transforms = [getattr(library, name)(**settings, p=1.0) for name, settings in LIGHT_SET]

    def select(self, rng: np.random.Generator) -> list[Effect]:
        """A random selection of the transforms, usually empty."""
        selected = np.flatnonzero(rng.random(len(LIGHT_SET)) < LIGHT_PROBABILITY)
        return [partial(apply_to_image, self._transforms[n], int(rng.integers(2**32))) for n in selected]


class UserPipeline:
    """A pipeline from `albumentations.to_dict`; transforms boxes, polygons and semantic mask with the image.

    Args:
        serialized: the value of `albumentations:` in a hyp file. Only transforms of Albumentations itself are
            accepted: nothing is imported or executed by name.

    Raises:
        InputError: not a valid pipeline.
    """

    def __init__(self, serialized: Mapping[str, Any]) -> None:
        library = import_albumentations()
        pipeline = load_pipeline(library, serialized)
        self._apply: Callable[[Any, int, Sample], Sample] = apply_to_image
        if is_color_only(library, pipeline):
            self._compose = library.Compose([pipeline])
            return
        set_mask_defaults_(library, pipeline)
        boxes = library.BboxParams(format="pascal_voc", label_fields=["objects"], clip=True, min_width=1, min_height=1)
        points = library.KeypointParams(format="xy", label_fields=["rings"], remove_invisible=False)
        self._compose = library.Compose([pipeline], bbox_params=boxes, keypoint_params=points)
        self._apply = apply_to_sample

    def select(self, rng: np.random.Generator) -> list[Effect]:
        """The pipeline with a seed; it selects its transforms itself."""
        return [partial(self._apply, self._compose, int(rng.integers(2**32)))]


def load_pipeline(library: ModuleType, serialized: Mapping[str, Any]) -> Any:
    """Build the transform of a serialized pipeline; class names are looked up only in the library."""
    tree = serialized.get("transform")
    if not isinstance(tree, Mapping):
        raise InputError("hyperparameter albumentations: expected a mapping from albumentations.to_dict")
    check_names(library, tree)
    try:
        return library.from_dict({"transform": dict(tree)})
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"hyperparameter albumentations: the pipeline cannot be built: {reason}") from error


def check_names(library: ModuleType, tree: Mapping[str, Any]) -> None:
    """InputError unless each class of a serialized tree is a transform or composition of the library."""
    name = tree.get("__class_fullname__")
    kind = getattr(library, name, None) if isinstance(name, str) and name.isidentifier() else None
    if not (isinstance(kind, type) and issubclass(kind, library.BasicTransform | library.BaseCompose)):
        raise InputError(f"hyperparameter albumentations: the installed Albumentations has no transform {name!r}")
    children = tree.get("transforms", [])
    if not isinstance(children, list):
        raise InputError(f"hyperparameter albumentations: {name}: 'transforms' must be a list, got {children!r}")
    for child in children:
        if not isinstance(child, Mapping):
            raise InputError(f"hyperparameter albumentations: {name}: {child!r} is not a serialized transform")
        check_names(library, child)


def is_color_only(library: ModuleType, transform: Any) -> bool:
    """Whether a pipeline has no spatial transforms."""
    if isinstance(transform, library.BaseCompose):
        return all(is_color_only(library, child) for child in transform.transforms)
    return isinstance(transform, library.ImageOnlyTransform)


def set_mask_defaults_(library: ModuleType, transform: Any) -> None:
    """Make a pipeline use nearest-neighbor sampling for semantic masks, and fill them with the ignored value.

    A `fill_mask` of 0, the library's default, is replaced even if it was set explicitly. Dropout without `fill_mask`
    keeps the classes.
    """
    for child in transform.transforms if isinstance(transform, library.BaseCompose) else ():
        set_mask_defaults_(library, child)
    if getattr(transform, "fill_mask", None) == 0:
        transform.fill_mask = IGNORE
    if hasattr(transform, "mask_interpolation"):
        transform.mask_interpolation = cv2.INTER_NEAREST


def apply_to_image(transform: Any, seed: int, sample: Sample) -> Sample:
    """Apply a color transform to the image of a sample if it has three channels."""
    if sample.image.shape[2] == 3:
        transform.set_random_seed(seed)
        sample.image = transform(image=sample.image)["image"]
    return sample


def apply_to_sample(compose: Any, seed: int, sample: Sample) -> Sample:
    """Apply a Compose with box and keypoint parameters to a sample; objects outside the image are dropped."""
    compose.set_random_seed(seed)
    rings = [ring for rings in sample.polygons or [] for ring in rings]
    inputs = {
        "image": sample.image,
        "bboxes": sample.boxes_xyxy.astype(np.float32),
        "objects": list(range(len(sample.classes))),
        "keypoints": np.concatenate([np.zeros((0, 2)), *rings]).astype(np.float32) - PIXEL_CENTER,
        "rings": [r for r, ring in enumerate(rings) for _ in ring],
    }
    if sample.semantic_mask is not None:
        inputs["mask"] = sample.semantic_mask
    out = compose(**inputs)
    if out["image"].shape[:2] != sample.image.shape[:2]:
        raise InputError(
            f"hyperparameter albumentations: the pipeline changes the image size from {sample.image.shape[:2]} to "
            f"{out['image'].shape[:2]}; end it with a Resize to the training size"
        )
    objects = np.array(out["objects"], np.int64).reshape(-1)
    boxes = np.array(out["bboxes"], np.float32).reshape(-1, 4)
    polygons = None
    if sample.polygons is not None:
        points = np.asarray(out["keypoints"]).reshape(-1, 2) + PIXEL_CENTER
        transformed = iter(np.split(points, np.cumsum([len(ring) for ring in rings], dtype=int)[:-1]))
        grouped = [list(islice(transformed, len(rings))) for rings in sample.polygons]
        frame = (0.0, 0.0, float(out["image"].shape[1]), float(out["image"].shape[0]))
        polygons = [clip_rings(grouped[k], frame) for k in objects]
        visible = np.array([bool(rings) for rings in polygons], bool)
        objects, polygons = objects[visible], [rings for rings in polygons if rings]
        boxes = np.array([compute_bounding_box(rings) for rings in polygons], np.float32).reshape(-1, 4)
    image = np.ascontiguousarray(out["image"]).reshape(*out["image"].shape[:2], -1)
    return Sample(image, boxes, sample.classes[objects], polygons, out.get("mask"), sample.path)
