from __future__ import annotations

import numpy as np
import pytest
import torch
from mock_triton import MockModel, grpc_server, http_server

from utils.core.errors import InputError
from utils.triton import TritonRemoteModel

SERVERS = {"http": http_server, "grpc": grpc_server}


def image_sums(images: np.ndarray) -> np.ndarray:
    """(B, 1, 7): the sum of each image."""
    return images.astype(np.float32).sum(axis=(1, 2, 3))[:, None, None].repeat(7, 2)


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_remote_model(kind: str) -> None:
    pytest.importorskip(f"tritonclient.{kind}")
    with SERVERS[kind](MockModel(image_sums)) as url:
        model = TritonRemoteModel(f"{url}/yolo")
        assert model.model_name == "yolo"
        assert isinstance(model.runtime, str)
        images = torch.stack([torch.full((3, 4, 4), value) for value in (0.5, 1.0, 2.0)])
        expected = [[[value * 48] * 7] for value in (0.5, 1.0, 2.0)]
        assert model(images).tolist() == expected  # more than fit in one batch of the server
        assert model(images=images.numpy()).tolist() == expected
        with pytest.raises(TypeError, match="expected one input, 'images'"):
            model(images, images)
        with pytest.raises(TypeError, match="expected one input, 'images'"):
            model(x=images)


def test_address_that_is_none() -> None:
    pytest.importorskip("tritonclient.http")
    with pytest.raises(InputError, match="not a Triton address"):
        TritonRemoteModel("http://host/a/b/c/d")
