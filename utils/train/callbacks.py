"""Hooks of a run: who wants to be told, and in which moments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from utils.core.types import Batch, Prediction

HOOKS = (
    "on_pretrain_routine_start",
    "on_pretrain_routine_end",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "optimizer_step",
    "on_optimizer_step_end",
    "on_before_zero_grad",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_val_start",
    "on_val_batch_start",
    "on_val_image_end",
    "on_val_batch_end",
    "on_val_end",
    "on_fit_epoch_end",
    "on_model_save",
    "on_train_end",
    "on_params_update",
    "teardown",
)


class Callbacks:
    """Passes each hook on to the listeners, in the order they were added.

    A listener is any object; it hears the hooks it has methods for, called with the keywords of `run`.

    Args:
        listeners: objects to begin with.
    """

    def __init__(self, listeners: Iterable[object] = ()) -> None:
        self._actions: dict[str, list[Callable[..., object]]] = {hook: [] for hook in HOOKS}
        for listener in listeners:
            self.add(listener)

    def add(self, listener: object) -> None:
        """Let `listener` hear every hook it has a method for.

        Raises:
            ValueError: a method is named like a hook (`on_...`) but no such hook exists.
        """
        for name in dir(listener):
            if name in HOOKS or name.startswith("on_"):
                self.on(name, getattr(listener, name))

    def on(self, hook: str, action: Callable[..., object]) -> None:
        """Call `action` at `hook`; ValueError for a hook that does not exist."""
        self._known(hook).append(action)

    def run(self, hook: str, **details: Any) -> None:
        """Tell every listener of `hook`; ValueError for a hook that does not exist."""
        for action in self._known(hook):
            action(**details)

    def _known(self, hook: str) -> list[Callable[..., object]]:
        if hook not in self._actions:
            near = get_close_matches(hook, HOOKS)
            raise ValueError(f"unknown hook {hook!r}; " + (f"near: {near}" if near else f"there are {list(HOOKS)}"))
        return self._actions[hook]


class CallbackSink:
    """Tells the listeners of a run of every measured image and batch, of several processes of the main one's."""

    def __init__(self, callbacks: Callbacks) -> None:
        self.callbacks = callbacks

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """`on_val_image_end` for each image, then `on_val_batch_end`."""
        for path, prediction in zip(batch.paths, predictions, strict=True):
            self.callbacks.run("on_val_image_end", path=path, prediction=prediction)
        self.callbacks.run("on_val_batch_end", batch=batch, predictions=predictions)

    def close(self) -> None:
        """The end of the pass has a hook of its own."""
