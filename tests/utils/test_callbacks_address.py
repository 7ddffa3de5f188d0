from __future__ import annotations

import threading
from typing import Any

import pytest

from utils.callbacks import Callbacks

HOOKS = (  # of release 7.0
    *("on_pretrain_routine_start", "on_pretrain_routine_end", "on_train_start", "on_train_epoch_start"),
    *("on_train_batch_start", "optimizer_step", "on_before_zero_grad", "on_train_batch_end", "on_train_epoch_end"),
    *("on_val_start", "on_val_batch_start", "on_val_image_end", "on_val_batch_end", "on_val_end"),
    *("on_fit_epoch_end", "on_model_save", "on_train_end", "on_params_update", "teardown"),
)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_runs_its_actions_in_order(hook: str) -> None:
    callbacks, calls = Callbacks(), []
    callbacks.register_action(hook, "first", lambda *args, **kwargs: calls.append((1, args, kwargs)))
    callbacks.register_action(hook, callback=lambda *args, **kwargs: calls.append((2, args, kwargs)))
    callbacks.run(hook, 3, [4], epoch=5)
    assert calls == [(1, (3, [4]), {"epoch": 5}), (2, (3, [4]), {"epoch": 5})]
    for other in HOOKS:
        if other != hook:
            callbacks.run(other)
    assert len(calls) == 2


def test_registered_actions() -> None:
    callbacks = Callbacks()
    callbacks.register_action("on_train_end", "print", print)
    assert callbacks.get_registered_actions("on_train_end") == [{"name": "print", "callback": print}]
    everything: Any = callbacks.get_registered_actions()
    assert set(HOOKS) <= set(everything) and everything["on_train_start"] == []
    assert callbacks.stop_training is False


def test_actions_in_threads() -> None:
    callbacks, done, threads = Callbacks(), threading.Event(), []

    def act(value: int, *, last: bool) -> None:
        threads.append((value, threading.current_thread()))
        if last:
            done.set()

    callbacks.register_action("on_model_save", callback=act)
    callbacks.run("on_model_save", 7, thread=True, last=True)
    assert done.wait(10)
    value, thread = threads[0]
    assert value == 7 and thread is not threading.main_thread() and thread.daemon


def test_wrong_hooks_and_callbacks() -> None:
    callbacks = Callbacks()
    for call in (callbacks.run, callbacks.register_action, callbacks.get_registered_actions):
        with pytest.raises(ValueError, match="unknown hook 'on_train_strat'; near: "):
            call("on_train_strat")
    with pytest.raises(ValueError, match="hook 'teardown': callback 'x' is not callable"):
        callbacks.register_action("teardown", callback="x")  # type: ignore[arg-type]
