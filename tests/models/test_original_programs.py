"""What programs written for YOLOv5 do with networks: addresses, attributes, own training loops, tracing, ONNX."""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import hubconf
from models import common, experimental, yolo
from models.experimental import attempt_load
from models.layers import LayerSpec, resolve_scaled
from models.yolo import ClassificationModel, Detect, DetectionModel, JointModel, SegmentationModel, SemanticModel
from tests.models.test_official import addressed, small
from tests.semantic_nets import CLASSES
from tests.slim_networks import flatten_tensors, randomize_norm_stats
from tests.tiny_jobs import build_tiny_model
from utils.core.errors import InputError
from utils.imaging.letterbox import letterbox
from utils.imaging.read import read_image
from utils.tasks.networks import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
IMAGE = torch.linspace(0, 1, 3 * 64 * 96).reshape(1, 3, 64, 96)


def build(name: str) -> Any:
    """A narrow network with random norms, in evaluation mode and of FP16 values."""
    torch.manual_seed(0)
    graph = small(name, **({"n_segcls": 3} if name.endswith(("psp.yaml", "sem.yaml")) else {}))
    kinds = {"-seg": SegmentationModel, "-psp": JointModel, "-sem": SemanticModel}
    kind = next((kind for end, kind in kinds.items() if f"{end}.yaml" in name), DetectionModel)
    return randomize_norm_stats(kind(graph)).half().float()


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (
            common,
            "AutoShape Bottleneck BottleneckCSP C3 C3Ghost C3SPP C3TR C3x Classify Concat Contract Conv CrossConv "
            "DWConv DWConvTranspose2d DetectMultiBackend Detections Expand Focus GhostBottleneck GhostConv LOGGER NMS "
            "Proto SPP SPPF TransformerBlock TransformerLayer autoShape autopad",
        ),
        (experimental, "CrossConv Ensemble GhostBottleneck GhostConv MixConv2d Sum attempt_load"),
        (
            yolo,
            "BaseModel ClassificationModel Detect DetectionModel FILE LOGGER Model ROOT Segment SegmentationModel "
            "parse_model",
        ),
    ],
)
def test_names_of_all_releases(module: Any, names: str) -> None:
    missing = [name for name in names.split() if not hasattr(module, name)]
    assert not missing
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_star_import_of_experimental() -> None:
    names: dict[str, Any] = {name: getattr(experimental, name) for name in experimental.__all__}
    assert names["attempt_load"] is attempt_load
    assert names["attempt_download"] is importlib.import_module("utils.downloads").attempt_download
    assert names["GhostConv"] is common.GhostConv


def test_root_is_the_folder_of_the_checkout() -> None:
    assert (yolo.FILE, yolo.ROOT) == (ROOT / "models" / "yolo.py", ROOT)
    assert common.autoShape is common.AutoShape


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((3,), 1), ((1,), 0), ((6,), 3), ((3, 0), 0), ((3, None, 2), 2), (([1, 3],), [0, 1]), (([3, 5], None, 3), [3, 6])],
)
def test_autopad(arguments: tuple[Any, ...], expected: Any) -> None:
    assert common.autopad(*arguments) == expected


def test_parse_model_takes_the_content_of_a_yaml() -> None:
    graph = small("yolov5n.yaml", anchors=3)
    layers, save = yolo.parse_model(copy.deepcopy(graph), ch=[4])
    assert (len(layers), save) == (25, [4, 6, 10, 14, 17, 20, 23])
    assert layers[0].conv.in_channels == 4
    assert [(layer.i, layer.f) for layer in layers][-2:] == [(23, -1), (24, [17, 20, 23])]
    assert layers[24].na == 3
    assert yolo.parse_model(graph, 3)[0][0].conv.in_channels == 3
    with pytest.raises(InputError, match="row 0: unknown layer 'Cnv'"):
        yolo.parse_model({**graph, "backbone": [[-1, 1, "Cnv", [8]]]}, [3])


def test_nms_layer_of_old_releases() -> None:
    """Two boxes of a class overlap (IoU 0.67), one is another class."""
    rows = torch.tensor([[[10.0, 10, 10, 10, 0.9, 1, 0], [12, 10, 10, 10, 0.8, 1, 0], [10, 10, 10, 10, 0.7, 0, 1]]])
    layer = common.NMS()
    (detections,) = layer((rows, None))
    torch.testing.assert_close(detections[:, 4:], torch.tensor([[0.9, 0], [0.7, 1]]))
    layer.classes, layer.iou = [0], 0.7
    torch.testing.assert_close(layer((rows, None))[0][:, 4:], torch.tensor([[0.9, 0], [0.8, 0]]))
    layer.conf = 0.85
    assert layer((rows, None))[0].shape == (1, 6)


