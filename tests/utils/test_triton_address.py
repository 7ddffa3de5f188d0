from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mock_triton import MockModel, grpc_server, http_server

from utils import triton

SERVERS = {"http": http_server, "grpc": grpc_server}


def image_sums(images: np.ndarray) -> np.ndarray:
    """(B, 1, 7): the sum of each image."""
    return images.astype(np.float32).sum(axis=(1, 2, 3))[:, None, None].repeat(7, 2)


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_remote_model(kind: str) -> None:
    pytest.importorskip(f"tritonclient.{kind}")
    with SERVERS[kind](MockModel(image_sums)) as url:
        model = triton.TritonRemoteModel(f"{url}/yolo")
        assert model.model_name == "yolo"
        assert isinstance(model.runtime, str)
        images = torch.stack([torch.full((3, 4, 4), value) for value in (0.5, 1.0, 2.0)])
        expected = [[[value * 48] * 7] for value in (0.5, 1.0, 2.0)]
        assert model(images).tolist() == expected  # more than fit in one batch of the server
        assert model(images=images.numpy()).tolist() == expected


class Backend:
    """In the place of `TritonBackend`: FP16 images, sums of channels and of everything."""

    model, input_name, dtype = {"model_name": "yolo", "model_version": ""}, "images", torch.float16
    num_outputs = 1

    def __init__(self) -> None:
        self.connections = SimpleNamespace(query=self.query)

    def query(self, method: str, model_name: str, model_version: str) -> dict[str, str]:
        assert (method, model_name, model_version) == ("get_model_metadata", "yolo", "")
        return {"platform": "onnxruntime_onnx"}

    def run(self, images: torch.Tensor) -> list[torch.Tensor]:
        assert images.dtype == torch.float16
        return [images.sum(dim=(2, 3)), images.sum()][: self.num_outputs]


def test_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend()
    monkeypatch.setattr(triton, "load_triton", lambda urls, device: backend if urls == ["grpc://host/yolo"] else None)
    model = triton.TritonRemoteModel("grpc://host/yolo")
    assert (model.model_name, model.runtime) == ("yolo", "onnxruntime_onnx")
    images = np.ones((1, 3, 2, 2), np.float32)
    assert model(images).tolist() == model(images=torch.from_numpy(images)).tolist() == [[4, 4, 4]]
    backend.num_outputs = 2
    first, second = model(images)
    assert (first.tolist(), second.item()) == ([[4, 4, 4]], 12)
    for arguments, keywords in (((images, images), {}), ((), {"x": images}), ((), {})):
        with pytest.raises(TypeError, match="expected one input, 'images'"):
            model(*arguments, **keywords)
