"""Heads and networks: decoding, strides, biases, copies, dtypes, fusing, test-time augmentation."""

from __future__ import annotations

import copy
import io
import logging
import math
import pickle
from typing import Any

import pytest
import torch
from slim_networks import SLIM, flatten_tensors, randomize_norm_stats
from torch import Tensor, nn

from models.graph import load_model_yaml
from models.yolo import (
    BaseModel,
    ClassificationModel,
    Detect,
    DetectionModel,
    Model,
    SegmentationModel,
    check_image_size,
)
from utils.core.errors import InputError
from utils.tasks.networks import build_model


def slim(name: str, **kwargs: Any) -> BaseModel:
    """A narrow version of a shipped network with random norm statistics, in evaluation mode."""
    torch.manual_seed(0)
    if name == "cls":
        model: BaseModel = ClassificationModel(model=DetectionModel({**load_model_yaml("yolov5n"), **SLIM}), nc=7)
    else:
        model = build_model({**load_model_yaml(name), **SLIM}, nc=3, **kwargs)
    return randomize_norm_stats(model)


def test_yolov5n_shapes() -> None:
    model = DetectionModel("yolov5n.yaml", nc=3)
    assert model.stride.tolist() == [8, 16, 32]
    assert model.names == {0: "0", 1: "1", 2: "2"}
    assert (model.yaml["nc"], model.yaml["ch"], model.yaml_file) == (3, 3, "yolov5n.yaml")
    images = torch.rand(2, 3, 64, 96)
    assert [list(raw.shape) for raw in model(images)] == [[2, 3, 8, 12, 8], [2, 3, 4, 6, 8], [2, 3, 2, 3, 8]]
    boxes, maps = model.eval()(images)
    assert boxes.shape == (2, 3 * (96 + 24 + 6), 8)
    assert len(maps) == 3
    assert Model is DetectionModel


def make_one_level_head(**kwargs: Any) -> Detect:
    """One level of stride 8, one anchor of 16 x 32 px, two classes, raw predictions as inputs."""
    head = Detect(2, [[16, 32]], **kwargs).eval()
    head.stride = torch.tensor([8.0])
    head.anchors /= 8
    return head


@pytest.mark.parametrize("inplace", [True, False])
def test_decoding_known_values(inplace: bool) -> None:
    """Logits of 0 are sigmoids of 0.5: the cell's center and the anchor itself; ln 3 is 0.75."""
    head = make_one_level_head(inplace=inplace)
    raw = torch.zeros(1, 7, 1, 2)
    raw[0, :, 0, 1] = torch.tensor([math.log(3), 0, math.log(3), 0, math.log(3), 0, -math.log(3)])
    with torch.no_grad():
        boxes, (raw_out,) = head([raw])
    # second cell: x = (2 * 0.75 - 0.5 + 1) * 8, w = 1.5 ** 2 * 16
    expected = [[4, 4, 16, 32, 0.5, 0.5, 0.5], [16, 4, 36, 32, 0.75, 0.5, 0.25]]
    torch.testing.assert_close(boxes, torch.tensor([expected]))
    assert torch.equal(raw_out[0, 0, 0, 1], raw[0, :, 0, 1])  # decoding does not change it


def test_export_returns_boxes_only() -> None:
    head = make_one_level_head()
    head.export = True
    (boxes,) = head([torch.zeros(1, 7, 3, 2)])
    assert boxes.shape == (1, 6, 7)


def test_decoded_boxes_carry_gradients() -> None:
    raw = torch.zeros(1, 7, 2, 2, requires_grad=True)
    boxes, _ = make_one_level_head()([raw])
    boxes[..., 0].sum().backward()
    assert raw.grad is not None
    assert raw.grad[0, 0].tolist() == [[4, 4], [4, 4]]  # 2 * sigmoid' * stride = 2 * 0.25 * 8


