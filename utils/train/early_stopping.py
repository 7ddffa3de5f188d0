"""Early stopping and the choice of the best epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class EarlyStopping:
    """Remembers the best fitness; equal fitness refreshes the best checkpoint but does not buy more time.

    Attributes:
        patience: epochs without gain before the run stops; 0 never stops.
        best_fitness, best_epoch: the highest fitness and the first epoch that had it.
    """

    patience: int = 100
    best_fitness: float = float("-inf")
    best_epoch: int = 0

    def update(self, epoch: int, fitness: float) -> bool:
        """Take in an epoch's fitness; True where it is (or equals) the best so far."""
        if fitness > self.best_fitness:
            self.best_fitness, self.best_epoch = fitness, epoch
        return fitness == self.best_fitness

    def should_stop(self, epoch: int) -> bool:
        """Whether `patience` epochs have passed since the best one."""
        return 0 < self.patience <= epoch - self.best_epoch

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the memory; the patience stays as configured."""
        self.best_fitness, self.best_epoch = float(state["best_fitness"]), int(state["best_epoch"])
