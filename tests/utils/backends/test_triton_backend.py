"""The Triton client: against a mock server on loopback, and, where tritonclient is not installed, a mock client."""

from __future__ import annotations

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mock_triton import MockModel, grpc_server, http_server

from utils.backends.registry import load_backend
from utils.backends.triton import Address, load_triton
from utils.core.errors import InputError
from utils.imaging.semantic_classes import SemanticClasses

CPU = torch.device("cpu")
SERVERS = {"http": http_server, "grpc": grpc_server}


def image_sums(images: np.ndarray) -> np.ndarray:
    """(B, 2, 7): the sum of each image."""
    return images.astype(np.float32).sum(axis=(1, 2, 3))[:, None, None].repeat(2, 1).repeat(7, 2)


@pytest.mark.parametrize("kind", ["http", "grpc"])
class TestMockServer:
    """tritonclient itself against the mock server."""

    @pytest.fixture(autouse=True)
    def _client(self, kind: str) -> None:
        pytest.importorskip(f"tritonclient.{kind}")

    def test_outputs_and_description(self, kind: str) -> None:
        model = MockModel(image_sums, stride="64", names="{0: 'cät', 1: 'dog'}", task="detect")
        with SERVERS[kind](model) as url:
            backend = load_backend(f"{url}/yolo", device=CPU)
            images = torch.arange(5.0)[:, None, None, None].expand(5, 3, 4, 8)
            assert backend.forward(images)[:, 1, 6].tolist() == [0, 96, 192, 288, 384]
        assert (backend.stride, backend.names, backend.fixed_hw) == (64, {0: "cät", 1: "dog"}, None)
        assert model.batches == [2, 2, 1]

    def test_the_only_model_needs_no_name(self, kind: str) -> None:
        with SERVERS[kind](MockModel(image_sums, shape=(-1, 3, 4, 8), datatype="FP16")) as url:
            backend = load_triton([url], device=CPU, fp16=True, names={0: "given"})
            assert (backend.names, backend.fixed_hw, backend.dtype) == ({0: "given"}, (4, 8), torch.float16)
            assert backend.forward(torch.ones(1, 3, 4, 8))[0, 0, 0] == 96

    def test_threads_share_a_backend(self, kind: str) -> None:
        with SERVERS[kind](MockModel(image_sums)) as url:
            backend = load_triton([url], device=CPU)
            with ThreadPoolExecutor(4) as pool:
                sums = pool.map(
                    lambda v: backend.forward(torch.full((1, 3, 4, 8), float(v)))[0, 0, 0].item(), range(20)
                )
            assert list(sums) == [96 * v for v in range(20)]

    def test_unknown_models_and_dead_servers_are_one_line(self, kind: str) -> None:
        with SERVERS[kind](MockModel(image_sums)) as url:
            with pytest.raises(InputError, match=r"no response .*unknown model"):
                load_triton([f"{url}/other"], device=CPU)
            backend = load_triton([url], device=CPU)
        with pytest.raises(InputError, match="check that the server is running") as caught:
            backend.forward(torch.ones(1, 3, 4, 8))
        assert "\n" not in str(caught.value)
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        with pytest.raises(InputError, match="check that the server is running"):
            load_triton([f"{kind}://127.0.0.1:{port}/yolo"], device=CPU)


def mock_client(monkeypatch: pytest.MonkeyPatch, *, models: list[str], metadata: Any, parameters: Any = None) -> None:
    """Put a mock of tritonclient.http in the place of the package."""

    class Client:
        def __init__(self, server: str, **_: Any) -> None:
            assert server == "host:8000"

        def get_model_repository_index(self) -> Any:
            return [{"name": name} for name in models]

        def get_model_metadata(self, **_: Any) -> Any:
            return metadata

        def get_model_config(self, **_: Any) -> Any:
            return {"max_batch_size": 0, "parameters": parameters or {}}

        def infer(self, model_name: str, inputs: Any, outputs: Any, model_version: str) -> Any:
            assert (model_name, outputs) == ("a", ["output0"])
            return SimpleNamespace(as_numpy=lambda _: image_sums(inputs[0].array))

    class Input:
        def __init__(self, name: str, shape: list[int], datatype: str) -> None:
            self.shape = shape

        def set_data_from_numpy(self, array: np.ndarray) -> None:
            assert list(array.shape) == self.shape
            self.array = array

    module = ModuleType("tritonclient.http")
    module.InferenceServerClient, module.InferInput = Client, Input  # type: ignore[attr-defined]
    module.InferRequestedOutput = str  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tritonclient", ModuleType("tritonclient"))
    monkeypatch.setitem(sys.modules, "tritonclient.http", module)


