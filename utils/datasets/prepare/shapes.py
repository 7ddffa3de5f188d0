"""Generated data set of geometric shapes on textured scenes, overlapping, rotated and partly hidden.

Every image depends on (SEED, split, number) only. Only the outline shows the class: colors and textures are
independent of it. Objects are painted from large to small and labeled with their full outline, clipped to the image,
even if smaller ones cover them; painting the polygons by decreasing area therefore reproduces the visible parts. An
object is not drawn if less than MIN_VISIBLE of it, or of an earlier object, would remain visible.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.core.errors import InputError
from utils.core.files import atomic_folder
from utils.core.logging import LOGGER
from utils.imaging.read import imwrite
from utils.ops.masks import ring_area

CLASSES = ("disc", "rectangle", "triangle", "star", "cross")
SEED = 20221122
COUNTS = {"train": 512, "val": 128}
SIZE = 320  # pixels, images are square
SIDES = (12.0, 200.0)  # pixels, both sides of every box
OBJECTS = (2, 10)  # drawn per image, upper end exclusive
EMPTY_SHARE = 0.08  # of the images
STACKED_SHARE = 0.65  # of the objects aim at the border of a larger one
MIN_VISIBLE = 0.35  # of an object's full area, inside the image and not covered
SHIFT = 4  # fractional bits of points passed to OpenCV
MIN_CONTRAST = 45.0  # BGR distance between an object's mean color and the pixels under it


@dataclass
class Shape:
    """One drawn object.

    Attributes:
        label: index in CLASSES.
        outline_xy: (K, 2) float64 corner points in pixels, clipped to the image.
        full_area: area of the unclipped outline in pixels.
        inside: (SIZE, SIZE) bool, pixels of the shape.
        visible: number of pixels that no later object covers.
    """

    label: int
    outline_xy: np.ndarray
    full_area: float
    inside: np.ndarray
    visible: int = 0


@dataclass
class Scene:
    """An image and its ground truth: `frame` BGR, `owner` (SIZE, SIZE) int16 shape number or -1."""

    frame: np.ndarray
    owner: np.ndarray
    shapes: list[Shape]

    def semantic_mask(self) -> np.ndarray:
        """(SIZE, SIZE) uint8: 0 for background, else 1 + class of the visible shape."""
        labels = np.array([0] + [shape.label + 1 for shape in self.shapes], np.uint8)
        return labels[self.owner + 1]


def prepare_shapes(root: Path, raw: Mapping[str, Any]) -> None:
    """Generate the set in `root`: images, polygon labels, semantic masks, COCO annotations; takes a few seconds."""
    generate_set(root, "shapes", _write_splits)


def generate_set(root: Path, name: str, write: Callable[[Path], None]) -> None:
    """Generate `builtin:NAME`: call `write` on a temporary folder that becomes `root` once it is complete.

    Raises:
        InputError: the folder cannot be written or contains other files.
    """
    LOGGER.info(f"Generating builtin:{name} in {root}")
    try:
        with atomic_folder(root, f"builtin:{name} (YOLOv5_DATASETS_DIR)") as work:
            write(work)
    except OSError as error:
        if not (root.is_dir() and any(root.iterdir())):  # else another process generated the same images first
            raise InputError(f"{root}: {error.strerror} while generating builtin:{name}") from error


def _write_splits(root: Path) -> None:
    for number, (split, count) in enumerate(COUNTS.items()):
        _write_split(root, split, number, count)


def draw_scenes(seeds: Iterable[tuple[int, ...]]) -> Iterator[Scene]:
    """Draw the scenes of these seeds with a thread per core, in order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(lambda seed: draw_scene(np.random.default_rng(seed)), seeds)


def _write_split(root: Path, split: str, split_number: int, count: int) -> None:
    for kind in ("images", "labels", "masks"):
        (root / kind / split).mkdir(parents=True)
    scenes = draw_scenes((SEED, split_number, i) for i in range(count))
    records = [_write_scene(root, split, i, scene) for i, scene in enumerate(scenes)]
    annotations = {
        "images": [image for image, _ in records],
        "annotations": [{"id": k, **row} for k, row in enumerate((row for _, rows in records for row in rows), 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES)],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"{split}.json").write_text(json.dumps(annotations), encoding="utf-8")


