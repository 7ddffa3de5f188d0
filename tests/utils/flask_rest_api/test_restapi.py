"""Web service, with Flask's test client."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.core.errors import InputError
from utils.flask_rest_api import restapi

ADDRESS = "/v1/object-detection/nano"


@pytest.fixture(scope="module")
def client(shared: Path) -> Any:
    pytest.importorskip("flask")
    from utils.predict.autoshape import AutoShape
    from utils.predict.multi_backend import DetectMultiBackend

    model = AutoShape(DetectMultiBackend(shared / "weights/yolov5n.pt"), verbose=False)
    return restapi.build_app({"nano": model}).test_client()


def post(client: Any, data: bytes, *, address: str = ADDRESS, field: str = "image") -> Any:
    return client.post(address, data={field: (io.BytesIO(data), "a.jpg")}, content_type="multipart/form-data")


def test_records_of_an_image(client: Any, shared: Path) -> None:
    response = post(client, (shared / "data/images/bus.jpg").read_bytes())
    assert response.status_code == 200
    golden = np.load(shared / "reference/golden/yolov5n_coco.npz")["bus_nms_detect"]
    assert [record["name"] for record in response.json] == ["person", "person", "person", "person", "bus"]
    for record, row in zip(response.json, golden, strict=True):
        assert list(record) == ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
        corners = [record[key] for key in ("xmin", "ymin", "xmax", "ymax")]
        np.testing.assert_allclose(np.round(corners), row[:4], atol=0.11)
        assert (record["confidence"], record["class"]) == (pytest.approx(row[4], abs=1e-4), int(row[5]))


def test_blank_image_has_no_records(client: Any) -> None:
    response = post(client, cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes())
    assert (response.status_code, response.json) == (200, [])


def test_invalid_requests(client: Any) -> None:
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    image = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    for response, status, message in (
        (post(client, b"text"), 400, "unknown format"),
        (post(client, image[:50]), 400, "image"),
        (post(client, bomb.getvalue()), 400, "too large|million pixels"),
        (post(client, image, field="file"), 400, "as the file `image`"),
        (post(client, image, address="/v1/object-detection/other"), 404, "no model other; available: nano"),
    ):
        assert response.status_code == status
        assert any(part in response.json["error"] for part in message.split("|"))
    assert post(client, b"0" * (restapi.MAX_BYTES + 1)).status_code == 413
    assert client.get(ADDRESS).status_code == 405


def test_without_flask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flask", None)
    with pytest.raises(InputError, match="pip install flask"):
        restapi.build_app({})


def test_help(run_script: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    result = run_script("utils/flask_rest_api/restapi.py", "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--port" in result.stdout