IMAGES = {
    "inputs": [{"name": "images", "datatype": "FP32", "shape": ["1", "3", "4", "8"]}],
    "outputs": [{"name": "output0"}],
}


def test_the_mock_client_gets_one_image_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    mock_client(monkeypatch, models=["a"], metadata=IMAGES)
    backend = load_triton(["http://host"], device=CPU)
    assert (backend.fixed_hw, backend.fixed_batch, backend.stride) == ((4, 8), 1, 32)
    assert backend.forward(torch.ones(3, 3, 4, 8))[:, 0, 0].tolist() == [96, 96, 96]


def test_the_classes_of_semantic_masks_come_along(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = SemanticClasses({0: "road", 1: "sky"})
    values = {"task": "semantic", "semantic": str(classes.to_dict())}
    described = {key: {"string_value": value} for key, value in values.items()}
    mock_client(monkeypatch, models=["a"], metadata=IMAGES, parameters=described)
    assert load_triton(["http://host"], device=CPU).semantic == classes


def test_names_that_hold_code_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    code = {"names": {"string_value": "__import__('os').getcwd()"}}
    mock_client(monkeypatch, models=["a"], metadata=IMAGES, parameters=code)
    with pytest.raises(InputError, match="is not evaluated"):
        load_triton(["http://host/a"], device=CPU)


@pytest.mark.parametrize(("models", "listed"), [([], "none"), (["b", "a"], "a, b")])
def test_one_of_several_models_is_to_be_named(models: list[str], listed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mock_client(monkeypatch, models=models, metadata=IMAGES)
    with pytest.raises(InputError, match=rf"the server has several models or none \({listed}\); use http://host/MODEL"):
        load_triton(["http://host/"], device=CPU)


def test_models_of_other_inputs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1]}], "outputs": []}
    mock_client(monkeypatch, models=["a"], metadata=text)
    with pytest.raises(
        InputError, match=r"expected a batch of FP32 or FP16 images as the only input, found text BYTES \[1\]"
    ):
        load_triton(["http://host/a"], device=CPU)


@pytest.mark.parametrize(
    ("metadata", "parameters"),
    [
        (None, {}),
        ([], {}),
        ({"inputs": 1}, {}),
        ({"inputs": [{"name": "images"}]}, {}),
        (IMAGES | {"inputs": [IMAGES["inputs"][0] | {"shape": ["x", 3, 4, 8]}]}, {}),  # type: ignore[operator]
        (IMAGES | {"outputs": None}, {}),
        (IMAGES, {"stride": "32"}),
    ],
)
def test_unusual_replies_are_one_line(metadata: Any, parameters: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mock_client(monkeypatch, models=["a"], metadata=metadata, parameters=parameters)
    with pytest.raises(
        InputError, match=r"^http://host: (unusual reply \(.*\); check that|expected a batch)"
    ) as caught:
        load_triton(["http://host"], device=CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("grpc://gpu", Address("grpc", "gpu:8001")),
        ("http://[::1]:80/a%20b/3", Address("http", "[::1]:80", "a b", "3")),
    ],
)
def test_addresses(url: str, address: Address) -> None:
    assert Address.parse(url) == address


@pytest.mark.parametrize("url", ["http://", "http://h/a/b/c", "http://u:p@h/a", "http://h/a?b=c", "http://h:99999/a"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InputError, match=r"use (one|an address) such as "):
        Address.parse(url)


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tritonclient", "tritonclient.grpc"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"tritonclient\[grpc\]"):
        load_triton(["grpc://host/a"], device=CPU)