def _write_scene(root: Path, split: str, i: int, scene: Scene) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write the files of one image; returns its COCO image and annotations."""
    stem = f"{i:06d}"
    imwrite(root / "images" / split / f"{stem}.jpg", scene.frame, quality=92)
    imwrite(root / "masks" / split / f"{stem}.png", scene.semantic_mask())
    lines = [f"{s.label} " + " ".join(f"{v:.6f}" for v in (s.outline_xy / SIZE).flat) for s in scene.shapes]
    (root / "labels" / split / f"{stem}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    image = {"id": i, "file_name": f"{stem}.jpg", "height": SIZE, "width": SIZE}
    return image, [_coco_annotation(i, shape) for shape in scene.shapes]


def _coco_annotation(image_id: int, shape: Shape) -> dict[str, Any]:
    (left, top), (right, bottom) = shape.outline_xy.min(0), shape.outline_xy.max(0)
    return {
        "image_id": image_id,
        "category_id": shape.label,
        "bbox": [round(float(v), 3) for v in (left, top, right - left, bottom - top)],
        "segmentation": [[round(float(v), 3) for v in shape.outline_xy.flat]],
        "area": int(shape.inside.sum()),
        "iscrowd": 0,
        "visible_fraction": round(shape.visible / int(shape.inside.sum()), 4),  # 1: not covered
    }


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw one image with its objects; all randomness comes from `rng`."""
    scene = Scene(_draw_background(rng), np.full((SIZE, SIZE), -1, np.int16), [])
    if rng.random() >= EMPTY_SHARE:
        low, high = SIDES
        sides = np.exp(rng.uniform(np.log(low + 1), np.log(high), rng.integers(*OBJECTS)))
        for side in sorted(sides, reverse=True):
            _add_shape(scene, side, rng)
    noise = rng.standard_normal(scene.frame.shape, np.float32) * np.float32(rng.uniform(1, 7))
    scene.frame = np.clip(scene.frame + noise, 0, 255).astype(np.uint8)
    return scene


def _add_shape(scene: Scene, side: float, rng: np.random.Generator) -> None:
    """Draw a shape of random class, outline and rotation at a valid position; gives up after 12 attempts."""
    label = int(rng.integers(len(CLASSES)))
    unit = _rotate(_draw_unit_outline(CLASSES[label], rng), rng.uniform(0, 2 * np.pi))
    outline = (unit - (unit.min(0) + unit.max(0)) / 2) * (side / np.ptp(unit, axis=0).max())
    for _ in range(12):
        placed = outline + _choose_center(scene, rng)
        shape = _place(scene, label, placed)
        if shape is not None:
            _paint(scene, shape, placed, rng)
            return


