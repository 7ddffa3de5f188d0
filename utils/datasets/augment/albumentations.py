"""Albumentations as one of our augmentations: a light default set, or the serialized pipeline of a hyp file.

Albumentations 2.x is optional. It is imported when a pipeline is made, not with this module.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from utils.core.errors import InputError
from utils.core.types import Sample
from utils.datasets.augment.compose import IGNORE
from utils.ops.polygons import clip_rings, extents

Effect = Callable[[Sample], Sample]
LIGHT_CHANCE = 0.01  # of each transform of the default set
LIGHT_SET: tuple[tuple[str, dict[str, Any]], ...] = (  # name and settings, each on its own chance
    ("Blur", {"blur_limit": (3, 7)}),
    ("MedianBlur", {"blur_limit": (3, 7)}),
    ("ToGray", {}),
    ("CLAHE", {"clip_limit": (1.0, 4.0), "tile_grid_size": (8, 8)}),
)
PIXEL_CENTER = 0.5  # its keypoints count from the center of the first pixel, ours from its edge
UPDATE_SWITCH = "NO_ALBUMENTATIONS_UPDATE"


@contextmanager
def no_update_check() -> Iterator[None]:
    """Keep Albumentations from asking the network for a newer version while it is imported."""
    before = os.environ.get(UPDATE_SWITCH)
    os.environ[UPDATE_SWITCH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[UPDATE_SWITCH]
        else:
            os.environ[UPDATE_SWITCH] = before


def import_albumentations() -> ModuleType:
    """The package; InputError where it is missing."""
    try:
        with no_update_check():
            return importlib.import_module("albumentations")
    except ImportError as error:
        raise InputError(
            f"hyperparameter albumentations: the package cannot be imported ({error}); pip install 'albumentations>=2'"
        ) from error


def is_installed() -> bool:
    """Whether the package is there; does not import it."""
    return importlib.util.find_spec("albumentations") is not None


class LightPipeline:
    """Blur, MedianBlur, ToGray and CLAHE, each on one image in a hundred; three-channel images only."""

    def __init__(self) -> None:
        self._transforms: list[Any] = self._build()

    def __getstate__(self) -> dict[str, Any]:
        return {"_transforms": []}  # a spawned worker builds its own, without the update check of a plain import

    def pick(self, rng: np.random.Generator) -> list[Effect]:
        """The transforms that fire this time: mostly none."""
        fires = np.flatnonzero(rng.random(len(LIGHT_SET)) < LIGHT_CHANCE)
        if len(fires):
            self._transforms = self._transforms or self._build()
        return [partial(change_image, self._transforms[n], int(rng.integers(2**32))) for n in fires]

    @staticmethod
    def _build() -> list[Any]:
        library = import_albumentations()
        return [getattr(library, name)(**settings, p=1.0) for name, settings in LIGHT_SET]


class UserPipeline:
    """A pipeline as written by `albumentations.to_dict`; boxes, polygons and semantic mask move with the image.

    Args:
        serialized: the value of `albumentations:` in a hyp file. Only transforms of Albumentations itself are
            accepted: nothing is imported or executed by name.

    Raises:
        InputError: not such a pipeline; names what is wrong.
    """

    def __init__(self, serialized: Mapping[str, Any]) -> None:
        self.serialized = serialized
        self._compose: Any = self._build()

    def __getstate__(self) -> dict[str, Any]:
        return {"serialized": self.serialized, "_compose": None}

    def pick(self, rng: np.random.Generator) -> list[Effect]:
        """The pipeline with its seed; it draws by itself which of its transforms fire."""
        self._compose = self._compose or self._build()
        apply = change_all if "bboxes" in self._compose.processors else change_image
        return [partial(apply, self._compose, int(rng.integers(2**32)))]

    def _build(self) -> Any:
        library = import_albumentations()
        pipeline = load_pipeline(library, self.serialized)
        if only_colors(library, pipeline):
            return library.Compose([pipeline])
        suit_semantic_masks(library, pipeline)
        boxes = library.BboxParams(format="pascal_voc", label_fields=["objects"], clip=True, min_width=1, min_height=1)
        points = library.KeypointParams(format="xy", label_fields=["rings"], remove_invisible=False)
        return library.Compose([pipeline], bbox_params=boxes, keypoint_params=points)


def load_pipeline(library: ModuleType, serialized: Mapping[str, Any]) -> Any:
    """The transform that a serialized pipeline describes; every class name is looked up in the library only."""
    tree = serialized.get("transform")
    if not isinstance(tree, Mapping):
        raise InputError("hyperparameter albumentations: expected the mapping that albumentations.to_dict gives")
    check_names(library, tree)
    try:
        return library.from_dict({"transform": dict(tree)})
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"hyperparameter albumentations: the pipeline cannot be built: {reason}") from error


def check_names(library: ModuleType, tree: Mapping[str, Any]) -> None:
    """InputError unless each class of a serialized tree is a transform or a combination of the library's."""
    name = tree.get("__class_fullname__")
    found = getattr(library, name, None) if isinstance(name, str) and name.isidentifier() else None
    if not (isinstance(found, type) and issubclass(found, library.BasicTransform | library.BaseCompose)):
        raise InputError(f"hyperparameter albumentations: {name!r} is no transform of the installed Albumentations")
    children = tree.get("transforms", [])
    if not isinstance(children, list):
        raise InputError(f"hyperparameter albumentations: {name}: 'transforms' must be a list, got {children!r}")
    for child in children:
        if not isinstance(child, Mapping):
            raise InputError(f"hyperparameter albumentations: {name}: {child!r} is not a serialized transform")
        check_names(library, child)


