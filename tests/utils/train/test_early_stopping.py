from __future__ import annotations

from utils.train.early_stopping import EarlyStopping


def test_equal_fitness_is_best_but_does_not_reset_patience() -> None:
    stopping = EarlyStopping(patience=2)
    assert stopping.update(0, 0.5)
    assert stopping.update(1, 0.5)
    assert not stopping.should_stop(1)
    assert not stopping.update(2, 0.4)
    assert stopping.should_stop(2)


def test_patience_zero_never_stops() -> None:
    stopping = EarlyStopping(patience=0)
    stopping.update(0, 1.0)
    assert not stopping.should_stop(10_000)


def test_state_restores_the_best_epoch_and_keeps_the_new_patience() -> None:
    old = EarlyStopping(patience=5)
    old.update(3, 0.7)
    new = EarlyStopping(patience=9)
    new.load_state_dict(old.state_dict())
    assert (new.best_epoch, new.best_fitness, new.patience) == (3, 0.7, 9)


def test_zero_fitness_in_the_first_epoch_is_best() -> None:
    assert EarlyStopping().update(0, 0.0)