def _choose_center(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A random point of the image, or one near the border of a recent shape, so that the new one covers part of it."""
    if scene.shapes and rng.random() < STACKED_SHARE:
        below = scene.shapes[-int(rng.integers(1, min(len(scene.shapes), 2) + 1))].outline_xy
        corner = below[rng.integers(len(below))]
        return corner + (below.mean(0) - corner) * rng.uniform(0.0, 0.6)
    return rng.uniform(0, SIZE, 2)


def _place(scene: Scene, label: int, outline_xy: np.ndarray) -> Shape | None:
    """Place a shape in the scene; None if its size or a visibility would be out of range."""
    cut = clip_polygon(outline_xy, SIZE)
    if len(cut) < 3 or np.ptp(cut, axis=0).min() < SIDES[0] or np.ptp(cut, axis=0).max() > SIDES[1]:
        return None
    inside = _coverage(outline_xy) >= 128
    shape = Shape(label, cut, ring_area(outline_xy), inside, int(inside.sum()))
    if shape.visible < MIN_VISIBLE * shape.full_area:
        return None
    hidden = np.bincount(scene.owner[inside] + 1, minlength=len(scene.shapes) + 1)[1:]
    remaining = [(below, below.visible - int(n)) for below, n in zip(scene.shapes, hidden, strict=True)]
    if any(visible < MIN_VISIBLE * below.full_area for below, visible in remaining):
        return None
    for below, visible in remaining:
        below.visible = visible
    return shape


def _paint(scene: Scene, shape: Shape, outline_xy: np.ndarray, rng: np.random.Generator) -> None:
    """Blend the shape's texture into the image, sometimes with an edge."""
    rows, columns = _get_window(shape.outline_xy)
    patch, inside = scene.frame[rows, columns], shape.inside[rows, columns]
    under = patch[inside].mean(0)
    color = rng.uniform(15, 240, 3)
    while np.linalg.norm(color - under) < MIN_CONTRAST:
        color = rng.uniform(15, 240, 3)
    _blend_(patch, _draw_texture(color, patch.shape[:2], rng), _coverage(outline_xy)[rows, columns])
    if rng.random() < 0.4:
        edge = np.zeros((SIZE, SIZE), np.uint8)
        width = max(1, round(np.sqrt(shape.full_area) / 25))
        cv2.polylines(edge, [_to_fixed_point(outline_xy)], True, 255, width, cv2.LINE_AA, SHIFT)
        _blend_(patch, rng.uniform(0, 255, 3).astype(np.float32), np.where(inside, edge[rows, columns], 0))
    scene.owner[shape.inside] = len(scene.shapes)
    scene.shapes.append(shape)


def _get_window(outline_xy: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that an outline can touch."""
    (left, top), (right, bottom) = (
        np.floor(outline_xy.min(0)).astype(int) - 1,
        np.ceil(outline_xy.max(0)).astype(int) + 1,
    )
    return slice(max(top, 0), min(bottom, SIZE)), slice(max(left, 0), min(right, SIZE))


def _blend_(patch: np.ndarray, colors: np.ndarray, coverage: np.ndarray) -> None:
    """Blend `colors` over the float32 patch in place, with coverage 0-255 as the weight."""
    patch += (colors - patch) * (coverage[..., None].astype(np.float32) / 255)


def _draw_unit_outline(name: str, rng: np.random.Generator) -> np.ndarray:
    """(K, 2) corner points of a shape around the origin, with random proportions."""
    if name == "disc":
        angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
        return np.stack([np.cos(angles), np.sin(angles) * rng.uniform(0.6, 1)], 1)
    if name == "rectangle":
        height = rng.uniform(0.5, 1)
        return np.array([[-1, -height], [1, -height], [1, height], [-1, height]])
    if name == "triangle":
        angles = np.array([0, 2, 4]) * np.pi / 3 + rng.uniform(-0.2, 0.2, 3)
        return np.stack([np.cos(angles), np.sin(angles)], 1)
    if name == "star":
        angles = np.arange(10) * np.pi / 5
        radii = np.where(np.arange(10) % 2, rng.uniform(0.38, 0.5), 1.0)
        return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], 1)
    arm = rng.uniform(0.26, 0.42)
    quarter = np.array([[arm, -1], [arm, -arm], [1, -arm]])
    return np.concatenate([_rotate(quarter, turn * np.pi / 2) for turn in range(4)])


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def clip_polygon(points: np.ndarray, size: float) -> np.ndarray:
    """Clip a polygon to the square [0, size]² (Sutherland and Hodgman 1974). (K, 2) -> (K', 2)."""
    for axis in (0, 1):
        for sign, bound in ((1.0, 0.0), (-1.0, -size)):
            depth = sign * points[:, axis] - bound  # >= 0 inside
            clipped: list[np.ndarray] = []
            for k in range(len(points)):
                before = k - 1
                if (depth[k] >= 0) != (depth[before] >= 0):
                    share = depth[before] / (depth[before] - depth[k])
                    clipped.append(points[before] + share * (points[k] - points[before]))
                if depth[k] >= 0:
                    clipped.append(points[k])
            points = np.array(clipped).reshape(-1, 2)
    return np.clip(points, 0, size)


def _coverage(outline_xy: np.ndarray) -> np.ndarray:
    """(SIZE, SIZE) uint8: share of each pixel inside the outline, 255 for all of it."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(mask, [_to_fixed_point(outline_xy)], 255, cv2.LINE_AA, SHIFT)
    return mask


def _to_fixed_point(outline_xy: np.ndarray) -> np.ndarray:
    """Points in OpenCV's convention: int32 with SHIFT fractional bits, integers at pixel centers."""
    return np.rint((outline_xy - 0.5) * (1 << SHIFT)).astype(np.int32)


def _draw_background(rng: np.random.Generator) -> np.ndarray:
    """(SIZE, SIZE, 3) float32: two colors mixed by noise of several scales, with a few strokes."""
    mix = _draw_noise((SIZE, SIZE), rng)[..., None].astype(np.float32)
    first, second = rng.uniform(20, 235, (2, 3)).astype(np.float32)
    frame = first * mix + second * (1 - mix)
    for _ in range(rng.integers(0, 7)):
        ends = rng.integers(-40, SIZE + 40, (2, 2))
        stroke = rng.uniform(20, 235, 3).tolist()
        cv2.line(frame, ends[0].tolist(), ends[1].tolist(), stroke, int(rng.integers(1, 5)), cv2.LINE_AA)
    return cv2.GaussianBlur(frame, (0, 0), 0.8)


def _draw_noise(size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(H, W) float32 in [0, 1]: sum of ever finer random grids, upsampled smoothly."""
    total = np.zeros(size_hw, np.float32)
    roughness = rng.uniform(0.35, 0.75)
    for octave, cells in enumerate((3, 7, 17, 41, 97)):
        grid = rng.random((cells, cells), np.float32)
        total += roughness**octave * cv2.resize(grid, size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    return (total - total.min()) / np.ptp(total)


def _draw_texture(color: np.ndarray, size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32 around a mean color: plain, striped, checkered, shaded or noisy."""
    height, width = size_hw
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    turn, wave = np.float32(rng.uniform(0, np.pi)), np.float32(2 * np.pi / rng.uniform(6, 24))
    along = columns * np.cos(turn) + rows * np.sin(turn)
    across = rows * np.cos(turn) - columns * np.sin(turn)
    kind = rng.integers(5)
    if kind == 0:
        pattern = np.zeros_like(along)
    elif kind == 1:
        pattern = np.sign(np.sin(along * wave))
    elif kind == 2:
        pattern = np.sign(np.sin(along * wave) * np.sin(across * wave))
    elif kind == 3:
        pattern = along / max(size_hw) * 2
    else:
        pattern = _draw_noise(size_hw, rng) * 2 - 1
    return (color + pattern[..., None] * rng.uniform(10, 40, 3)).astype(np.float32)
