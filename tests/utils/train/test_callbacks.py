from __future__ import annotations

import pytest

from utils.train.callbacks import Callbacks


class Listener:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def on_fit_epoch_end(self, *, epoch: int, **_: object) -> None:
        self.heard.append(epoch)

    def teardown(self) -> None:
        self.heard.append("teardown")


def test_callbacks_run_in_order() -> None:
    listener = Listener()
    callbacks = Callbacks([listener])
    callbacks.on("on_fit_epoch_end", lambda epoch, metrics: listener.heard.append(metrics))
    callbacks.run("on_fit_epoch_end", epoch=4, metrics={"a": 1})
    callbacks.run("on_train_start")
    callbacks.run("teardown")
    assert listener.heard == [4, {"a": 1}, "teardown"]


def test_callbacks_refuse_unknown_hooks() -> None:
    class Misspelt:
        def on_train_epoch_ended(self) -> None: ...

    with pytest.raises(ValueError, match=r"unknown hook 'on_fit_end'; near: \["):
        Callbacks().run("on_fit_end")
    with pytest.raises(ValueError, match=r"unknown hook 'on_train_epoch_ended'; near: \['on_train_epoch_end'"):
        Callbacks([Misspelt()])
    with pytest.raises(ValueError, match="unknown hook 'x'; there are"):
        Callbacks().on("x", print)