def test_grid_follows_shape_dtype_and_mode() -> None:
    head = make_one_level_head()
    with torch.inference_mode():
        head([torch.zeros(1, 7, 2, 4)])
    first = head.grid[0]
    raw = torch.zeros(1, 7, 2, 4, requires_grad=True)
    head([raw])[0].sum().backward()  # a grid made in inference mode cannot take part in autograd
    assert raw.grad is not None
    assert head([torch.zeros(1, 7, 3, 4)])[0].shape == (1, 12, 7)
    assert head([torch.zeros(1, 7, 3, 4, dtype=torch.float64)])[0].dtype == torch.float64
    assert first is not head.grid[0]
    again = head.grid[0]
    head([torch.ones(2, 7, 3, 4, dtype=torch.float64)])
    assert again is head.grid[0]
    assert again[0, 0, :, :, 0].tolist() == [[-0.5, 0.5, 1.5, 2.5]] * 3


def test_biases_are_priors() -> None:
    model = DetectionModel({**load_model_yaml("yolov5n"), **SLIM})
    for conv, stride in model.iter_head_convs():
        start = conv.bias.detach().view(3, 85)
        bound = 1 / math.sqrt(conv.in_channels)  # of torch's own start
        assert (start[:, 4] - math.log(8 / (640 / stride) ** 2)).abs().max() <= bound
        assert (start[:, 5:] - math.log(0.6 / (80 - 0.99999))).abs().max() <= bound
        assert start[:, :4].abs().max() <= bound


def test_anchors_are_in_stride_units_and_follow_the_strides() -> None:
    config = load_model_yaml("yolov5n")
    expected = DetectionModel(config).head.anchors
    assert expected[1, 0].tolist() == [30 / 16, 61 / 16]
    config["anchors"] = config["anchors"][::-1]
    assert torch.equal(DetectionModel(config).head.anchors, expected)


def test_anchor_and_class_arguments_override(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="openyolov5"):
        model = DetectionModel("yolov5n.yaml", nc=2, anchors=4.0)
    assert (model.yaml["nc"], model.yaml["anchors"], model.head.na, model.head.no) == (2, 4, 4, 7)
    assert "yolov5n.yaml: overriding nc 80 with 2" in caplog.text


def test_release_1_head_takes_raw_predictions() -> None:
    model = slim("yolov5s-v1")
    assert isinstance(model, DetectionModel)
    assert model.stride.tolist() == [32, 16, 8]
    assert (model.head.f, len(model.head.m)) == ([-1, 22, 18], 0)
    boxes, maps = model(torch.rand(1, 3, 64, 64))
    assert [raw.shape[2] for raw in maps] == [2, 4, 8]
    assert boxes.shape == (1, 3 * (4 + 16 + 64), 8)


@pytest.mark.parametrize("channels", [1, 4, 10])
def test_any_number_of_channels(channels: int) -> None:
    model = DetectionModel({**load_model_yaml("yolov5n"), **SLIM}, ch=channels)
    maps = model(torch.rand(1, channels, 64, 64))
    sum(raw.sum() for raw in maps).backward()
    assert model.yaml["ch"] == channels
    assert model.model[0].conv.weight.grad.shape[1] == channels
    assert model.eval()(torch.rand(1, channels, 64, 64))[0].shape == (1, 252, 85)


GRAPHS = ["yolov5n", "yolov5s-seg", "cls", "yolov5s-v1", "yolov5s-v3", "yolov5s-ghost", "yolov5s-transformer"]
GRAPHS += ["yolov3-tiny", "yolov3-spp", "yolov5n6", "yolov5-fpn"]


@pytest.mark.parametrize("name", GRAPHS)
def test_copies_and_pickles_before_and_after_a_forward(name: str) -> None:
    model, images = slim(name), torch.rand(1, 3, 128, 64)
    untouched = copy.deepcopy(model)
    with torch.inference_mode():
        wanted = flatten_tensors(model(images))
    for source in (model, untouched):
        buffer = io.BytesIO()
        pickle.dump(source, buffer)
        buffer.seek(0)
        for twin in (copy.deepcopy(source), pickle.load(buffer)):  # our own bytes
            with torch.inference_mode():
                found = flatten_tensors(twin(images))
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("after", [False, True], ids=["fresh", "after a forward"])
def test_types_and_memory_format(name: str, after: bool) -> None:
    model, images = slim(name), torch.rand(1, 3, 128, 64)
    with torch.inference_mode():
        wanted = flatten_tensors(copy.deepcopy(model)(images))
        if after:
            model(images)
        model.to(memory_format=torch.channels_last)
        found = flatten_tensors(model(images.to(memory_format=torch.channels_last)))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        for dtype, tolerance in ((torch.bfloat16, 0.05), (torch.float16, 0.01)):
            low = copy.deepcopy(model).to(dtype)
            for a, b in zip(flatten_tensors(low(images.to(dtype))), wanted, strict=True):
                assert a.dtype in (dtype, torch.float32)  # decoded boxes are of FP32
                assert (a.float() - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("name", GRAPHS)
def test_fusing_keeps_outputs(name: str) -> None:
    model, images = slim(name).double(), torch.rand(2, 3, 64, 128, dtype=torch.float64)
    with torch.inference_mode():
        wanted = flatten_tensors(model(images))
        assert model.fuse() is model
        found = flatten_tensors(model.float()(images.float()))
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).abs().max() < 1e-4 * b.abs().max()


