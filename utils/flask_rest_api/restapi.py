"""Web service for object detection: POST an image, get JSON records.

`python utils/flask_rest_api/restapi.py --port 5000 --model yolov5s`, then
`curl -F image=@bus.jpg http://localhost:5000/v1/object-detection/yolov5s`.
"""

from __future__ import annotations

if __name__ == "__main__":  # a script: import from the project root
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[2])

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePath
from typing import Any

from PIL import Image

from utils.config.base import BaseConfig, option
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.packages import import_runtime
from utils.core.script import run_script

MAX_BYTES = 32 * 2**20  # of a request
MAX_PIXELS = 10**8  # of a decoded image


@dataclass(frozen=True)
class ServiceConfig(BaseConfig):
    """Serve object detection over HTTP."""

    port: int = option(5000, "--port", type=int, help="port to listen on")
    host: str = option("127.0.0.1", "--host", help="address to listen on; 0.0.0.0 accepts other machines")
    model: list[str] = option(
        ["yolov5s"], "--model", nargs="+", help="model names or files, each served under its name"
    )
    device: str = option("", "--device", help="cpu, mps or a CUDA index; empty selects the best available")


def build_app(models: Mapping[str, Any]) -> Any:
    """Build the Flask application.

    Args:
        models: callables from image bytes to `Detections`, by the name they are served under.

    Raises:
        InputError: flask is not installed.
    """
    flask = import_runtime("flask", needed_for="Web services")
    app = flask.Flask("openyolov5")
    app.config["MAX_CONTENT_LENGTH"], app.json.sort_keys = MAX_BYTES, False

    @app.post("/v1/object-detection/<name>")
    def detect(name: str) -> Any:
        if name not in models:
            return {"error": f"no model {name}; available: {', '.join(models)}"}, 404
        if "image" not in flask.request.files:
            return {"error": "send the image as the file `image` of a multipart form"}, 400
        data = flask.request.files["image"].read()
        try:
            _check_pixels(data)
            detections = models[name](data)
        except InputError as error:
            return {"error": str(error)}, 400
        return flask.jsonify(detections.records()[0])

    return app


def _check_pixels(data: bytes) -> None:
    """Raise InputError for a file that is not an image or would use too much memory when decoded."""
    try:
        width, height = Image.open(BytesIO(data)).size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise InputError("image: unknown format, or too large") from None
    if width * height > MAX_PIXELS:
        raise InputError(f"image: {width}x{height} exceeds {MAX_PIXELS // 10**6} million pixels")


def main(argv: Sequence[str] | None = None) -> None:
    """Load the models and serve until interrupted."""
    config = ServiceConfig.from_args(argv)
    build_app({})  # fail on a missing package before loading models
    from utils.core.device import select_device
    from utils.predict.autoshape import AutoShape
    from utils.predict.multi_backend import (  # importing torch takes seconds
        DetectMultiBackend,
        add_pt_suffix,
    )

    device = select_device(config.device)
    models = {
        PurePath(name).stem: AutoShape(DetectMultiBackend(add_pt_suffix(name), device=device)) for name in config.model
    }
    for name in models:
        LOGGER.info(f"POST to http://{config.host}:{config.port}/v1/object-detection/{name}")
    build_app(models).run(host=config.host, port=config.port, threaded=True)


if __name__ == "__main__":
    run_script(main)
