"""Public address of training callbacks, with their known signatures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from utils.train.callbacks import HOOKS, check_hook

Action = dict[str, Any]  # `name` and `callback`


class Callbacks:
    """Functions that a training script calls at its hooks, in the order in which they were registered.

    Attributes:
        stop_training: set by a function to end training.
    """

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Action]] = {hook: [] for hook in HOOKS}
        self.stop_training = False

    def register_action(self, hook: str, name: str = "", callback: Callable[..., object] | None = None) -> None:
        """Call `callback` at `hook`; `name` is for `get_registered_actions`.

        Raises:
            ValueError: no such hook, or `callback` cannot be called.
        """
        check_hook(hook)
        if not callable(callback):
            raise ValueError(f"hook {hook!r}: callback {callback!r} is not callable")
        self._callbacks[hook].append({"name": name, "callback": callback})

    def get_registered_actions(self, hook: str | None = None) -> dict[str, list[Action]] | list[Action]:
        """The functions of `hook`, each a dictionary of `name` and `callback`; of all hooks without one."""
        if hook is None:
            return self._callbacks
        check_hook(hook)
        return self._callbacks[hook]

    def run(self, hook: str, *args: Any, thread: bool = False, **kwargs: Any) -> None:
        """Call the functions of `hook` with the other arguments; with `thread`, each in a background thread.

        Raises:
            ValueError: no such hook.
        """
        check_hook(hook)
        for action in self._callbacks[hook]:
            if thread:
                threading.Thread(target=action["callback"], args=args, kwargs=kwargs, daemon=True).start()
            else:
                action["callback"](*args, **kwargs)
