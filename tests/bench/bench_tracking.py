"""HOTA, MOTA and IDF1 of the trackers on generated scenes, time a frame, and memory; beside the library `trackers`.

    pip install trackers trackeval      # in an environment of its own: they bring another OpenCV
    python tests/bench/bench_tracking.py [--seeds 5] [--frames 400] [--memory-frames 200000]

The scenes have known truth: straight and turning paths with crossings, occlusions of 5 to 30 frames, exits and new
entries, a camera that moves, and 5 to 50 objects. Detections have jitter, misses, false boxes, and lower scores where
another object covers them. All trackers get the same detections. TrackEval (arXiv:2009.07736) computes the metrics.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from utils.ops.boxes import box_iou_matrix  # noqa: E402
from utils.tracking.registry import build_tracker  # noqa: E402

WIDTH, HEIGHT, CONF = 1920, 1080, 0.25
Update = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # detections (n, 6) -> boxes (k, 4), ids (k,)


@dataclass(frozen=True)
class Scene:
    """Truth and detections of a sequence, a list entry a frame."""

    boxes: list[np.ndarray]  # (n, 4) of the objects in view, also the occluded ones
    ids: list[np.ndarray]
    detections: list[np.ndarray]  # (m, 6)


def draw_scene(rng: np.random.Generator, frames: int, count: int, *, camera: bool) -> Scene:
    """A scene of `count` objects at a time; who leaves is replaced by a new object."""
    center = rng.uniform([100, 100], [WIDTH - 100, HEIGHT - 100], (count, 2))
    angle, speed = rng.uniform(0, 2 * np.pi, count), rng.uniform(1, 6, count)
    size = np.stack([rng.uniform(30, 80, count), rng.uniform(60, 160, count)], axis=1)
    number, next_number = np.arange(count), count
    hidden_until = np.full(count, -1)
    boxes, ids, detections = [], [], []
    pan = np.zeros(2)
    for frame in range(frames):
        angle += rng.normal(0, 0.03, count)
        center += speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        if camera:
            pan = 0.95 * pan + rng.normal(0, 0.8, 2)
            center += pan
        gone = (center < -60).any(axis=1) | (center > [WIDTH + 60, HEIGHT + 60]).any(axis=1)
        for k in np.flatnonzero(gone):
            side = rng.integers(4)
            center[k] = [(0, rng.uniform(0, HEIGHT)), (WIDTH, rng.uniform(0, HEIGHT)), (rng.uniform(0, WIDTH), 0),
                         (rng.uniform(0, WIDTH), HEIGHT)][side]  # fmt: skip
            angle[k] = np.arctan2(HEIGHT / 2 - center[k, 1], WIDTH / 2 - center[k, 0]) + rng.normal(0, 0.3)
            number[k], next_number = next_number, next_number + 1
        starts = rng.random(count) < 0.004
        hidden_until[starts] = frame + rng.integers(5, 31, starts.sum())
        all_boxes = np.concatenate([center - size / 2, center + size / 2], axis=1)
        boxes.append(all_boxes.copy())
        ids.append(number.copy())
        detections.append(detect(rng, all_boxes, hidden_until > frame))
    return Scene(boxes, ids, detections)


def detect(rng: np.random.Generator, boxes: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """What a detector makes of the objects: jitter, misses, low scores of covered ones, and false boxes."""
    iou = np.triu(box_iou_matrix(boxes, boxes), 1)
    covered = iou.max(axis=0, initial=0.0)  # by an object that is drawn before
    scores = np.clip(rng.normal(0.75, 0.12, len(boxes)) - 0.9 * covered, 0.02, 0.99)
    seen = ~hidden & (rng.random(len(boxes)) > 0.08) & (scores > 0.05)
    sides = (boxes[:, 2:] - boxes[:, :2])[:, [0, 1, 0, 1]]
    rows = np.concatenate([boxes + rng.normal(0, 0.03, boxes.shape) * sides, scores[:, None]], axis=1)[seen]
    false_count = rng.poisson(0.02 * len(boxes) + 0.3)
    corner = rng.uniform([0, 0], [WIDTH, HEIGHT], (false_count, 2))
    false = np.concatenate(
        [corner, corner + rng.uniform(30, 120, (false_count, 2)), rng.uniform(0.1, 0.6, (false_count, 1))], axis=1
    )
    rows = np.concatenate([rows, false])
    return np.concatenate([rows, np.zeros((len(rows), 1))], axis=1)


def build_ours(name: str) -> Update:
    tracker = build_tracker(name, CONF)

    def update(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = rows[rows[:, 4] >= tracker.settings.low]
        ids = tracker.update(rows)
        return rows[ids >= 0, :4], ids[ids >= 0]

    return update


def build_library(name: str, *, own_thresholds: bool) -> Update:
    """A tracker of the library, with its own thresholds or with ours."""
    import supervision
    import trackers

    kinds = {"bytetrack": trackers.ByteTrackTracker, "ocsort": trackers.OCSORTTracker}
    ours = {
        "bytetrack": {"track_activation_threshold": CONF, "high_conf_det_threshold": CONF},
        "ocsort": {"high_conf_det_threshold": CONF},
    }
    tracker: Any = kinds[name](**({} if own_thresholds else ours[name]))

    def update(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = rows[rows[:, 4] >= 0.1]
        detections = supervision.Detections(
            xyxy=rows[:, :4].copy(), confidence=rows[:, 4].copy(), class_id=np.zeros(len(rows), int)
        )
        result = tracker.update(detections)
        ids = np.asarray(result.tracker_id if result.tracker_id is not None else [], np.int64)
        return result.xyxy[ids >= 0], ids[ids >= 0]

    return update


def evaluate(scene: Scene, update: Update) -> tuple[dict[str, float], float]:
    """HOTA, MOTA and IDF1 in percent, and milliseconds a frame."""
    import trackeval

    names: dict[int, int] = {}
    gt_names: dict[int, int] = {}
    tracker_ids, gt_ids, similarity, seconds = [], [], [], 0.0
    for truth, numbers, rows in zip(scene.boxes, scene.ids, scene.detections, strict=True):
        started = perf_counter()
        boxes, ids = update(rows)
        seconds += perf_counter() - started
        inside = (truth[:, 2:] > 0).all(axis=1) & (truth[:, :2] < [WIDTH, HEIGHT]).all(axis=1)
        gt_ids.append(np.array([gt_names.setdefault(int(i), len(gt_names)) for i in numbers[inside]], int))
        tracker_ids.append(np.array([names.setdefault(int(i), len(names)) for i in ids], int))
        similarity.append(box_iou_matrix(truth[inside], np.asarray(boxes, float).reshape(-1, 4)))
    data = {
        "num_timesteps": len(gt_ids),
        "num_gt_ids": len(gt_names),
        "num_tracker_ids": len(names),
        "num_gt_dets": sum(map(len, gt_ids)),
        "num_tracker_dets": sum(map(len, tracker_ids)),
        "gt_ids": gt_ids,
        "tracker_ids": tracker_ids,
        "similarity_scores": similarity,
    }
    quiet = {"PRINT_CONFIG": False}
    hota = trackeval.metrics.HOTA().eval_sequence(data)["HOTA"].mean()
    mota = trackeval.metrics.CLEAR(quiet).eval_sequence(data)["MOTA"]
    idf1 = trackeval.metrics.Identity(quiet).eval_sequence(data)["IDF1"]
    values = {"HOTA": 100 * hota, "MOTA": 100 * mota, "IDF1": 100 * idf1}
    return {name: float(value) for name, value in values.items()}, 1000 * seconds / len(gt_ids)


def compare(seeds: int, frames: int) -> None:
    """Print a table: scenes by number of objects and camera, and trackers."""
    ways: dict[str, Callable[[], Update]] = {}
    for name in ("bytetrack", "ocsort"):
        ways[f"{name}"] = lambda name=name: build_ours(name)  # type: ignore[misc]
        ways[f"trackers {name}, our thresholds"] = lambda name=name: build_library(name, own_thresholds=False)  # type: ignore[misc]
        ways[f"trackers {name}, its thresholds"] = lambda name=name: build_library(name, own_thresholds=True)  # type: ignore[misc]
    print(f"{'':36}{'objects':>8}{'camera':>8}{'HOTA':>8}{'MOTA':>8}{'IDF1':>8}{'ms':>8}")
    for count in (5, 20, 50):
        for camera in (False, True):
            scenes = [draw_scene(np.random.default_rng(seed), frames, count, camera=camera) for seed in range(seeds)]
            for title, build in ways.items():
                runs = [evaluate(scene, build()) for scene in scenes]
                means = [np.mean([values[key] for values, _ in runs]) for key in ("HOTA", "MOTA", "IDF1")]
                cells = "".join(f"{value:8.1f}" for value in means)
                print(
                    f"{title:36}{count:8}{'moves' if camera else 'still':>8}{cells}{np.mean([m for _, m in runs]):8.3f}"
                )


def measure_memory(frames: int) -> None:
    """Print resident memory of a long run at some frames, with ids that grow."""
    for name in ("bytetrack", "ocsort"):
        update, rng = build_ours(name), np.random.default_rng(0)
        scene = draw_scene(rng, 1000, 20, camera=True)
        largest = 0
        for frame in range(frames):
            _, ids = update(scene.detections[frame % 1000])
            largest = max(largest, int(ids.max(initial=0)))
            if frame in (999, frames // 4, frames // 2, frames - 1):
                status = Path("/proc/self/status").read_text()
                megabytes = int(status.split("VmRSS:")[1].split()[0]) / 1024
                print(f"{name}: frame {frame + 1:,}: {megabytes:.1f} MB, ids up to {largest:,}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Trackers on generated scenes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--memory-frames", type=int, default=0, help="0: no measurement of memory")
    args = parser.parse_args()
    if args.memory_frames:
        measure_memory(args.memory_frames)
    else:
        compare(args.seeds, args.frames)


if __name__ == "__main__":
    main()
