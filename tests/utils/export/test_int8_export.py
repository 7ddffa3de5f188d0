"""INT8 exports to ONNX and OpenVINO, calibrated on images of a data YAML."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import yaml
from confident_jobs import build_confident_job

from tests.class_sets import write_class_set
from utils.backends.registry import load_backend
from utils.core.errors import InputError
from utils.datasets.classification import crop_center
from utils.export.accuracy import AccuracyMeter, build_accuracy_meter
from utils.export.base import ExportJob, ExportOptions
from utils.export.calibration import CalibrationReader, find_decoding_nodes, load_calibration_arrays
from utils.export.onnx import export_onnx
from utils.export.openvino import CONVOLUTIONS, export_openvino, find_float_nodes
from utils.export.run import build_job
from utils.export.verify import check_export
from utils.imaging.read import read_image
from utils.ops.network_input import IMAGENET
from utils.tasks.networks import load_model

CPU = torch.device("cpu")
Exported = Callable[..., tuple[ExportJob, Path]]


def test_onnx_quantizes_convolutions_but_not_the_decoding(tiny_data: Path, tmp_path: Path) -> None:
    job = build_confident_job(tmp_path, int8=True, data=str(tiny_data))
    file = export_onnx(job)
    assert file.name == "tiny mödel-int8.onnx"
    model = onnx.load(file)
    producers = {name: node.op_type for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    quantized = [node for node in convolutions if producers.get(node.input[1]) == "DequantizeLinear"]
    assert len(convolutions) - len(quantized) == 2, "the last one of each level stays in floats"
    last = next(node for node in model.graph.node if "output0" in node.output)
    assert all(producers[name] != "DequantizeLinear" for name in last.input if name in producers)
    assert load_backend(file, device=CPU).names == job.info.names
    report = check_export(job, file)
    assert report.relative is not None
    assert 1e-4 < report.relative < 0.1, "less precise than FP32, but the same network"
    assert check_export(job, file, measure=build_accuracy_meter(job)).text.count("mAP50-95") == 1


def test_one_scale_per_tensor_is_smaller(tiny_data: Path, tmp_path: Path) -> None:
    sizes = {}
    for per_tensor in (False, True):
        job = build_confident_job(tmp_path / str(per_tensor), int8=True, data=str(tiny_data), per_tensor=per_tensor)
        job.weights.parent.mkdir()
        sizes[per_tensor] = export_onnx(job).stat().st_size
    assert sizes[True] < sizes[False]


@pytest.mark.slow
def test_openvino_quantization(tiny_data: Path, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    job = build_confident_job(tmp_path, int8=True, data=str(tiny_data))
    folder = export_openvino(job)
    assert folder.name == "tiny mödel_int8_openvino_model"
    full = export_openvino(job.with_options(int8=False))
    sizes = [next(path.glob("*.bin")).stat().st_size for path in (folder, full)]
    assert sizes[0] < 0.5 * sizes[1]
    model = openvino.Core().read_model(next(folder.glob("*.xml")))
    nodes = {node.get_friendly_name(): node for node in model.get_ops()}
    convolutions = [node for node in nodes.values() if node.get_type_name() in CONVOLUTIONS]
    assert len(convolutions) == sum(isinstance(module, torch.nn.Conv2d) for module in job.network.modules())
    assert {find_weights(node).get_element_type().get_type_name() for node in convolutions} == {"i8"}
    decoding = {nodes[name].get_type_name() for name in find_float_nodes(model)}
    assert "Sigmoid" in decoding
    assert "FakeQuantize" not in decoding
    report = check_export(job, folder)
    assert report.relative is not None
    assert report.relative > 1e-4, "it is not quantized"


def find_weights(convolution: Any) -> Any:
    """Find the constant with the weights of an OpenVINO convolution."""
    node = convolution.input_value(1).get_node()
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return node


@pytest.mark.slow
def test_openvino_quantization_keeps_the_accuracy(shared: Path, tmp_path: Path) -> None:
    """Accuracy must hold on CPUs without VNNI too, where eight-bit sums may saturate (see nncf.OverflowFix)."""
    pytest.importorskip("nncf")
    weights = tmp_path / "yolov5n.pt"
    shutil.copy(shared / "weights" / "yolov5n.pt", weights)
    model: Any = load_model(str(weights), device=CPU)
    data = write_street_set(shared / "data" / "camvid", tmp_path / "street", names=model.names, calibrated=48)
    job = build_job(weights, model, ExportOptions(imgsz=(256, 320), int8=True, data=str(data)))
    report = check_export(job, export_openvino(job), measure=build_accuracy_meter(job))  # raises beyond two points
    before = re.search(r"PyTorch (\d\.\d{3})$", report.text)
    assert before is not None
    assert float(before[1]) > 0.1, "the images are not informative"


def write_street_set(camvid: Path, folder: Path, *, names: dict[int, str], calibrated: int) -> Path:
    """Write a data YAML of CamVid's cars and pedestrians with COCO class indices and few training images."""
    coco_classes = {"0": "2", "1": "0"}
    for split in ("train", "val"):
        files = sorted((camvid / "images" / split).iterdir())[: calibrated if split == "train" else None]
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for file in files:
            shutil.copy(file, folder / "images" / split)
            rows = (camvid / "labels" / split / f"{file.stem}.txt").read_text().splitlines()
            parts = [row.split(" ", 1) for row in rows]
            text = "".join(f"{coco_classes[label]} {rest}\n" for label, rest in parts if label in coco_classes)
            (folder / "labels" / split / f"{file.stem}.txt").write_text(text)
    data = folder / "street.yaml"
    data.write_text(yaml.safe_dump({"path": ".", "train": "images/train", "val": "images/val", "names": dict(names)}))
    return data


