"""Training callbacks."""

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
    """Calls the callbacks of each hook, in the order they were added.

    Args:
        callbacks: objects as for `add`.
    """

    def __init__(self, callbacks: Iterable[object] = ()) -> None:
        self._actions: dict[str, list[Callable[..., object]]] = {hook: [] for hook in HOOKS}
        for callback in callbacks:
            self.add(callback)

    def add(self, callback: object) -> None:
        """Add any object; its methods named like hooks are called with the keywords of `run`.

        Raises:
            ValueError: a method is named like a hook (`on_...`) but no such hook exists.
        """
        for name in dir(callback):
            if name in HOOKS or name.startswith("on_"):
                self.on(name, getattr(callback, name))

    def on(self, hook: str, action: Callable[..., object]) -> None:
        """Call `action` at `hook`; ValueError for a hook that does not exist."""
        self._get_actions(hook).append(action)

    def run(self, hook: str, **details: Any) -> None:
        """Call the actions of `hook`; ValueError for a hook that does not exist."""
        for action in self._get_actions(hook):
            action(**details)

    def _get_actions(self, hook: str) -> list[Callable[..., object]]:
        check_hook(hook)
        return self._actions[hook]


def check_hook(hook: str) -> None:
    """ValueError for a hook that does not exist."""
    if hook not in HOOKS:
        near = get_close_matches(hook, HOOKS)
        raise ValueError(f"unknown hook {hook!r}; " + (f"near: {near}" if near else f"there are {list(HOOKS)}"))


class CallbackSink:
    """Runs the validation hooks for every image and batch of this rank."""

    def __init__(self, callbacks: Callbacks) -> None:
        self.callbacks = callbacks

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """`on_val_image_end` for each image, then `on_val_batch_end`."""
        for path, prediction in zip(batch.paths, predictions, strict=True):
            self.callbacks.run("on_val_image_end", path=path, prediction=prediction)
        self.callbacks.run("on_val_batch_end", batch=batch, predictions=predictions)

    def close(self) -> None:
        """Nothing to close."""