def test_methods_of_the_model_of_old_releases(tmp_path: Path) -> None:
    model = build("yolov5n.yaml")
    boxes = model(IMAGE)[0]
    assert torch.equal(model.forward_once(IMAGE)[0], boxes)
    assert torch.equal(model.forward_once(IMAGE, False)[0], boxes)
    with torch.no_grad():
        expected = common.NMS()((boxes,))
        assert model.nms() is model.nms(True) is model
        assert (len(model.model), model.model[-1].i, model.head.nl) == (26, 25, 3)
        (detections,) = model(IMAGE)
    assert torch.equal(detections, expected[0])
    torch.save({"model": model}, tmp_path / "nms.pt")  # the layer is left out when such a file is loaded
    assert torch.equal(load_checkpoint(tmp_path / "nms.pt").model(IMAGE)[0], boxes)
    assert model.nms(False).nms(False)(IMAGE)[0].shape == boxes.shape
    wrapped = model.autoshape()
    assert type(wrapped) is common.AutoShape
    assert len(wrapped(np.zeros((32, 48, 3), np.uint8), size=64)) == 1


def test_fuseforward() -> None:
    block = common.Conv(3, 4).eval()
    fused = copy.deepcopy(block)
    fused.fuse()
    del fused.bn
    for name in ("forward_fuse", "fuseforward"):
        torch.testing.assert_close(getattr(fused, name)(IMAGE), block(IMAGE))


def test_visualize_takes_a_folder(tmp_path: Path) -> None:
    model = build_tiny_model().eval()
    boxes = model(IMAGE, visualize=tmp_path / "features")[0]
    assert torch.equal(boxes, model(IMAGE, profile=False, visualize=False)[0])
    assert sum(path.suffix == ".png" for path in (tmp_path / "features").iterdir()) >= 8


# -- loading ----------------------------------------------------------------------------------------------------------


def test_attempt_load_in_all_forms(shared: Path) -> None:
    file = str(shared / "weights" / "yolov5n.pt")
    cpu = torch.device("cpu")
    forms = [
        attempt_load(file, cpu),
        attempt_load(file, map_location=cpu),
        attempt_load(file, device="cpu", inplace=False, fuse=True),
        attempt_load([file], cpu, True, True),
    ]
    boxes = [model(IMAGE)[0] for model in forms]
    for others in boxes:
        torch.testing.assert_close(others, boxes[0], rtol=1e-6, atol=1e-4)
    assert [model.model[-1].inplace for model in forms] == [True, True, False, True]
    unfused = attempt_load(file, map_location=cpu, fuse=False)
    assert (len(forms[0].state_dict()), len(unfused.state_dict())) == (121, 349)
    assert type(attempt_load([file, file])) is experimental.Ensemble


@pytest.mark.parametrize("inplace", [True, False])
def test_saved_again_by_a_program(tmp_path: Path, shared: Path, inplace: bool) -> None:
    """`torch.save` of the network, loaded as a checkpoint."""
    model = attempt_load(shared / "weights" / "yolov5n.pt", inplace=inplace, fuse=False)
    torch.save({"model": model}, tmp_path / "saved.pt")
    loaded = attempt_load(tmp_path / "saved.pt", inplace=inplace, fuse=False)
    torch.testing.assert_close(loaded(IMAGE)[0], model(IMAGE)[0])


def test_classes_are_renamed_in_the_network(shared: Path) -> None:
    """`model.model.names[0] = ...` of a hub model, or of `DetectMultiBackend`."""
    wrapped = common.DetectMultiBackend(shared / "weights" / "yolov5n.pt")
    wrapped.model.names[0] = "human"
    assert wrapped.names[0] == "human"
    shaped = common.AutoShape(wrapped)
    shaped.model.model.names[0] = "walker"
    names = shaped(np.zeros((32, 32, 3), np.uint8), size=32).names
    assert (shaped.names[0], names[0], names[1]) == ("walker", "walker", "bicycle")


