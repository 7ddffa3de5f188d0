"""The page in a real browser: Chromium, driven by playwright (`pip install playwright`; no browser download needed).

The server is a stand-in that answers POST /v1/detect with results of our Predictor, and serves the exported site.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from utils.backends.onnxruntime import load_onnx
from utils.core.errors import InputError
from utils.ops.boxes import box_iou
from utils.predict.predictor import Predictor
from utils.serve import export_page
from utils.tasks.options import PostprocessOptions

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared"
MODEL = os.environ.get("PAGE_MODEL", "")  # yolov5n.onnx, dynamic, exported at 320
RUNTIME = os.environ.get("PAGE_RUNTIME", "")  # node_modules/onnxruntime-web
CHROMIUM = shutil.which("chromium")
IMAGES = sorted((ROOT / "data/images").glob("*.jpg")) + sorted((SHARED / "data/images").glob("*.jpg"))
IMAGES += sorted((SHARED / "data").glob("bccd/**/*.jpg"))[:4]
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]

needs_files = pytest.mark.skipif(
    not (CHROMIUM and MODEL and RUNTIME), reason="needs chromium, PAGE_MODEL (ONNX file) and PAGE_RUNTIME (npm package)"
)


def predict(predictor: Predictor, frame: np.ndarray) -> list[dict[str, Any]]:
    """Detections as the service gives them."""
    prediction = predictor.predict([frame])[0][0]
    names = predictor.backend.names
    return [
        {"class": int(c), "name": names[int(c)], "score": score, "box": box}
        for *box, score, c in prediction.boxes.tolist()
    ]


class StandIn(http.server.SimpleHTTPRequestHandler):
    """Speaks the part of the service's interface that the page uses."""

    predictor: Predictor

    def do_POST(self) -> None:
        frame = cv2.imdecode(np.frombuffer(self.rfile.read(int(self.headers["Content-Length"])), np.uint8), 1)
        found = predict(self.predictor, frame)
        answer = {"image": {"width": frame.shape[1], "height": frame.shape[0]}, "detections": found}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    backend = load_onnx([MODEL], device=torch.device("cpu"))
    options = PostprocessOptions(conf_thres=0.05, iou_thres=0.45, max_det=300, multi_label=False, original=True)
    return Predictor(backend, options, size_hw=(320, 320))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, predictor: Predictor) -> Iterator[str]:
    site = tmp_path_factory.mktemp("page") / "site"
    export_page.main(["--weights", MODEL, "--out", str(site), "--runtime", RUNTIME, "--imgsz", "320"])
    shutil.copyfile(export_page.STATIC / "index.html", site / "server.html")
    (site / "v1").mkdir()
    shutil.copyfile(site / "model.json", site / "v1" / "model")
    handler = functools.partial(type("Handler", (StandIn,), {"predictor": predictor}), directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.set_default_timeout(20_000)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    page.close()
    assert problems == []


def open_image(page: Any, image: Path) -> None:
    page.set_input_files("#file", str(image))
    page.wait_for_function(
        "name => document.querySelector('#status').textContent.startsWith(name + ':')", arg=image.name
    )


def download_json(page: Any) -> dict[str, Any]:
    with page.expect_download() as download:
        page.click("#save-json")
    return json.loads(Path(download.value.path()).read_text())


@needs_files
def test_browser_results_equal_python(page: Any, address: str, predictor: Predictor, tmp_path: Path) -> None:
    """On the same pixels: PNG copies, because the JPEG decoders of Chromium and OpenCV may differ."""
    page.goto(f"{address}/index.html")
    total = 0
    assert len(IMAGES) >= 4
    for original in IMAGES:
        image = tmp_path / f"{original.stem}.png"
        cv2.imwrite(str(image), cv2.imread(str(original)))
        open_image(page, image)
        page.fill("#conf", "0.05")
        found = [one for one in download_json(page)["detections"] if one["score"] > 0.25]
        expected = [one for one in predict(predictor, cv2.imread(str(image))) if one["score"] > 0.25]
        assert [one["class"] for one in found] == [one["class"] for one in expected], image.name
        for ours, theirs in zip(found, expected, strict=True):
            iou = box_iou(torch.tensor([ours["box"]]), torch.tensor([theirs["box"]])).item()
            assert iou >= 0.99, (image.name, iou)
            assert abs(ours["score"] - theirs["score"]) <= 0.01, image.name
        total += len(found)
    assert total >= 5


@needs_files
def test_slider_classes_click_and_downloads(page: Any, address: str) -> None:
    page.goto(f"{address}/server.html")
    open_image(page, ROOT / "data/images/coffee.jpg")
    few = int(page.inner_text("#count"))
    assert few >= 1
    page.fill("#conf", "0.95")
    assert page.inner_text("#count") == "0"
    page.fill("#conf", "0.25")
    box = download_json(page)["detections"][0]["box"]
    with page.expect_download() as download:
        page.keyboard.press("l")
    assert len(Path(download.value.path()).read_text().splitlines()) == few
    with page.expect_download() as download:
        page.click("#save-image")
    assert cv2.imread(str(download.value.path())) is not None
    scale = page.evaluate("canvas.clientWidth / canvas.width")
    page.click("#canvas", position={"x": (box[0] + box[2]) / 2 * scale, "y": (box[1] + box[3]) / 2 * scale})
    assert "score" in page.inner_text("#details")
    page.fill("#conf", "0.05")
    for checkbox in page.query_selector_all("#classes input"):
        checkbox.uncheck()
    assert page.inner_text("#count") == "0"


@needs_files
def test_webcam_errors_and_phone(page: Any, address: str, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{address}/server.html")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    page.set_input_files("#file", str(broken))
    page.wait_for_selector("#status.error")
    assert "broken.jpg is not an image" in page.inner_text("#status")
    page.click("#webcam")
    page.locator("#status", has_text="webcam:").wait_for()
    page.keyboard.press("Escape")
    assert page.is_hidden("#stop")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_unusable_inputs(tmp_path: Path) -> None:
    weights = tmp_path / "best.pt"
    weights.write_bytes(b"x")
    with pytest.raises(InputError, match="not an ONNX file"):
        export_page.main(["--weights", str(weights), "--out", str(tmp_path / "site")])
    with pytest.raises(InputError, match="not an empty folder"):
        export_page.main(["--weights", str(weights), "--out", str(tmp_path)])
    large = weights.rename(tmp_path / "best.onnx")
    with pytest.raises(InputError, match="raise --max-mb"):
        export_page.main(["--weights", str(large), "--out", str(tmp_path / "site"), "--max-mb", "1e-9"])
    with pytest.raises(InputError, match="unpacked npm package"):
        export_page.find_runtime(tmp_path)
