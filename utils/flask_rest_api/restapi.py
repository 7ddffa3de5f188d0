"""A web service: images sent by POST come back as JSON records of the objects in them.

`python utils/flask_rest_api/restapi.py --port 5000 --model yolov5s`, then
`curl -F image=@bus.jpg http://localhost:5000/v1/object-detection/yolov5s`.
"""

from __future__ import annotations

if __name__ == "__main__":  # run as a script: the project's folder, not this one, is where imports start
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
MAX_PIXELS = 10**8  # of an image, which may be many times its file


@dataclass(frozen=True)
class ServiceConfig(BaseConfig):
    """Answer images sent by POST with the objects in them."""

    port: int = option(5000, "--port", type=int, help="port to listen at")
    host: str = option("127.0.0.1", "--host", help="address to listen at; 0.0.0.0 lets other machines in")
    model: list[str] = option(["yolov5s"], "--model", nargs="+", help="model names or files, each served by its name")
    device: str = option("", "--device", help="cpu, mps or a CUDA index; empty takes the best there is")


def build_app(models: Mapping[str, Any]) -> Any:
    """The Flask application.

    Args:
        models: by the name they are served under, each called with the bytes of an image, gives `Detections`.

    Raises:
        InputError: flask is not installed.
    """
    flask = import_runtime("flask", needed_for="Web services")
    app = flask.Flask("openyolov5")
    app.config["MAX_CONTENT_LENGTH"], app.json.sort_keys = MAX_BYTES, False

    @app.post("/v1/object-detection/<name>")
    def detect(name: str) -> Any:
        if name not in models:
            return {"error": f"no model {name}; there are {', '.join(models)}"}, 404
        if "image" not in flask.request.files:
            return {"error": "send the image as the file `image` of a multipart form"}, 400
        data = flask.request.files["image"].read()
        try:
            _check_pixels(data)
            found = models[name](data)
        except InputError as error:
            return {"error": str(error)}, 400
        return flask.jsonify(found.records()[0])

    return app


def _check_pixels(data: bytes) -> None:
    """InputError for an image that would fill the memory; what is no image is told when it is decoded."""
    try:
        width, height = Image.open(BytesIO(data)).size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise InputError("image: not an image in a known format, or too large") from None
    if width * height > MAX_PIXELS:
        raise InputError(f"image: {width}x{height} is more than {MAX_PIXELS // 10**6} million pixels")


def main(argv: Sequence[str] | None = None) -> None:
    """Load the models and serve until interrupted."""
    config = ServiceConfig.from_args(argv)
    build_app({})  # a missing package is told before models are loaded
    from utils.core.device import select_device
    from utils.predict.autoshape import AutoShape
    from utils.predict.multi_backend import (  # torch takes seconds: once the flags are right
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
