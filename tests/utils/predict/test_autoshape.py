"""The auto-shaping model: shapes, settings, threads, ensembles, and the official checkpoint's boxes."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from slim_networks import SLIM
from torch import Tensor, nn

from models.experimental import Ensemble
from models.graph import load_model_yaml
from models.yolo import DetectionModel, SegmentationModel
from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.predict.autoshape import AutoShape, compute_batch_shape
from utils.predict.detections import Detections
from utils.predict.multi_backend import DetectMultiBackend
from utils.predict.predictor import Predictor
from utils.tasks.options import PREDICT_DEFAULTS

GREEN = (0, 255, 0)


class SpotFinder(ExportedBackend):
    """A runtime that reports the bounding box of all pure green pixels as class 1 and, less sure, as class 0."""

    def __init__(self, fixed_hw: tuple[int, int] | None = None, **info: Any) -> None:
        names = {0: "thing", 1: "spot"}
        super().__init__(
            "spot.x",
            ModelInfo(names=names, **info),
            device=torch.device("cpu"),
            input_shape=(None, None, *(fixed_hw or (None, None))),
        )
        self.seen: list[tuple[int, ...]] = []

    def run(self, images: Tensor) -> list[Tensor]:
        self.seen.append(tuple(images.shape))
        rows = torch.zeros(len(images), 2, 7)
        for row, image in zip(rows, images, strict=True):
            ys, xs = ((image[1] > 0.99) & (image[0] < 0.01)).nonzero(as_tuple=True)
            if len(xs):
                x1, y1, x2, y2 = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
                row[:] = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 1.0, 0.6, 0.8])
                row[1, 4:] = torch.tensor([0.5, 0.9, 0.1])  # the same box once more: 0.45 as class 0
        return [rows]


def scene(size_hw: tuple[int, int], box_xyxy: tuple[int, int, int, int]) -> np.ndarray:
    frame = np.zeros((*size_hw, 3), np.uint8)
    x1, y1, x2, y2 = box_xyxy
    frame[y1:y2, x1:x2] = GREEN
    return frame


def slim_detector(seed: int = 0, classes: int = 3) -> DetectionModel:
    """A thin network whose detections are many and depend on the image."""
    torch.manual_seed(seed)
    model = DetectionModel({**load_model_yaml("yolov5n"), **SLIM}, nc=classes)
    for conv, _ in model.iter_head_convs():
        nn.init.normal_(conv.weight, std=0.5)
        nn.init.zeros_(conv.bias)
    return model.eval()


@pytest.mark.parametrize(
    ("sizes_hw", "longest", "expected"),
    [
        pytest.param([(1080, 810)], 640, (640, 480), id="portrait"),
        pytest.param([(720, 1280)], 640, (384, 640), id="landscape"),  # 360 -> 384
        pytest.param([(1080, 810), (720, 1280)], 640, (640, 640), id="mixed"),
        pytest.param([(100, 100)], 640, (640, 640), id="enlarged"),
        pytest.param([(10, 1000)], 320, (32, 320), id="thin"),
        pytest.param([(300, 400)], 321, (256, 352), id="odd-size"),  # 240.75 -> 241 -> 256; 321 -> 352
    ],
)
def test_batch_shape(sizes_hw: list[tuple[int, int]], longest: int, expected: tuple[int, int]) -> None:
    assert compute_batch_shape(sizes_hw, longest, 32) == expected


def test_mixed_sizes_share_a_batch_and_boxes_come_back() -> None:
    backend = SpotFinder()
    frames = [scene((320, 640), (64, 32, 160, 128)), scene((640, 320), (32, 64, 96, 320)), np.zeros((64, 64), np.uint8)]
    results = AutoShape(backend)(frames)
    assert backend.seen == [(3, 3, 640, 640)]
    assert results.s == (3, 3, 640, 640)
    assert [len(rows) for rows in results.xyxy] == [2, 2, 0]
    assert results.xyxy[0][0, :4].tolist() == [64, 32, 160, 128]
    assert results.xyxy[1][0, :4].tolist() == [32, 64, 96, 320]
    assert results.xyxy[0][:, 4:].tolist() == pytest.approx(np.array([[0.8, 1], [0.45, 0]]))
    assert all(timer.t > 0 for timer in results.times)
    assert results.n == len(results) == 3


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        (320, (160, 320)),
        ((320, 320), (160, 320)),
        ([128, 256], (128, 256)),
        (640, (320, 640)),
        (np.int64(320), (160, 320)),
        (np.array([128, 256]), (128, 256)),
        (torch.tensor(320), (160, 320)),
    ],
)
def test_size(size: Any, shape: tuple[int, int]) -> None:
    backend = SpotFinder()
    AutoShape(backend)(scene((320, 640), (64, 32, 160, 128)), size=size)
    assert backend.seen == [(1, 3, *shape)]


@pytest.mark.parametrize("size", [0, -1, (1.5, 2), (1, 2, 3), (True, 2), (), 320.0, "320"])
def test_invalid_sizes(size: Any) -> None:
    with pytest.raises(InputError, match="expected pixels of the longer side"):
        AutoShape(SpotFinder())(scene((64, 64), (1, 1, 9, 9)), size=size)


def test_a_size_that_a_file_does_not_take_is_named_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    model, frame = AutoShape(SpotFinder(fixed_hw=(256, 320)), verbose=False), np.zeros((64, 96, 3), np.uint8)
    model(frame), model(frame, size=320)
    assert not caplog.records
    model(frame, size=640), model(frame, size=640)
    assert caplog.messages == ["WARNING: size is ignored: the file takes 256x320 only"]


def test_a_file_of_fixed_size_gets_that_size() -> None:
    backend = SpotFinder(fixed_hw=(256, 320))
    results = AutoShape(backend)([scene((256, 256), (64, 32, 160, 128)), scene((128, 160), (8, 8, 72, 40))], size=640)
    assert backend.seen == [(2, 3, 256, 320)]
    assert results.xyxy[0][0, :4].tolist() == [64, 32, 160, 128]
    assert results.xyxy[1][0, :4].tolist() == pytest.approx([8, 8, 72, 40], abs=0.5)  # enlarged: edges are blurred


def test_settings_are_attributes() -> None:
    frame, model = scene((640, 640), (64, 32, 160, 128)), AutoShape(SpotFinder())

    def found() -> list[list[float]]:
        return [[round(score, 2), label] for score, label in model(frame).xyxy[0][:, 4:].tolist()]

    assert (model.conf, model.iou, model.agnostic, model.multi_label) == (0.25, 0.45, False, False)
    assert (model.classes, model.max_det, model.amp) == (None, 1000, False)
    assert found() == [[0.8, 1], [0.45, 0]]
    model.conf = 0.5
    assert found() == [[0.8, 1]]
    model.multi_label = True
    assert found() == [[0.8, 1], [0.6, 0]]
    model.max_det = 1
    assert found() == [[0.8, 1]]
    model.max_det, model.classes = 9, [0]
    assert found() == [[0.6, 0]]
    model.classes = 1
    assert found() == [[0.8, 1]]
    model.classes, model.agnostic = None, True
    assert found() == [[0.8, 1]]
    assert AutoShape(SpotFinder()).conf == 0.25  # the class keeps its defaults


@pytest.mark.parametrize("classes", [np.int64(1), np.array([1]), range(1, 2), {1}, 1.0])
def test_classes_to_keep(classes: Any) -> None:
    model = AutoShape(SpotFinder())
    model.classes = classes
    assert model(scene((64, 64), (8, 8, 32, 32))).xyxy[0][:, 5].tolist() == [1]


@pytest.mark.parametrize("classes", ["0", ["spot"], [0.5]])
def test_classes_that_are_no_numbers(classes: Any) -> None:
    model = AutoShape(SpotFinder())
    model.classes = classes
    with pytest.raises(InputError, match=r"expected class numbers such as 0 or \[0, 2\], or None for all"):
        model(scene((64, 64), (8, 8, 32, 32)))


def test_it_stays_in_evaluation_mode(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    model, frame = AutoShape(slim_detector()), np.zeros((64, 96, 3), np.uint8)
    model.eval()
    assert not caplog.records
    assert model.train() is model
    assert "AutoShape is for inference" in caplog.text
    assert not any(module.training for module in model.modules())
    assert model(frame, size=96).n == 1


def test_names_can_be_changed() -> None:
    model = AutoShape(SpotFinder())
    model.names = {0: "a", 1: "b"}
    assert model(scene((64, 64), (8, 8, 32, 32))).pandas().xyxy[0]["name"].tolist() == ["b", "a"]


def test_attributes_of_the_network_are_copied() -> None:
    network = slim_detector()
    network.names, network.hyp = {0: "x", 1: "y", 2: "z"}, {"lr0": 1}  # type: ignore[assignment]
    model = AutoShape(network)
    assert (model.yaml, model.nc, model.hyp, model.names) == (network.yaml, 3, {"lr0": 1}, network.names)
    assert model.stride == 32


def test_a_tensor_goes_straight_to_the_network() -> None:
    network = slim_detector()
    model = AutoShape(network)
    images = torch.rand(2, 3, 64, 96)
    raw = model(images)
    with torch.inference_mode():
        assert torch.equal(raw, network(images)[0])
    assert raw.shape == (2, 3 * (8 * 12 + 4 * 6 + 2 * 3), 8)
    raw += 1  # usable like any tensor
    bytes_ = (images * 255).round().to(torch.uint8)
    torch.testing.assert_close(model(bytes_), model(bytes_.float() / 255))
    with pytest.raises(InputError, match="64x100 pixels does not fit the model's stride 32"):
        model(torch.rand(1, 3, 64, 100))
    with pytest.raises(InputError, match=r"a tensor of 4 channels does not fit the model, which takes \(B, 3, H, W\)"):
        model(torch.rand(1, 4, 64, 96))


def test_one_image_in_every_form_gives_the_same_boxes(tmp_path: Path) -> None:
    frame = scene((64, 96), (8, 8, 40, 48))
    file = tmp_path / "a.png"
    cv2.imwrite(str(file), frame[..., ::-1])
    model = AutoShape(SpotFinder())
    forms = [
        str(file), file, Image.open(file), file.read_bytes(), io.BytesIO(file.read_bytes()), frame,
        frame.transpose(2, 0, 1), torch.from_numpy(frame.transpose(2, 0, 1) / 255.0), np.dstack((frame, frame[..., 0])),
        frame.astype(np.uint16) * 257,
    ]  # fmt: skip
    results = model(forms, size=96)
    expected = model(frame, size=96).xyxy[0]
    assert len(expected) == 2
    for rows in results.xyxy:
        assert torch.equal(rows, expected)
    assert results.files[:4] == ["a.jpg", "a_2.jpg", "a_3.jpg", "image3.jpg"]


def test_invalid_images_are_named() -> None:
    with pytest.raises(InputError, match=r"ims\[1\] \(int\): int is not an image"):
        AutoShape(SpotFinder())([scene((64, 64), (1, 1, 9, 9)), 5])


def test_models_of_unknown_tasks_are_refused() -> None:
    with pytest.raises(InputError, match="task 'sort' is not supported; known: detect, "):
        AutoShape(SpotFinder(task="sort"))


@pytest.mark.parametrize("model", ["best.pt", nn.Conv2d(3, 3, 1), None])
def test_objects_that_are_not_models_are_refused(model: Any) -> None:
    with pytest.raises(InputError, match=rf"not {type(model).__name__}; for a file: AutoShape\(DetectMultiBackend"):
        AutoShape(model)


class RednessJudge(SpotFinder):
    """Logits of two classes from the mean of the middle, normalized as for ImageNet: the first is for red images."""

    def run(self, images: Tensor) -> list[Tensor]:
        self.images = images
        red = images[:, 0].mean(dim=(1, 2)) - images[:, 2].mean(dim=(1, 2))
        return [torch.stack((red, -red), dim=1)]


def test_a_classifier_gives_probabilities_and_a_box_around_the_image(capsys: pytest.CaptureFixture[str]) -> None:
    model = AutoShape(judge := RednessJudge(task="classify"))
    red, blue = np.zeros((2, 40, 60, 3), np.uint8)
    red[..., 0] = blue[..., 2] = 200
    results = model([red, blue])
    assert results.s == (2, 3, 224, 224)
    expected = ((200 / 255 - 0.485) / 0.229, (0 - 0.406) / 0.225)
    torch.testing.assert_close(judge.images[0, [0, 2], 0, 0], torch.tensor(expected))
    assert [int(probs.argmax()) for probs in results.probs] == [0, 1]
    for rows, probs in zip(results.xyxy, results.probs, strict=True):
        assert rows.tolist() == [[0, 0, 60, 40, pytest.approx(float(probs.max())), float(probs.argmax())]]
    one = results.tolist()[1]
    one.print()
    best, other = (f"{model.names[i]} {float(one.probs[0][i]):.2f}" for i in (1, 0))
    assert f"{best}, {other}" in capsys.readouterr().out
    assert results.render()[0] is red and (red != (200, 0, 0)).any()
    assert (one.render(labels=False)[0] == blue).all()


def test_a_classifier_takes_tensors_of_any_size() -> None:
    model = AutoShape(judge := RednessJudge(task="classify"))
    pixels = torch.full((1, 3, 30, 50), 200, dtype=torch.uint8)
    assert model(pixels).shape == (1, 2)
    assert float(judge.images[0, 0, 0, 0]) == pytest.approx((200 / 255 - 0.485) / 0.229)
    ready = torch.rand(1, 3, 30, 50)
    model(ready)
    assert torch.equal(judge.images, ready)


def test_a_segmenter_gives_masks_beside_the_boxes() -> None:
    torch.manual_seed(0)
    network = SegmentationModel({**load_model_yaml("yolov5n-seg"), **SLIM}, nc=2).eval()
    torch.nn.init.normal_(network.head.proto.cv3.bn.bias)  # an untrained network gives masks of nearly nothing
    model = AutoShape(network)
    model.conf, model.max_det = 1e-4, 5
    images = [np.random.default_rng(seed).integers(0, 256, (50, 90, 3)).astype(np.uint8) for seed in (0, 1)]
    results = model(images, size=96)
    assert results.masks is not None and [len(masks) for masks in results.masks] == [len(rows) for rows in results.xyxy]
    masks, boxes = results.masks[0], results.xyxy[0]
    assert len(masks) == 5 and masks.size_hw == (50, 90)
    assert masks.dense().any() and any(masks.polygons())
    for (x1, y1, x2, y2), bitmap in zip(boxes[:, :4].tolist(), masks.dense(), strict=True):
        rows, columns = np.nonzero(bitmap)  # inside the box, up to a pixel of the prototypes
        assert ((columns >= x1 - 4) & (columns < x2 + 4) & (rows >= y1 - 4) & (rows < y2 + 4)).all()
    assert results.tolist()[1].masks == [results.masks[1]]
    coded = results.to_coco()
    assert len(coded) == 10 and all(item["segmentation"]["size"] == [50, 90] for item in coded)
    assert results.crop(save=False)[0]["im"].shape[2] == 4
    model.retina_masks = True
    fine = model(images, size=96).masks
    assert fine is not None and fine[0].size_hw == (50, 90)


def test_it_is_a_module() -> None:
    model = AutoShape(slim_detector())
    images = torch.rand(1, 3, 64, 96)
    frame = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    raw, boxes = model(images), model(frame, size=96).xyxy[0]
    assert len(boxes)
    assert model.double() is model
    in_double = model(images)
    assert in_double.dtype == torch.float64
    torch.testing.assert_close(in_double.float(), raw, atol=1e-3, rtol=1e-3)
    assert len(model(frame, size=96).xyxy[0])
    assert torch.equal(model.float().cpu().to("cpu").eval()(frame, size=96).xyxy[0], boxes)
    assert next(model.half().parameters()).dtype == torch.float16
    assert len(model(frame, size=96).xyxy[0])


def test_profile_logs_every_layer(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    frame = scene((64, 64), (1, 1, 9, 9))
    with caplog.at_level("INFO", LOGGER.name):
        AutoShape(slim_detector(), verbose=False)(frame, size=64, profile=True)
        assert sum(" ms " in line for line in caplog.messages) == 25
        caplog.clear()
        AutoShape(SpotFinder(), verbose=False)(frame, size=64, profile=True)
        assert caplog.messages == ["WARNING: profile=True is ignored: it requires a .pt file"]


class Rows(nn.Module):
    """A network that finds the same things in every image."""

    task, names, nc, stride, yaml = "detect", {0: "a", 1: "b"}, 2, torch.tensor([32.0]), {"ch": 3}

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.register_buffer("rows", torch.tensor(rows))

    def forward(self, images: Tensor, *_: Any, **__: Any) -> tuple[Any, None]:
        return self.rows.expand(len(images), -1, -1), None


def test_an_ensemble_joins_boxes_before_nms() -> None:
    """One finds a (0.9) and b (0.5), the other a little beside it a (0.72) and an a elsewhere (0.3)."""
    first = Rows([[32, 32, 20, 20, 1.0, 0.9, 0.0], [10, 50, 8, 8, 0.5, 0.0, 1.0]])
    second = Rows([[33, 32, 20, 20, 0.8, 0.9, 0.0], [50, 10, 8, 8, 0.6, 0.5, 0.1]])
    results = AutoShape(Ensemble([first, second]))(np.zeros((64, 64, 3), np.uint8), size=64)
    expected = [[22, 22, 42, 42, 0.9, 0], [6, 46, 14, 54, 0.5, 1], [46, 6, 54, 14, 0.3, 0]]
    np.testing.assert_allclose(results.xyxy[0], expected, atol=1e-5)  # the second a: IoU 19/21 with the first


def run_threads(work: list[Any]) -> list[Any]:
    """What each function gives, all running at once; errors are raised."""
    found: list[Any] = [None] * len(work)
    errors: list[BaseException] = []
    start = threading.Barrier(len(work))

    def run(number: int) -> None:
        try:
            start.wait()
            found[number] = work[number]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return found


def same(a: Detections, b: Detections) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a.xyxy, b.xyxy, strict=True))


def test_threads_share_a_model() -> None:
    """Different sizes at once, so that every thread wants another grid of the head; results as one by one."""
    model = AutoShape(slim_detector())
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in ((64, 96), (96, 64), (128, 64), (64, 64))]
    jobs = [(frame, size) for frame in frames for size in (64, 96, 128, 160)]
    expected = [model(frame, size=size) for frame, size in jobs]
    assert all(len(rows) for results in expected for rows in results.xyxy)

    def work(offset: int) -> list[tuple[int, Detections]]:
        order = [(offset + number) % len(jobs) for number in range(2 * len(jobs))]
        return [(index, model(jobs[index][0], size=jobs[index][1])) for index in order]

    for results in run_threads([lambda offset=offset: work(offset) for offset in range(0, 16, 4)]):
        for index, result in results:
            assert same(result, expected[index])


@pytest.fixture(scope="module")
def official(shared: Path) -> Iterator[AutoShape]:
    yield AutoShape(DetectMultiBackend(shared / "weights" / "yolov5n.pt"))


def check_golden(found: Tensor, expected: np.ndarray, side: int, *, rounded: bool = False) -> None:
    assert found[:, 5].tolist() == expected[:, 5].tolist()
    corners = found[:, :4].round() if rounded else found[:, :4]
    np.testing.assert_allclose(corners, expected[:, :4], atol=1e-4 * side, rtol=0)
    np.testing.assert_allclose(found[:, 4], expected[:, 4], atol=1e-4, rtol=0)


@pytest.mark.parametrize("image", ["bus", "zidane"])
def test_official_checkpoint_gives_the_reference_boxes(shared: Path, official: AutoShape, image: str) -> None:
    """The input shape of one image is that of detect.py, so the golden tolerances hold as they are."""
    golden = np.load(shared / "reference" / "golden" / "yolov5n_coco.npz")
    file = shared / "data" / "images" / f"{image}.jpg"
    results = official(file)
    assert list(results.s) == golden[f"{image}_input_shape"].tolist()
    check_golden(results.xyxy[0], golden[f"{image}_nms_detect"], max(results.ims[0].shape), rounded=True)


@pytest.mark.parametrize("image", ["bus", "zidane"])
def test_official_checkpoint_with_augmentation(shared: Path, official: AutoShape, image: str) -> None:
    golden = np.load(shared / "reference" / "golden" / "yolov5n_coco.npz")
    results = official(str(shared / "data" / "images" / f"{image}.jpg"), augment=True)
    check_golden(results.xyxy[0], golden[f"{image}_nms_tta"], max(results.ims[0].shape))


def test_a_batch_of_both_images(shared: Path, official: AutoShape) -> None:
    """A batch gives what each image gives alone in that shape. Wider borders change what nano sees, so only its
    sure objects (score above 0.6) are held against the golden values of the smaller shapes, to 2 % of the side.
    """
    golden = np.load(shared / "reference" / "golden" / "yolov5n_coco.npz")
    names = ("bus", "zidane")
    results = official([shared / "data" / "images" / f"{name}.jpg" for name in names])
    assert results.s == (2, 3, 640, 640)
    alone = Predictor(official.backend, PREDICT_DEFAULTS, auto=False, rgb=True)
    for found, im, name in zip(results.xyxy, results.ims, names, strict=True):
        (prediction,), _ = alone.predict([im])
        torch.testing.assert_close(found, prediction.boxes, atol=1e-2, rtol=1e-4)
        sure = golden[f"{name}_nms_detect"]
        for label, *box in sure[sure[:, 4] > 0.6][:, [5, 0, 1, 2, 3]].tolist():
            gaps = (found[found[:, 5] == label, :4] - torch.tensor(box)).abs().amax(dim=1)
            assert gaps.min() < 0.02 * max(im.shape), (name, label, box)


def test_threads_share_the_official_model(shared: Path, official: AutoShape) -> None:
    files = [shared / "data" / "images" / f"{name}.jpg" for name in ("bus", "zidane")]
    jobs = [(file, size) for file in files for size in (320, 640)]
    expected = [official(file, size=size) for file, size in jobs]
    rounds = run_threads([lambda: [official(file, size=size) for file, size in jobs] for _ in range(3)])
    for results in rounds:
        assert all(same(found, wanted) for found, wanted in zip(results, expected, strict=True))


def test_file_with_nms_reports_effective_settings(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    with caplog.at_level("INFO", LOGGER.name):
        AutoShape(SpotFinder())
        assert "NMS" not in caplog.text
        AutoShape(SpotFinder(nms=True))
    assert "only classes, a higher conf and a lower max_det have an effect" in caplog.text