def only_colors(library: ModuleType, transform: Any) -> bool:
    """Whether nothing in a pipeline moves pixels."""
    if isinstance(transform, library.BaseCompose):
        return all(only_colors(library, child) for child in transform.transforms)
    return isinstance(transform, library.ImageOnlyTransform)


def suit_semantic_masks(library: ModuleType, transform: Any) -> None:
    """Make a pipeline pick classes instead of mixing them, and ignore what it uncovers instead of calling it class 0.

    0 is its own default, so that it cannot be told from a wish. Holes whose masks are not filled keep their classes.
    """
    for child in transform.transforms if isinstance(transform, library.BaseCompose) else ():
        suit_semantic_masks(library, child)
    if getattr(transform, "fill_mask", None) == 0:
        transform.fill_mask = IGNORE
    if hasattr(transform, "mask_interpolation"):
        transform.mask_interpolation = cv2.INTER_NEAREST


def change_image(transform: Any, seed: int, sample: Sample) -> Sample:
    """Run a transform that only changes colors; three-channel images only."""
    if sample.image.shape[2] == 3:
        transform.set_random_seed(seed)
        sample.image = transform(image=sample.image)["image"]
    return sample


def change_all(compose: Any, seed: int, sample: Sample) -> Sample:
    """Run a Compose with box and keypoint parameters over all parts of a sample; what leaves the image is dropped."""
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
            f"hyperparameter albumentations: the pipeline turns {sample.image.shape[:2]} into {out['image'].shape[:2]} "
            "pixels; end it with a Resize to the training size"
        )
    kept = np.array(out["objects"], np.int64).reshape(-1)
    boxes = np.array(out["bboxes"], np.float32).reshape(-1, 4)
    polygons = None
    if sample.polygons is not None:
        moved = split_rings(np.asarray(out["keypoints"]).reshape(-1, 2) + PIXEL_CENTER, [len(ring) for ring in rings])
        grouped = regroup(moved, [len(rings) for rings in sample.polygons])
        frame = (0.0, 0.0, float(out["image"].shape[1]), float(out["image"].shape[0]))
        polygons = [clip_rings(grouped[k], frame) for k in kept]
        shown = np.array([bool(rings) for rings in polygons], bool)
        kept, polygons = kept[shown], [rings for rings in polygons if rings]
        boxes = np.array([extents(rings) for rings in polygons], np.float32).reshape(-1, 4)
    image = np.ascontiguousarray(out["image"]).reshape(*out["image"].shape[:2], -1)
    return Sample(image, boxes, sample.classes[kept], polygons, out.get("mask"), sample.path)


def split_rings(points: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    """(P, 2) points as rings of the given lengths."""
    return np.split(points, np.cumsum(lengths)[:-1]) if lengths else []


def regroup(rings: list[np.ndarray], counts: list[int]) -> list[list[np.ndarray]]:
    """A flat list of rings as one list for each object."""
    ends = np.cumsum(counts).tolist()
    return [rings[end - count : end] for end, count in zip(ends, counts, strict=True)]
