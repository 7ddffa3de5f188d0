"""Hyperparameters that evolve: limits, parent selection, mutation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError

NUM_PARENTS = 5  # a parent is drawn from the fittest generations
MUTATION_PROB, MUTATION_STD = 0.8, 0.2
MIN_FACTOR, MAX_FACTOR = 0.3, 3.0
MIN_WEIGHT = 1e-6  # so that the worst of the parents can be drawn too
DEFAULT_ANCHORS = 3.0  # per level, if the hyp file has none
MAX_TRIES = 1000


class Gene(NamedTuple):
    """Mutation strength (0: fixed) and limits of a hyperparameter."""

    gain: float
    low: float
    high: float


GENES: dict[str, Gene] = {
    "lr0": Gene(1, 1e-5, 0.1),
    "lrf": Gene(1, 0.01, 1.0),
    "momentum": Gene(0.3, 0.6, 0.98),
    "weight_decay": Gene(1, 0.0, 0.001),
    "warmup_epochs": Gene(1, 0.0, 5.0),
    "warmup_momentum": Gene(1, 0.0, 0.95),
    "warmup_bias_lr": Gene(1, 0.0, 0.2),
    "box": Gene(1, 0.02, 0.2),
    "cls": Gene(1, 0.2, 4.0),
    "cls_pw": Gene(1, 0.5, 2.0),
    "obj": Gene(1, 0.2, 4.0),
    "obj_pw": Gene(1, 0.5, 2.0),
    "iou_t": Gene(0, 0.1, 0.7),
    "anchor_t": Gene(1, 2.0, 8.0),
    "anchors": Gene(2, 2.0, 10.0),
    "fl_gamma": Gene(0, 0.0, 2.0),
    "hsv_h": Gene(1, 0.0, 0.1),
    "hsv_s": Gene(1, 0.0, 0.9),
    "hsv_v": Gene(1, 0.0, 0.9),
    "degrees": Gene(1, 0.0, 45.0),
    "translate": Gene(1, 0.0, 0.9),
    "scale": Gene(1, 0.0, 0.9),
    "shear": Gene(1, 0.0, 10.0),
    "perspective": Gene(0, 0.0, 0.001),
    "flipud": Gene(1, 0.0, 1.0),
    "fliplr": Gene(0, 0.0, 1.0),
    "mosaic": Gene(1, 0.0, 1.0),
    "mixup": Gene(1, 0.0, 1.0),
    "copy_paste": Gene(1, 0.0, 1.0),
}


def select_genes(hyp: Hyperparameters, names: Sequence[str]) -> dict[str, float]:
    """The named hyperparameters, clamped to their limits."""
    values = {"anchors": DEFAULT_ANCHORS, **hyp.to_dict()}
    return {name: clamp(name, values[name]) for name in names}


def clamp(name: str, value: float) -> float:
    """The value within the limits of its gene, to five significant digits."""
    gene = GENES[name]
    return float(f"{min(max(value, gene.low), gene.high):.5g}")


def choose_parent(fitness: np.ndarray, rng: np.random.Generator) -> int:
    """Draw one of the five fittest of (n,), weighted by fitness above that of the fifth; its index."""
    best = np.argsort(-fitness, kind="stable")[:NUM_PARENTS]
    weights = fitness[best] - fitness[best].min() + MIN_WEIGHT
    return int(rng.choice(best, p=weights / weights.sum()))


def mutate(parent: Mapping[str, float], rng: np.random.Generator) -> dict[str, float]:
    """Multiply the parent's genes by random factors around 1; at least one changes.

    With probability 0.8 a factor is 1 + gain * N(0, 1) * 0.2 * U, clipped to 0.3-3, where U in 0-1 is drawn once per
    child. A gene at 0 stays 0.

    Raises:
        InputError: no gene can change.
    """
    gains = np.array([GENES[name].gain for name in parent])
    unchanged = {name: clamp(name, value) for name, value in parent.items()}
    for _ in range(MAX_TRIES):
        std = MUTATION_STD * rng.random()
        mutates = rng.random(len(gains)) < MUTATION_PROB
        factors = np.clip(1 + gains * mutates * rng.standard_normal(len(gains)) * std, MIN_FACTOR, MAX_FACTOR)
        child = {name: clamp(name, parent[name] * f) for name, f in zip(parent, factors.tolist(), strict=True)}
        if child != unchanged:
            return child
    raise InputError("--evolve: all hyperparameters that can mutate are 0, and 0 stays 0; choose other values in --hyp")
