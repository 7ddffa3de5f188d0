from __future__ import annotations

import numpy as np
import pytest

from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.search.genes import GENES, choose_parent, clamp, mutate


def defaults() -> dict[str, float]:
    return {"anchors": 3.0} | {name: value for name, value in Hyperparameters().to_dict().items() if name in GENES}


def test_every_gene_is_a_hyperparameter_whose_limits_are_usable() -> None:
    for end in ("low", "high"):
        values = {name: getattr(gene, end) for name, gene in GENES.items()}
        assert Hyperparameters.from_dict(values, source="limits").lr0 == values["lr0"]


def test_values_are_clamped_to_their_limits_with_five_digits() -> None:
    assert clamp("lr0", 1.0) == 0.1
    assert clamp("lr0", 0.0) == 1e-5
    assert clamp("lr0", 0.0123456789) == 0.012346
    assert clamp("degrees", 12.3456789) == 12.346


def test_mutation_changes_something_and_never_what_has_no_gain() -> None:
    parent = defaults()
    for seed in range(200):
        child = mutate(parent, np.random.default_rng(seed))
        assert list(child) == list(parent)
        assert child != parent
        for name, value in child.items():
            gene = GENES[name]
            assert gene.low <= value <= gene.high
            assert gene.gain > 0 or value == clamp(name, parent[name])
            if parent[name]:
                assert 0.3 <= value / parent[name] <= 3.0001 or value in (gene.low, gene.high)


def test_mutation_has_the_stated_spread() -> None:
    """Of a gene of gain 1 away from its limits, 0.8 of the factors differ from 1, with std 0.2 E[U^2]^0.5."""
    factors = np.array([mutate({"obj": 1.0, "cls": 1.0}, np.random.default_rng(seed))["obj"] for seed in range(8000)])
    assert np.mean(factors != 1) == pytest.approx(0.8 / (1 - 0.2**2), abs=0.02)  # both unchanged is drawn again
    assert np.std(factors[factors != 1] - 1) == pytest.approx(0.2 / np.sqrt(3), rel=0.05)


def test_the_same_generator_gives_the_same_child() -> None:
    first, second = (mutate(defaults(), np.random.default_rng([7, 3])) for _ in range(2))
    assert first == second


def test_zeros_alone_cannot_evolve() -> None:
    with pytest.raises(InputError, match="0 stays 0"):
        mutate({"degrees": 0.0, "fliplr": 0.5}, np.random.default_rng(0))


def test_parents_are_the_five_fittest_in_proportion() -> None:
    fitness = np.array([0.1, 0.5, 0.3, 0.0, 0.2, 0.4])
    drawn = np.bincount([choose_parent(fitness, np.random.default_rng(seed)) for seed in range(5000)], minlength=6)
    assert drawn[3] == 0  # the sixth
    assert drawn / 5000 == pytest.approx([0, 0.4, 0.2, 0, 0.1, 0.3], abs=0.03)  # above the fifth: 0, 4, 2, -, 1, 3


def test_equal_parents_are_equally_likely() -> None:
    drawn = np.bincount([choose_parent(np.full(3, 0.2), np.random.default_rng(seed)) for seed in range(3000)])
    assert drawn / 3000 == pytest.approx([1 / 3] * 3, abs=0.03)