def test_fused_yolov5n_has_121_entries() -> None:
    model = DetectionModel("yolov5n.yaml")
    assert len(model.state_dict()) == 349
    assert len(model.fuse().state_dict()) == 121


def test_norm_constants() -> None:
    norms = [m for m in DetectionModel("yolov5n.yaml").modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}


def test_building_does_not_change_norm_statistics() -> None:
    """The strides come from shapes: no data passes through the network."""
    model = DetectionModel({**load_model_yaml("yolov5n"), **SLIM})
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(int(norm.num_batches_tracked) == 0 for norm in norms)
    assert model.training
    assert isinstance(model.stride, Tensor)
    assert model.stride.device.type == "cpu"


def test_to_moves_the_strides() -> None:
    head = DetectionModel({**load_model_yaml("yolov5n"), **SLIM}).double().head
    assert head.stride.dtype == torch.float64
    assert head.stride.tolist() == [8, 16, 32]


def test_visualize_sees_every_layer() -> None:
    model, seen = slim("yolov5n"), []
    with torch.inference_mode():
        model(torch.rand(1, 3, 64, 64), visualize=lambda layer, output: seen.append((layer.i, layer.type)))
    assert [i for i, _ in seen] == list(range(25))
    assert seen[-1][1] == "models.yolo.Detect"


def test_profile_logs_every_layer(caplog: pytest.LogCaptureFixture) -> None:
    model = slim("yolov3-tiny")
    with caplog.at_level(logging.INFO, logger="openyolov5"), torch.inference_mode():
        model(torch.rand(1, 3, 64, 64), profile=True)
    lines = [record.message for record in caplog.records if " ms " in record.message]
    assert len(lines) == len(model.model)
    assert "models.yolo.Detect" in lines[-1]


class _Recorder(DetectionModel):
    """Records its inputs."""

    def _run(self, x: Tensor, profile: bool = False, visualize: Any = False) -> Any:
        self.__dict__.setdefault("images", []).append(x)
        return super()._run(x, profile, visualize)


def test_tta_concatenates_three_views() -> None:
    """128 x 192 px: views of 128 x 192, 106 x 159 and 85 x 128, padded to multiples of 32."""
    torch.manual_seed(0)
    model = _Recorder({**load_model_yaml("yolov5n"), **SLIM}).eval()
    images = torch.rand(1, 3, 128, 192)
    with torch.inference_mode():
        boxes, rest = model(images, augment=True)
    views = model.images[-3:]
    assert rest is None
    assert [tuple(view.shape[2:]) for view in views] == [(128, 192), (128, 160), (96, 160)]
    assert views[1][0, :, 106:].unique().tolist() == pytest.approx([0.447])
    cells = [[16 * 24, 8 * 12], [16 * 20, 8 * 10, 4 * 5], [6 * 10, 3 * 5]]  # without P5, all, without P3
    assert boxes.shape == (1, 3 * sum(sum(view) for view in cells), 85)
    with torch.inference_mode():
        plain = model(images)[0]
        mirrored = model(views[1])[0]
    first = 3 * sum(cells[0])
    assert torch.equal(boxes[:, :first], plain[:, :first])
    torch.testing.assert_close(boxes[0, first, 0], 192 - mirrored[0, 0, 0] / 0.83)
    torch.testing.assert_close(boxes[0, first, 1:4], mirrored[0, 0, 1:4] / 0.83)