def test_head_of_a_loaded_network(shared: Path) -> None:
    """What exporters and plotting scripts read of `model.model[-1]`."""
    model = attempt_load(shared / "weights" / "yolov5n.pt")
    head = model.model[-1]
    assert (head.nl, head.na, head.nc, head.no) == (3, 3, 80, 85)
    assert head.stride.tolist() == model.stride.tolist() == [8, 16, 32]
    sizes = [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]]
    pixels = head.anchors * head.stride.view(-1, 1, 1)
    assert pixels.view(-1, 2).round().tolist() == sizes
    for level, (stride, grid, anchor_grid) in enumerate(zip((8, 16, 32), head.grid, head.anchor_grid, strict=True)):
        side = 640 // stride
        assert grid.shape == anchor_grid.shape == (1, 3, side, side, 2)
        assert grid[0, 1, 3, 5].tolist() == [4.5, 2.5]  # column and row, less half a cell
        assert torch.equal(anchor_grid[0, :, 7, 9], pixels[level])
    assert torch.equal(model.half().model[-1].grid[0], grid_of(model.model[-1], 80))
    assert torch.equal(head._make_grid(4, 3, 2)[1], pixels[2].view(1, 3, 1, 1, 2).expand(1, 3, 3, 4, 2))


def grid_of(head: Any, side: int) -> Tensor:
    """Cell offsets by a loop."""
    cells = [[[column - 0.5, row - 0.5] for column in range(side)] for row in range(side)]
    return torch.tensor(cells).expand(1, head.na, side, side, 2)


def test_decoding_by_grids(shared: Path) -> None:
    """Boxes that a script decodes from raw predictions with `grid` and `anchor_grid` are those of the network."""
    model = attempt_load(shared / "weights" / "yolov5n.pt")
    head = model.model[-1]
    images = torch.rand(1, 3, 640, 640, generator=torch.Generator().manual_seed(0))
    grids = [(grid.clone(), sizes.clone()) for grid, sizes in zip(head.grid, head.anchor_grid, strict=True)]
    with torch.no_grad():
        boxes, raw_preds = model(images)
    decoded = []
    for raw, (grid, sizes), stride in zip(raw_preds, grids, (8, 16, 32), strict=True):
        y = raw.sigmoid()
        xy, wh = (y[..., :2] * 2 + grid) * stride, (y[..., 2:4] * 2) ** 2 * sizes
        decoded.append(torch.cat((xy, wh, y[..., 4:]), 4).view(1, -1, 85))
    torch.testing.assert_close(torch.cat(decoded, 1), boxes, rtol=1e-5, atol=1e-4)


SCRIPT = """
import sys, torch
from utils.general import LOGGER  # as scripts do; torch.load then reads the networks as data
file, out = sys.argv[1:]
ckpt = torch.load(file, map_location="cpu")
model = ckpt["model"].float().eval()
names = sorted({type(m).__module__ + "." + type(m).__name__ for m in model.modules()} - {type(model)})
from models.common import Conv
from models.yolo import Detect, Model
assert isinstance(model, Model) and isinstance(model.model[-1], Detect) and isinstance(model.model[0], Conv)
images = torch.load(out, weights_only=True)
unfused = model(images)[0]
new = Model(ckpt["model"].yaml, ch=3, nc=80, anchors=3.0)
state = {k: v for k, v in ckpt["model"].state_dict().items() if "anchor" not in k}
assert not new.load_state_dict(state, strict=False).unexpected_keys
assert ckpt["model"].names[16] == "dog" and int(max(model.stride)) == 32
torch.save([unfused.detach(), model.fuse()(images)[0].detach(), model(images, augment=True)[0].detach()], out)
print(" ".join(n for n in names if n.startswith("models.")))
"""


def test_released_file_unpickles_onto_our_classes(shared: Path, tmp_path: Path) -> None:
    """`torch.load(official.pt)` of a script, in another process; boxes are those of the original."""
    golden = np.load(shared / "reference" / "golden" / "yolov5n_coco.npz")
    frame, _ = letterbox(read_image(shared / "data" / "images" / "bus.jpg"), (640, 640), auto=True)
    images = torch.from_numpy(frame[..., ::-1].transpose(2, 0, 1).copy()).unsqueeze(0).float() / 255
    torch.save(images, tmp_path / "tensors.pt")
    command = [sys.executable, "-c", SCRIPT, str(shared / "weights" / "yolov5n.pt"), str(tmp_path / "tensors.pt")]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == [
        *(f"models.common.{name}" for name in ("Bottleneck", "C3", "Concat", "Conv", "SPPF")),
        *("models.yolo.Detect", "models.yolo.DetectionModel"),
    ]
    unfused, fused, augmented = torch.load(tmp_path / "tensors.pt", weights_only=True)
    for boxes in (unfused, fused):
        difference = np.abs(boxes.numpy() - golden["bus_decoded"])
        assert difference[..., :4].max() < 1e-4 * 640
        assert difference[..., 4:].max() < 1e-4
    assert list(augmented.shape) == golden["bus_tta_shape"].tolist()


