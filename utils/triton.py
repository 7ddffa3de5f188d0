"""Public address of a model on a Triton inference server, with its known signature."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.backends.triton import TritonBackend, load_triton

__all__ = ["TritonRemoteModel"]


class TritonRemoteModel:
    """A model on a Triton server; see `utils.backends.triton`.

    Args:
        url: `grpc://host:port/model` or `http://host:port/model`; without a model, the only one of the server.

    Raises:
        InputError: the server does not respond or has no such model.
    """

    def __init__(self, url: str) -> None:
        self._backend: TritonBackend = load_triton([url], device=torch.device("cpu"))
        self.url, self.model_name = url, self._backend.model["model_name"]

    @property
    def runtime(self) -> str:
        """The platform that runs the model, such as "onnxruntime_onnx"; "" if the server does not say."""
        metadata = self._backend.connections.query("get_model_metadata", **self._backend.model)
        return str(metadata.get("backend", metadata.get("platform", "")))

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, ...]:
        """Run the model on images (B, C, H, W), an array or tensor, given by position or by the name of the input.

        Returns:
            The output, or a tuple of several.

        Raises:
            TypeError: more or less than one input.
        """
        if len(args) + len(kwargs) != 1 or not kwargs.keys() <= {self._backend.input_name}:
            raise TypeError(f"{self.url}: expected one input, {self._backend.input_name!r}")
        (images,) = (*args, *kwargs.values())
        tensor = torch.from_numpy(np.ascontiguousarray(images)) if isinstance(images, np.ndarray) else images
        outputs = self._backend.run(tensor.to("cpu", self._backend.dtype))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
