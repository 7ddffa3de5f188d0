"""Models behind a Triton inference server, by the KServe protocol over HTTP or gRPC."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from torch import Tensor

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.packages import import_runtime
from utils.core.errors import InputError
from utils.core.logging import LOGGER

TYPES = {"FP32": torch.float32, "FP16": torch.float16}
PORTS = {"http": 8000, "grpc": 8001}
TIMEOUT_S = 60.0
DESCRIBED = ("stride", "names", "task", "channels", "nms", "normalized", "version", "imgsz", "semantic")  # parameters


@dataclass(frozen=True)
class Address:
    """Parts of `grpc://host:port/model` or `http://host:port/model/version`; no model: the only one there is."""

    scheme: str
    server: str
    model: str = ""
    version: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """The parts of a URL; InputError where it has others."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InputError(f"{url}: {error}; name a server as grpc://host:port/model") from error
        path = [unquote(part) for part in parts.path.split("/") if part]
        if not host or parts.username or parts.query or len(path) > 2:
            raise InputError(f"{url}: is no Triton address; name one as {parts.scheme}://host:port/model")
        host = f"[{host}]" if ":" in host else host
        return cls(parts.scheme, f"{host}:{port or PORTS[parts.scheme]}", *path)


class Connections:
    """Calls to a server: a connection for each thread, errors as one line.

    Args:
        url: named in messages.
        client: module `tritonclient.http` or `tritonclient.grpc`.
    """

    def __init__(self, url: str, address: Address, client: Any) -> None:
        self.url, self.address, self.client, self._own = url, address, client, threading.local()
        over_http = address.scheme == "http"
        self._limits: dict[str, Any] = {"network_timeout": TIMEOUT_S} if over_http else {}
        self._options: dict[str, Any] = {} if over_http else {"client_timeout": TIMEOUT_S}
        self._as_json: dict[str, Any] = {} if over_http else {"as_json": True}

    def ask(self, method: str, **arguments: Any) -> Any:
        """What the server tells, as plain data; InputError where it does not."""
        return self.call(method, **arguments, **self._as_json)

    def call(self, method: str, **arguments: Any) -> Any:
        """What a method of the client gives; InputError where it raises."""
        try:
            if not hasattr(self._own, "connection"):
                self._own.connection = self.client.InferenceServerClient(self.address.server, **self._limits)
            return getattr(self._own.connection, method)(**arguments, **self._options)
        except Exception as error:  # of tritonclient, gRPC, gevent or sockets, with no common base
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"{self.url}: no answer ({reason}); see that the server runs and has the model") from error


class TritonBackend(ExportedBackend):
    """A model of a server; any number of threads may share it.

    Args:
        connections: to the server. model: arguments that name the model.
        metadata, config: of the model, as the server tells them.
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
        sources = metadata.get("inputs", [])
        shape = [int(side) for side in sources[0]["shape"]] if len(sources) == 1 else []
        self.input_type = sources[0]["datatype"] if sources else ""
        if len(shape) != 4 or self.input_type not in TYPES:
            found = ", ".join(f"{s['name']} {s['datatype']} {s['shape']}" for s in sources) or "nothing"
            raise InputError(f"{url}: takes {found}, not one batch of images in floats; serve a detection model")
        batch, channels, height, width = (side if side > 0 else None for side in shape)
        info = _read_info(config, url)
        super().__init__(
            url,
            replace(info, channels=channels or info.channels),
            device=torch.device("cpu"),
            names=names,
            dtype=TYPES[self.input_type],
            fixed_hw=(height, width) if height and width else None,
            fixed_batch=batch,
        )
        self.connections, self.model, self.most = connections, model, int(config.get("max_batch_size", 0))
        self.input_name, self.output_names = sources[0]["name"], [output["name"] for output in metadata["outputs"]]

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """As `ExportedBackend.run`."""
        parts = [self._run_some(part) for part in images.split(self.most or len(images))]
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]

    def _run_some(self, images: Tensor) -> list[Tensor]:
        """Outputs for as many images as the server takes at once."""
        client = self.connections.client
        source = client.InferInput(self.input_name, list(images.shape), self.input_type)
        source.set_data_from_numpy(images.numpy())
        wanted = [client.InferRequestedOutput(name) for name in self.output_names]
        result = self.connections.call("infer", **self.model, inputs=[source], outputs=wanted)
        return [torch.from_numpy(result.as_numpy(name).copy()) for name in self.output_names]


def load_triton(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> TritonBackend:
    """The model that a URL names; the server decides on which device it runs.

    Stride, names and task are read from the parameters of the model's configuration; else stride 32 and `names`.

    Raises:
        MissingPackageError: tritonclient is not installed.
        InputError: no server answers there, or it has no such model.
    """
    url = files[0]
    address = Address.parse(url)
    kind = address.scheme
    client = import_runtime(f"tritonclient.{kind}", needed_for="Triton addresses", install=f"tritonclient[{kind}]")
    connections = Connections(url, address, client)
    name = address.model or _only_model(connections.ask("get_model_repository_index"), url)
    model = {"model_name": name, "model_version": address.version}
    metadata = connections.ask("get_model_metadata", **model)
    config = connections.ask("get_model_config", **model)
    backend = TritonBackend(
        connections, model, metadata=metadata, config=config.get("config", config), names=names
    )  # gRPC wraps the configuration
    if fp16 and backend.dtype != torch.float16:
        LOGGER.warning(f"WARNING: --half is ignored: {url} takes images in FP32")
    return backend


def _only_model(index: Any, url: str) -> str:
    """The name of the one model in a repository; InputError where there are none or several."""
    entries = index.get("models", []) if isinstance(index, Mapping) else index
    names = sorted({entry["name"] for entry in entries})
    if len(names) != 1:
        listed = ", ".join(names) or "none"
        raise InputError(f"{url}: name one of the server's models ({listed}), as in {url.rstrip('/')}/MODEL")
    return names[0]


def _read_info(config: Mapping[str, Any], url: str) -> ModelInfo:
    """What the parameters of a model's configuration say of it."""
    parameters = config.get("parameters") or {}
    values = {key: parameters[key].get("string_value", "") for key in DESCRIBED if key in parameters}
    return ModelInfo.from_values(values, place=url)