def test_grids_in_the_file_are_not_used(tmp_path: Path) -> None:
    """Heads of releases 6.0 and 6.1 were saved with grids of another offset; a released head has them for 640 px."""
    model = build("yolov5n.yaml")
    boxes = model(IMAGE)[0]
    head = model.model[-1]
    stale = {"grid": [grid + 0.5 for grid in head.grid], "anchor_grid": [sizes * 2 for sizes in head.anchor_grid]}
    head.__setstate__({**head.__dict__, **stale})
    assert torch.equal(model(IMAGE)[0], boxes)
    head.__setstate__({**head.__dict__, "_buffers": {**head._buffers, "anchor_grid": torch.ones(3, 1, 3, 1, 1, 2)}})
    assert "anchor_grid" not in head._buffers
    assert torch.equal(model(IMAGE)[0], boxes)


# -- own training loops -----------------------------------------------------------------------------------------------


def train_a_step(model: Any, names: list[str]) -> dict[str, Any]:
    """What the training script of 7.0 sets on a model and writes after an epoch."""
    model.nc, model.names = len(names), names
    model.hyp = {"lr0": np.float64(0.01), "box": 0.05, "anchors": 3}
    model.class_weights = torch.ones(len(names))
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    sum(tensor.abs().mean() for tensor in flatten_tensors(model(IMAGE.repeat(2, 1, 1, 1)))).backward()
    optimizer.step()
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    return {
        **{"epoch": 2, "best_fitness": np.array([0.25]), "model": copy.deepcopy(model).half()},
        **{"ema": copy.deepcopy(ema).half(), "updates": 3, "optimizer": optimizer.state_dict()},
        **{"opt": {"save_dir": Path("runs/train/exp"), "imgsz": 640}, "git": {"remote": None}, "date": "2023-01-02"},
    }


@pytest.mark.parametrize("name", ["yolov5n.yaml", "yolov5n-seg.yaml", "yolov5n-psp.yaml", "yolov5n-sem.yaml", "cls"])
def test_networks_saved_by_a_script(tmp_path: Path, name: str) -> None:
    """Whole modules of ours, saved during training, give the EMA's outputs through our loader and the hub."""
    model = ClassificationModel(small("yolov5n.yaml"), nc=3) if name == "cls" else build(name)
    if model.semantic is not None:
        model.semantic = CLASSES
    content = train_a_step(model, ["a", "b", "c"])
    torch.save(content, tmp_path / "last.pt")
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    assert (checkpoint.names, checkpoint.epoch, checkpoint.official) == ({0: "a", 1: "b", 2: "c"}, 2, True)
    assert (type(checkpoint.model), checkpoint.hyp["lr0"]) == (type(model), 0.01)
    assert checkpoint.model.semantic == (None if model.semantic is None else CLASSES)
    hub = hubconf.custom(str(tmp_path / "last.pt"), autoshape=False, _verbose=False, device="cpu")
    with torch.no_grad():
        expected = flatten_tensors(content["ema"].float()(IMAGE))
        for output in (checkpoint.model(IMAGE), hub.backend.model(IMAGE)):
            for tensor, other in zip(flatten_tensors(output), expected, strict=True):
                torch.testing.assert_close(tensor, other, rtol=1e-6, atol=1e-6)


