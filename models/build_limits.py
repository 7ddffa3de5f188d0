"""Limits on the size of a network while it is built from a file."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.utils.hooks import RemovableHandle

from utils.core.errors import InputError
from utils.core.limits import check_limit

MAX_PARAMETERS = 500_000_000  # YOLOv5x6 has 141 million
MAX_PARTS = 20_000  # modules and tensors; the largest shipped network has about 1,900


class BuildLimits:
    """Context in which constructors raise InputError once all modules or parameters together are over a limit.

    Torch reports every parameter before it is filled, and memory is first used by that: whatever the arguments ask for,
    nothing near it is allocated. Parameters on another device than the default one are refused too.

    Attributes:
        place: file and row that are being built, for messages.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._parts = self._parameters = 0
        self._thread = threading.get_ident()
        self._device = torch.empty(0).device
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        self._handles = [
            registration.register_module_module_registration_hook(self._count_module),
            registration.register_module_parameter_registration_hook(self._count_tensor),
            registration.register_module_buffer_registration_hook(self._count_tensor),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _count_module(self, parent: nn.Module, name: str, module: Any) -> None:
        if threading.get_ident() == self._thread:  # the hooks are those of the process
            self._parts += 1
            check_limit(self.place, "modules and tensors", self._parts, MAX_PARTS)

    def _count_tensor(self, parent: nn.Module, name: str, tensor: Tensor | None) -> None:
        self._count_module(parent, name, tensor)
        if tensor is None or threading.get_ident() != self._thread:
            return
        self._parameters += tensor.numel()
        check_limit(self.place, "parameters", self._parameters, MAX_PARAMETERS)
        if tensor.device != self._device:
            raise InputError(f"{self.place}: a parameter on device {tensor.device}; remove the argument")
