"""Models on a Triton inference server, via the KServe protocol over HTTP or gRPC."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from torch import Tensor

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.packages import import_runtime

TYPES = {"FP32": torch.float32, "FP16": torch.float16}
PORTS = {"http": 8000, "grpc": 8001}
TIMEOUT_S = 60.0
METADATA_KEYS = ("stride", "names", "task", "channels", "nms", "normalized", "version", "imgsz", "semantic")


@dataclass(frozen=True)
class Address:
    """Parts of `grpc://host:port/model` or `http://host:port/model/version`; no model selects the only one."""

    scheme: str
    server: str
    model: str = ""
    version: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Parse a URL; InputError if it is not a Triton address."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InputError(f"{url}: {error}; use an address such as grpc://host:port/model") from error
        path = [unquote(part) for part in parts.path.split("/") if part]
        if not host or parts.username or parts.query or len(path) > 2:
            raise InputError(f"{url}: not a Triton address; use one such as {parts.scheme}://host:port/model")
        host = f"[{host}]" if ":" in host else host
        return cls(parts.scheme, f"{host}:{port or PORTS[parts.scheme]}", *path)


class Connections:
    """Calls to a server over one connection per thread.

    Args:
        url: for messages.
        client: module `tritonclient.http` or `tritonclient.grpc`.
    """

    def __init__(self, url: str, address: Address, client: Any) -> None:
        self.url, self.address, self.client, self._local = url, address, client, threading.local()
        is_http = address.scheme == "http"
        self._connection_options: dict[str, Any] = {"network_timeout": TIMEOUT_S} if is_http else {}
        self._call_options: dict[str, Any] = {} if is_http else {"client_timeout": TIMEOUT_S}
        self._json_options: dict[str, Any] = {} if is_http else {"as_json": True}

    def query(self, method: str, **arguments: Any) -> Any:
        """Call a method of the client that returns plain data; InputError if it fails."""
        return self.call(method, **arguments, **self._json_options)

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of the client; InputError if it fails."""
        try:
            if not hasattr(self._local, "client"):
                server, options = self.address.server, self._connection_options
                self._local.client = self.client.InferenceServerClient(server, **options)
            return getattr(self._local.client, method)(**arguments, **self._call_options)
        except Exception as error:  # of tritonclient, gRPC, gevent or sockets, without a common base
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(
                f"{self.url}: no response ({reason}); check that the server is running and serves the model"
            ) from error


class TritonBackend(ExportedBackend):
    """A model on a server; thread-safe.

    Args:
        connections: to the server. model: arguments that name the model.
        metadata, config: of the model, from the server.
    """

    title = "Triton"

    def __init__(
        self,
        connections: Connections,
        model: Mapping[str, str],
        *,
        metadata: Mapping[str, Any],
        config: Mapping[str, Any],
        names: Mapping[int, str] | None,
    ) -> None:
        url = connections.url
        inputs = metadata.get("inputs", [])
        shape = [int(side) for side in inputs[0]["shape"]] if len(inputs) == 1 else []
        self.input_type = inputs[0]["datatype"] if inputs else ""
        if len(shape) != 4 or self.input_type not in TYPES:
            found = ", ".join(f"{i['name']} {i['datatype']} {i['shape']}" for i in inputs) or "none"
            raise InputError(f"{url}: expected a batch of FP32 or FP16 images as the only input, found {found}")
        super().__init__(
            url,
            _read_info(config, url),
            device=torch.device("cpu"),
            names=names,
            dtype=TYPES[self.input_type],
            input_shape=shape,
        )
        self.connections, self.model = connections, model
        self.max_batch_size = int(config.get("max_batch_size", 0))  # 0: no limit
        self.input_name, self.output_names = inputs[0]["name"], [output["name"] for output in metadata["outputs"]]

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """See `ExportedBackend.run`."""
        batches = [self._run_batch(batch) for batch in images.split(self.max_batch_size or len(images))]
        return [torch.cat(outputs) for outputs in zip(*batches, strict=True)]

    def _run_batch(self, images: Tensor) -> list[Tensor]:
        """Outputs for a batch that the server accepts."""
        client = self.connections.client
        source = client.InferInput(self.input_name, list(images.shape), self.input_type)
        source.set_data_from_numpy(images.numpy())
        requested = [client.InferRequestedOutput(name) for name in self.output_names]
        result = self.connections.call("infer", **self.model, inputs=[source], outputs=requested)
        return [torch.from_numpy(result.as_numpy(name).copy()) for name in self.output_names]


def load_triton(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> TritonBackend:
    """Connect to the model that a URL names; the server determines its device.

    Metadata is read from the parameters of the model's configuration, with stride 32 and `names` as defaults.

    Raises:
        MissingPackageError: tritonclient is not installed.
        InputError: the server does not respond or has no such model.
    """
    url = files[0]
    address = Address.parse(url)
    kind = address.scheme
    client = import_runtime(f"tritonclient.{kind}", needed_for="Triton addresses", install=f"tritonclient[{kind}]")
    try:
        backend = _open_model(Connections(url, address, client), names)
    except InputError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {str(error)[:100]}"
        raise InputError(f"{url}: unusual reply ({reason}); check that this is a Triton server") from error
    if fp16 and backend.dtype != torch.float16:
        LOGGER.warning(f"WARNING: --half is ignored: {url} expects FP32 images")
    return backend


def _open_model(connections: Connections, names: Mapping[int, str] | None) -> TritonBackend:
    """The model that the address names, described by the server; any error of look-ups if its replies are unusual."""
    address = connections.address
    name = address.model or _find_only_model(connections.query("get_model_repository_index"), connections.url)
    model = {"model_name": name, "model_version": address.version}
    metadata = connections.query("get_model_metadata", **model)
    config = connections.query("get_model_config", **model)
    config = config.get("config", config)  # gRPC wraps it
    return TritonBackend(connections, model, metadata=metadata, config=config, names=names)


def _find_only_model(index: Any, url: str) -> str:
    """Name of the only model on a server; InputError if there are none or several."""
    entries = index.get("models", []) if isinstance(index, Mapping) else index
    names = sorted({entry["name"] for entry in entries})
    if len(names) != 1:
        listed = ", ".join(names) or "none"
        raise InputError(f"{url}: the server has several models or none ({listed}); use {url.rstrip('/')}/MODEL")
    return names[0]


def _read_info(config: Mapping[str, Any], url: str) -> ModelInfo:
    """Metadata in the parameters of a model's configuration."""
    parameters = config.get("parameters") or {}
    values = {key: parameters[key].get("string_value", "") for key in METADATA_KEYS if key in parameters}
    return ModelInfo.from_values(values, place=url)
