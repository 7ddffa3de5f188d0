"""What an evolution may change about the recipe: the table of genes, choice of a parent, mutation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from utils.core.errors import InputError

PARENTS = 5  # rows of highest fitness that a parent is drawn from
MUTATED, SPREAD = 0.8, 0.2  # share of genes that change, and how far
LOWEST_FACTOR, HIGHEST_FACTOR = 0.3, 3.0
LEAST_WEIGHT = 1e-6  # of the worst of the parents, so that it can be drawn too
DEFAULT_ANCHORS = 3.0  # per level, where the recipe names no number
TRIES = 1000


class Gene(NamedTuple):
    """How strongly a hyperparameter mutates (0: not at all), and its limits."""

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


def limited(name: str, value: float) -> float:
    """The value within the limits of its gene, with five significant digits."""
    gene = GENES[name]
    return float(f"{min(max(value, gene.low), gene.high):.5g}")


def choose_parent(fitness: np.ndarray, rng: np.random.Generator) -> int:
    """Index of one of the five fittest of (n,), by chance in proportion to what they have above the fifth."""
    best = np.argsort(-fitness, kind="stable")[:PARENTS]
    weights = fitness[best] - fitness[best].min() + LEAST_WEIGHT
    return int(rng.choice(best, p=weights / weights.sum()))


def mutate(parent: Mapping[str, float], rng: np.random.Generator) -> dict[str, float]:
    """A child whose genes are those of the parent times random factors around 1; at least one differs.

    Each factor is 1 + gain * N(0, 1) * U * 0.2 with a chance of 0.8, where U in 0-1 is how bold the whole child is,
    and lies in 0.3-3. A gene at 0 stays there.

    Raises:
        InputError: no gene can change.
    """
    gains = np.array([GENES[name].gain for name in parent])
    unchanged = {name: limited(name, value) for name, value in parent.items()}
    for _ in range(TRIES):
        spread = SPREAD * rng.random()
        mutates = rng.random(len(gains)) < MUTATED
        factors = np.clip(1 + gains * mutates * rng.standard_normal(len(gains)) * spread, LOWEST_FACTOR, HIGHEST_FACTOR)
        child = {
            name: limited(name, value * f) for (name, value), f in zip(parent.items(), factors.tolist(), strict=True)
        }
        if child != unchanged:
            return child
    raise InputError(
        "--evolve: every hyperparameter that may change is 0, and 0 stays 0; give a --hyp with other values"
    )