def test_segmentation_ignores_tta_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model, images = slim("yolov5s-seg"), torch.rand(1, 3, 64, 64)
    with torch.inference_mode(), caplog.at_level(logging.WARNING, logger="openyolov5"):
        found, plain = model(images, augment=True), model(images)
    assert "segmentation does not support test-time augmentation" in caplog.text
    assert torch.equal(found[0], plain[0])


def test_segment_output_forms() -> None:
    model = slim("yolov5s-seg")
    assert isinstance(model, SegmentationModel)
    images = torch.rand(1, 3, 64, 96)
    boxes, prototypes, maps = model(images)
    assert (boxes.shape, prototypes.shape) == ((1, 378, 5 + 3 + 32), (1, 32, 16, 24))
    assert (boxes[..., 4:8] >= 0).all()
    assert (boxes[..., 8:] < 0).any()  # coefficients keep their sign
    raw = maps[0][0, 0, 0, 0, 8:]
    assert torch.equal(boxes[0, 0, 8:], raw)
    model.head.export = True
    assert len(model(images)) == 2
    model.head.export = False
    trained = model.train()(images)
    assert isinstance(trained[0], list)
    assert trained[1].shape == (1, 32, 16, 24)


def test_classifier_replaces_the_last_layer() -> None:
    detector = DetectionModel("yolov5n.yaml")
    model = ClassificationModel(model=detector, nc=4)
    head = model.model[-1]
    assert (len(model.model), head.i, head.f, head.type) == (10, 9, -1, "models.common.Classify")
    assert head.conv.conv.in_channels == 256
    assert head.conv.act is model.model[0].act
    assert (model.save, model.nc, model.names[3], model.stride.tolist()) == ([], 4, "3", [8, 16, 32])
    assert model.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 4)
    assert ClassificationModel("yolov5n.yaml", nc=4, cutoff=8).model[-1].conv.conv.in_channels == 128


def test_build_model_chooses_the_class_by_the_head() -> None:
    assert type(build_model("yolov5n-seg.yaml", nc=1)) is SegmentationModel
    assert type(build_model("yolov5n.yaml", nc=1)) is DetectionModel


@pytest.mark.parametrize(
    ("size", "stride", "expected", "warns"), [(640, 32, 640, False), (641, 32, 672, True), (1, 64, 64, True)]
)
def test_image_size_rounds_up(
    size: int, stride: int, expected: int, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="openyolov5"):
        assert check_image_size(size, stride) == expected
    assert (
        f"image size {size} is not a multiple of the largest stride {stride}; using {expected}" in caplog.text
    ) is warns


def test_invalid_row_is_named() -> None:
    config = load_model_yaml("yolov5n")
    config["backbone"][7][3] = []
    with pytest.raises(InputError, match=r"^yolov5n\.yaml: row 7: Conv expects \[c2, k=1, .*missing"):
        DetectionModel(config)


def test_mismatched_feature_maps_are_named_by_row() -> None:
    config = load_model_yaml("yolov5n")
    config["head"][2][0] = [-1, 4]
    message = r"^yolov5n\.yaml: row 12: Concat does not accept the outputs of rows \[-1, 4\]: Sizes of tensors"
    with pytest.raises(InputError, match=message):
        DetectionModel(config)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov5n", "yolov5n-seg", "yolov5n6", "yolov5n-cls"])
def test_compiled_equals_eager(name: str) -> None:
    model: BaseModel = ClassificationModel("yolov5n", nc=5) if name.endswith("cls") else build_model(name, nc=3)
    model.eval()
    images = torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        wanted = flatten_tensors(model(images))
        found = flatten_tensors(torch.compile(model, fullgraph=True)(images))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_cached_grid_may_be_replaced_by_another_thread() -> None:
    """The head reads its cache once: a second read may return a grid of another size."""

    class Replaced(list[Tensor]):
        def __getitem__(self, level: Any) -> Any:
            found = super().__getitem__(level)
            self[level] = torch.zeros(1, 3, 1, 1, 2)  # the other thread's
            return found

    head = slim("yolov5n").head
    maps = [torch.rand(1, head.m[level].in_channels, side, side) for level, side in enumerate((8, 4, 2))]
    with torch.inference_mode():
        expected = head(list(maps))[0]
        head.grid = Replaced(head.grid)
        assert torch.equal(head(list(maps))[0], expected)