def test_calibration_needs_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--int8 needs images for calibration; give the data set of the model with"):
        load_calibration_arrays(build_confident_job(tmp_path, int8=True))


def test_calibration_reads_training_images(tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("openyolov5").propagate = True
    arrays = load_calibration_arrays(build_confident_job(tmp_path, int8=True, data=str(tiny_data)))
    assert [array.shape for array in arrays] == [(1, 3, 64, 96)] * 12
    assert all(array.min() >= 0 and 0.3 < array.max() <= 1 for array in arrays)
    assert "only 12 calibration images; a few hundred give better accuracy" in caplog.text


def test_reader_repeats_an_image_for_a_static_batch(tiny_data: Path, tmp_path: Path) -> None:
    arrays = load_calibration_arrays(build_confident_job(tmp_path, data=str(tiny_data)))
    reader = CalibrationReader(arrays[:2], "images", batch=3)
    first, second = reader.get_next(), reader.get_next()
    assert first is not None and second is not None
    assert first["images"].shape == (3, 3, 64, 96)
    assert (second["images"][2] == arrays[1][0]).all()
    assert reader.get_next() is None


def test_nodes_after_the_last_convolutions() -> None:
    inputs = {"out": ["mul"], "mul": ["sig", "conv2"], "sig": ["conv2"], "conv2": ["act"], "act": ["conv1"]}
    decoding, last = find_decoding_nodes(["out"], lambda n: inputs.get(n, []), lambda n: n.startswith("conv"))
    assert (sorted(decoding), last) == (["mul", "out", "sig"], ["conv2"])


def test_accuracy_without_predictions(tiny_data: Path, tmp_path: Path) -> None:
    job = build_confident_job(tmp_path, data=str(tiny_data))
    meter = AccuracyMeter(job)
    assert meter(lambda images: torch.zeros(len(images), 10, 7), (64, 96)) == {"mAP50-95": 0}
    assert build_accuracy_meter(job.with_options(data="")) is None


def test_classifiers_are_calibrated_and_measured_on_normalized_crops(tmp_path: Path) -> None:
    job = build_confident_job(
        tmp_path, task="classify", imgsz=(32, 32), int8=True, data=str(write_class_set(tmp_path / "set"))
    )
    arrays = load_calibration_arrays(job)
    frame = read_image(sorted((tmp_path / "set").rglob("train/*/*.png"))[0])
    fitted = crop_center(frame, (32, 32))[0][..., ::-1] / 255
    expected = (fitted - IMAGENET.mean) / IMAGENET.std
    assert arrays[0][0].transpose(1, 2, 0) == pytest.approx(expected, abs=1e-5)
    report = check_export(job, export_onnx(job), measure=build_accuracy_meter(job))
    assert report.relative is not None and 1e-4 < report.relative < 0.1
    assert re.search(r"; top-1 \d\.\d{3}, PyTorch \d\.\d{3}$", report.text)


def test_data_with_other_classes(tiny_data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(f"path: {tiny_data.parent}\ntrain: images/train\nval: images/val\nnames: [a, b, c]\n")
    with pytest.raises(InputError, match=r"has 2 classes, .*other\.yaml names 3: give the data set the model was"):
        AccuracyMeter(build_confident_job(tmp_path, data=str(other)))
