"""Mock Triton server on loopback: the KServe v2 protocol over HTTP (JSON and binary) or gRPC, with one model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

Answer = Callable[[np.ndarray], np.ndarray]
TYPES = {"FP32": np.float32, "FP16": np.float16}


class MockModel:
    """The served model: one batch of images in, one array out."""

    def __init__(
        self, answer: Answer, *, shape: tuple[int, ...] = (-1, 3, -1, -1), datatype: str = "FP32", **parameters: str
    ) -> None:
        self.answer, self.shape, self.datatype, self.parameters = answer, shape, datatype, parameters
        self.max_batch_size = 2
        self.batches: list[int] = []

    @property
    def metadata(self) -> dict[str, Any]:
        return {
            "name": "yolo",
            "inputs": [{"name": "images", "datatype": self.datatype, "shape": list(self.shape)}],
            "outputs": [{"name": "output0", "datatype": "FP32", "shape": [-1, -1, -1]}],
        }

    @property
    def config(self) -> dict[str, Any]:
        parameters = {key: {"string_value": value} for key, value in self.parameters.items()}
        return {"name": "yolo", "max_batch_size": self.max_batch_size, "parameters": parameters}

    def infer(self, shape: list[int], content: bytes) -> np.ndarray:
        assert shape[0] <= self.max_batch_size
        self.batches.append(shape[0])
        return self.answer(np.frombuffer(content, TYPES[self.datatype]).reshape(shape)).astype(np.float32)


@contextmanager
def http_server(model: MockModel) -> Iterator[str]:
    """Serve over HTTP; yields `http://127.0.0.1:port`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # no connection outlives the server

        def do_GET(self) -> None:
            pages = {"/v2/models/yolo": model.metadata, "/v2/models/yolo/config": model.config}
            if self.path in pages:
                self.reply(json.dumps(pages[self.path]).encode())
            else:
                self.reply(b'{"error": "Request for unknown model"}', status=400)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v2/repository/index":
                return self.reply(json.dumps([{"name": "yolo", "state": "READY"}]).encode())
            length = int(self.headers["Inference-Header-Content-Length"])
            (source,) = json.loads(body[:length])["inputs"]
            array = model.infer(source["shape"], body[length:])
            output = {"name": "output0", "datatype": "FP32", "shape": list(array.shape)}
            output["parameters"] = {"binary_data_size": array.nbytes}
            head = json.dumps({"model_name": "yolo", "model_version": "1", "outputs": [output]}).encode()
            return self.reply(head + array.tobytes(), length=len(head))

        def reply(self, content: bytes, *, status: int = 200, length: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if length is not None:
                self.send_header("Inference-Header-Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Disable the log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def grpc_server(model: MockModel) -> Iterator[str]:
    """Serve over gRPC with the protocol classes of tritonclient; yields `grpc://127.0.0.1:port`."""
    import grpc
    from google.protobuf.json_format import ParseDict
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
        def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
            return ParseDict({"models": [{"name": "yolo"}]}, service_pb2.RepositoryIndexResponse())

        def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
            if request.name != "yolo":
                context.abort(grpc.StatusCode.NOT_FOUND, "Request for unknown model")
            return ParseDict(model.metadata, service_pb2.ModelMetadataResponse())

        def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
            return ParseDict({"config": model.config}, service_pb2.ModelConfigResponse())

        def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
            array = model.infer(list(request.inputs[0].shape), request.raw_input_contents[0])
            output = {"name": "output0", "datatype": "FP32", "shape": list(array.shape)}
            response = ParseDict({"model_name": "yolo", "outputs": [output]}, service_pb2.ModelInferResponse())
            response.raw_output_contents.append(array.tobytes())
            return response

    server = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