class Wrapper(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def test_networks_in_other_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In DataParallel, with synchronized batch norms, as `--sync-bn` makes them; and in the wrapper for images."""
    model = build("yolov5n.yaml")
    boxes = model(IMAGE)[0]
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    monkeypatch.setattr(common, "autoShape", Wrapper, raising=False)
    for content in ({"model": nn.DataParallel(synced)}, Wrapper(model), {"ema": Wrapper(nn.DataParallel(model))}):
        with addressed(autoShape=(Wrapper, "models.common")):
            torch.save(content, tmp_path / "a.pt")
        loaded = load_checkpoint(tmp_path / "a.pt").model
        assert {type(m) for m in loaded.modules() if "Norm" in type(m).__name__} == {nn.BatchNorm2d}
        assert torch.equal(loaded(IMAGE)[0], boxes)


def test_network_fused_by_a_script(tmp_path: Path) -> None:
    """Scripts replace `forward` of fused blocks by the method `forward_fuse`."""
    model = build("yolov5n.yaml").fuse()
    boxes = model(IMAGE)[0]
    for module in model.modules():
        if isinstance(module, common.Conv):
            del module.bn
            module.forward = module.forward_fuse
    torch.save({"model": model}, tmp_path / "fused.pt")
    loaded = load_checkpoint(tmp_path / "fused.pt").model
    assert torch.equal(loaded(IMAGE)[0], boxes)
    assert "forward" not in vars(loaded.model[0])


def test_weights_that_are_not_finite(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = build("yolov5n.yaml")
    model.model[1].conv.weight.data[0, 0, 0, 0] = float("nan")
    torch.save({"model": model}, tmp_path / "bad.pt")
    with caplog.at_level("WARNING", logger="openyolov5"):
        load_checkpoint(tmp_path / "bad.pt")
    count = sum(value.is_floating_point() for value in model.state_dict().values())
    message = f"NaN or infinite values in 1 of {count} weights, first model.1.conv.weight: the training diverged"
    assert message in caplog.text


def test_blocks_that_a_fork_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fork's C3 with attention in it has the address of YOLOv5's: as there the layer is ignored, with a warning."""
    model = build("yolov5n.yaml")
    boxes = model(IMAGE)[0]
    model.model[2].att, model.model[4].act2 = common.Conv(8, 8), nn.SiLU()
    torch.save({"model": model}, tmp_path / "fork.pt")
    with caplog.at_level("WARNING", logger="openyolov5"):
        assert torch.equal(load_checkpoint(tmp_path / "fork.pt").model(IMAGE)[0], boxes)
    assert "fork.pt: blocks with layers of a fork, which YOLOv5 does not have and does not run: C3.att;" in caplog.text
    caplog.clear()
    for name in ("yolov5s-v3.yaml", "yolov5n-seg.yaml", "yolov5s-ghost.yaml", "yolov5s-transformer.yaml"):
        torch.save({"model": build(name)}, tmp_path / "plain.pt")
        load_checkpoint(tmp_path / "plain.pt")
    assert not caplog.text


# -- tracing and ONNX -------------------------------------------------------------------------------------------------

TRACED = ("yolov5n.yaml", "yolov5n-seg.yaml", "yolov5n-psp.yaml", "yolov5s-transformer.yaml", "yolov5s-v5.yaml")


@pytest.mark.parametrize("name", TRACED[:3])
def test_traced_network(name: str) -> None:
    model = build(name)
    traced = torch.jit.trace(model, IMAGE)
    other = IMAGE.flip(3)
    with torch.no_grad():
        for output, expected in zip(flatten_tensors(traced(other)), flatten_tensors(model(other)), strict=True):
            torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TRACED)
@pytest.mark.parametrize("is_dynamic", [False, True])
def test_onnx_export_without_dynamo(tmp_path: Path, name: str, is_dynamic: bool) -> None:
    """`torch.onnx.export(..., opset_version=12, dynamo=False)`, the exporter that older scripts use."""
    model = build(name)
    for module in model.modules():
        if isinstance(module, Detect):
            module.dynamic = is_dynamic
    axes = {"images": {0: "batch", 2: "height", 3: "width"}} if is_dynamic else None
    file = str(tmp_path / "a.onnx")
    torch.onnx.export(model, (IMAGE,), file, opset_version=12, dynamo=False, input_names=["images"], dynamic_axes=axes)
    images = torch.rand(2, 3, 96, 64) if is_dynamic else IMAGE.flip(2)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        for output, expected in zip(outputs, flatten_tensors(model(images)), strict=True):
            np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-4)


class Gate(nn.Module):
    """A block of a program: scales its input by a sigmoid of a convolution."""

    def __init__(self, c1: int, c2: int, k: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, padding=k // 2)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x).sigmoid()


def test_a_program_may_add_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/compatibility.md shows it."""
    monkeypatch.setitem(yolo.NETWORK_LAYERS, "Gate", LayerSpec(Gate, resolve_scaled, supplied=("c1",)))
    graph: dict[str, Any] = small("yolov5n.yaml")
    graph["backbone"][-1] = [-1, 1, "Gate", [graph["backbone"][-1][3][0], 3]]
    network = yolo.Model(graph, ch=3, nc=2)
    gate = network.model[len(graph["backbone"]) - 1]
    assert isinstance(gate, Gate) and gate.conv.kernel_size == (3, 3)
    assert gate.conv.in_channels == gate.conv.out_channels == network.model[gate.i - 1].cv3.conv.out_channels
    assert [level.shape for level in network(IMAGE)] == [(1, 3, 64 // s, 96 // s, 7) for s in (8, 16, 32)]
