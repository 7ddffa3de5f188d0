"""Official checkpoints: the real yolov5n.pt, and files constructed here as older releases wrote them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import common, experimental, yolo
from models.classifiers import build_classifier
from models.graph import load_model_yaml
from models.yolo import ClassificationModel, DetectionModel, SegmentationModel
from utils.core.errors import InputError
from utils.imaging.letterbox import letterbox
from utils.imaging.read import read_image
from utils.tasks.networks import load_checkpoint, load_model

IMAGE = torch.linspace(0, 1, 3 * 64 * 96).reshape(1, 3, 64, 96)


def small(name: str, **changes: Any) -> dict[str, Any]:
    """A shipped graph with an eighth of the width."""
    return {**load_model_yaml(name), "width_multiple": 0.125, "nc": 3, **changes}


def randomize_norms(model: nn.Module) -> nn.Module:
    """Set random batch-norm statistics and evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.half().float().eval()


def boxes(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IMAGE)[0]


def write(path: Path, model: nn.Module, **others: Any) -> Path:
    """A file with the keys of a released checkpoint around a pickled FP16 model."""
    half = copy.deepcopy(model).half()
    torch.save({"epoch": -1, "best_fitness": None, "model": half, "ema": None, "optimizer": None, **others}, path)
    return path


@pytest.mark.parametrize("image", ["bus", "zidane"])
def test_official_file_equals_reference_boxes(shared: Path, image: str) -> None:
    checkpoint = load_checkpoint(shared / "weights" / "yolov5n.pt")
    golden = np.load(shared / "reference" / "golden" / "yolov5n_coco.npz")
    frame, _ = letterbox(read_image(shared / "data" / "images" / f"{image}.jpg"), (640, 640), auto=True)
    images = torch.from_numpy(frame[..., ::-1].transpose(2, 0, 1).copy()).unsqueeze(0).float() / 255
    assert list(images.shape) == golden[f"{image}_input_shape"].tolist()
    with torch.no_grad():
        decoded = checkpoint.model(images)[0].numpy()
    difference = np.abs(decoded - golden[f"{image}_decoded"])
    assert difference[..., :4].max() < 1e-4 * 640
    assert difference[..., 4:].max() < 1e-4


def test_official_file_metadata(shared: Path) -> None:
    file = shared / "weights" / "yolov5n.pt"
    checkpoint = load_checkpoint(file)
    assert checkpoint.official
    assert (checkpoint.task, checkpoint.epoch, len(checkpoint.state_dict)) == ("detect", -1, 349)
    assert (checkpoint.names[0], checkpoint.names[79], len(checkpoint.names)) == ("person", "toothbrush", 80)
    assert checkpoint.hyp["lr0"] == 0.01
    assert checkpoint.yaml["ch"] == 3
    assert len(load_model(file).state_dict()) == 121  # batch norms folded in


def test_training_file_of_7_0_with_numpy_and_paths(tmp_path: Path) -> None:
    """Constructed: weights of the EMA win; numpy numbers, paths in opt and a list of names are read."""
    model, ema = (randomize_norms(DetectionModel(small("yolov5n.yaml"))) for _ in range(2))
    ema.names = ["a", "b", "c"]
    ema.hyp = {"lr0": 0.01}
    file = write(
        tmp_path / "last.pt",
        model,
        epoch=7,
        best_fitness=np.array([0.25]),
        ema=copy.deepcopy(ema).half(),
        updates=12,
        optimizer={"state": {}, "param_groups": [{"lr": np.float64(0.01), "params": [0]}]},
        opt={"project": Path("runs/train"), "hyp": {"lr0": 0.5}},
        git={"remote": None},
    )
    checkpoint = load_checkpoint(file)
    assert checkpoint.epoch == 7
    assert checkpoint.names == {0: "a", 1: "b", 2: "c"}
    assert checkpoint.opt["project"] == "runs/train"
    assert checkpoint.hyp == {"lr0": 0.01}
    assert checkpoint.raw["best_fitness"].tolist() == [0.25]
    assert torch.equal(boxes(checkpoint.model), boxes(ema))
    assert not torch.equal(boxes(checkpoint.model), boxes(model))


@contextmanager
def addressed(**addresses: tuple[type, str]) -> Iterator[None]:
    """Classes that pickle under another address for a while: Name=(class, "module")."""
    before = [(kind, kind.__module__, kind.__qualname__) for kind, _ in addresses.values()]
    for name, (kind, module) in addresses.items():
        kind.__module__, kind.__qualname__ = module, name
    try:
        yield
    finally:
        for kind, module, name in before:
            kind.__module__, kind.__qualname__ = module, name


def age_to_3_1(model: DetectionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn a model into what release 3.1 pickled: old names, no later attributes, other caches."""
    monkeypatch.delattr(yolo.Detect, "__getstate__")
    head = model.model[-1]
    pixels = (head.anchors * head.stride.view(-1, 1, 1)).view(head.nl, 1, head.na, 1, 1, 2)
    del head.anchor_grid, head.inplace, model.inplace, model.yaml_file, model.nc
    head.register_buffer("anchor_grid", pixels)
    head.grid = [torch.zeros(1, head.na, 8 >> i, 12 >> i, 2) for i in range(head.nl)]  # without today's half cell
    head.export = True
    model.names = ["a", "b", "c"]
    for key in ("ch", "activation", "yaml_file"):
        model.yaml.pop(key, None)
    for module in model.modules():
        for name in ("recompute_scale_factor", "_forward_hooks_with_kwargs", "_backward_pre_hooks"):
            module.__dict__.pop(name, None)
        if isinstance(module, nn.Hardswish):
            module.__dict__.pop("inplace", None)


def test_release_3_1_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constructed: Model, Hardswish and LeakyReLU, anchor_grid as a buffer, attributes missing, stale grids."""
    model = randomize_norms(DetectionModel(small("yolov5s-v3.yaml")))
    expected = boxes(model)
    with monkeypatch.context() as patch, addressed(Model=(DetectionModel, "models.yolo")):
        age_to_3_1(model, patch)
        file = tmp_path / "v3.pt"
        torch.save({"epoch": -1, "model": model, "optimizer": None, "training_results": None}, file)
    checkpoint = load_checkpoint(file)
    assert torch.equal(boxes(checkpoint.model), expected)
    assert not [key for key in checkpoint.state_dict if "anchor_grid" in key]
    assert checkpoint.names == {0: "a", 1: "b", 2: "c"}
    assert checkpoint.model.nc == 3
    assert checkpoint.yaml["ch"] == 3
    assert checkpoint.yaml["activation"] == {"Conv": "nn.Hardswish()", "BottleneckCSP": "nn.LeakyReLU(0.1)"}
    again = DetectionModel(checkpoint.yaml).eval()  # the description alone makes the same network
    again.load_state_dict(checkpoint.state_dict)
    assert torch.equal(boxes(again), expected)


@pytest.mark.parametrize("name", ["yolov5s-v1.yaml", "yolov5s-v4.yaml", "yolov5s-v5.yaml", "yolov5s-ghost.yaml"])
def test_other_graphs_keep_their_boxes(tmp_path: Path, name: str) -> None:
    """Constructed: old stems, and Ghost blocks at their address up to release 5."""
    model = randomize_norms(DetectionModel(small(name)))
    expected = boxes(model)
    rare = "models.experimental"
    with addressed(GhostConv=(common.GhostConv, rare), GhostBottleneck=(common.GhostBottleneck, rare)):
        if "v1" in name:  # no output convolutions in the head, description under another name
            del model.model[-1]._modules["m"]
            model.md = model.__dict__.pop("yaml")
        file = write(tmp_path / "old.pt", model)
    checkpoint = load_checkpoint(file)
    assert torch.equal(boxes(checkpoint.model), expected)
    assert checkpoint.yaml["nc"] == 3


def test_rare_blocks_of_old_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constructed: experimental.C3 up to 3.1, and MixConv2d up to 5.0, which added its input."""

    monkeypatch.setattr(experimental, "C3", experimental.C3Cross, raising=False)
    monkeypatch.setattr(experimental, "MixConv2d", experimental.MixConv2dResidual)
    model = DetectionModel(small("yolov5s-v3.yaml"))
    row = model.model[2]
    channels = row.cv1.conv.in_channels
    block = nn.Sequential(
        experimental.C3Cross(channels, channels, 1), experimental.MixConv2dResidual(channels, channels)
    )
    for key in ("i", "f", "type", "np"):
        setattr(block, key, getattr(row, key))
    model.model[2] = block
    randomize_norms(model)
    rare = "models.experimental"
    with addressed(
        C3=(experimental.C3Cross, rare),
        MixConv2d=(experimental.MixConv2dResidual, rare),
        CrossConv=(common.CrossConv, rare),
    ):
        file = write(tmp_path / "c3.pt", model)
    monkeypatch.undo()
    assert torch.equal(boxes(load_checkpoint(file).model), boxes(model))


def test_classifier_before_6_2(tmp_path: Path) -> None:
    """Constructed: a Model that ends in the pooled 1x1 convolution."""
    model = randomize_norms(DetectionModel(small("yolov5n.yaml")))
    head = experimental.PooledClassify(32, 4)
    for key, value in (("i", 9), ("f", -1), ("type", "models.common.Classify"), ("np", 132)):
        setattr(head, key, value)
    model.model, model.save = nn.Sequential(*model.model[:7], head), []
    width = model.model[6].cv3.conv.out_channels
    head.conv = nn.Conv2d(width, 4, 1)
    model.eval()
    with (
        addressed(
            Classify=(experimental.PooledClassify, "models.common"), Flatten=(experimental.Flatten, "models.common")
        ),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(common, "Classify", experimental.PooledClassify)
        patch.setattr(common, "Flatten", experimental.Flatten, raising=False)
        file = write(tmp_path / "cls.pt", model.half().float())
    checkpoint = load_checkpoint(file)
    assert (checkpoint.task, checkpoint.model.nc) == ("classify", 4)
    with torch.no_grad():
        assert torch.equal(checkpoint.model(IMAGE), model(IMAGE))


def test_transformer_and_stored_inner_linear(tmp_path: Path) -> None:
    """Constructed: MultiheadAttention without batch_first, as torch up to 1.8 pickled it."""
    model = randomize_norms(DetectionModel(small("yolov5s-transformer.yaml")))
    expected = boxes(model)
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            del module.batch_first
    assert torch.equal(boxes(load_checkpoint(write(tmp_path / "tr.pt", model)).model), expected)


def test_segmentation_with_its_stored_function(tmp_path: Path) -> None:
    """Constructed: `detect` is pickled through getattr; a plain Model with a Segment head is a segmenter too."""
    model = randomize_norms(SegmentationModel(small("yolov5n-seg.yaml")))
    file = write(tmp_path / "seg.pt", model)
    assert b"getattr" in file.read_bytes()
    checkpoint = load_checkpoint(file)
    assert (checkpoint.task, type(checkpoint.model)) == ("segment", SegmentationModel)
    assert checkpoint.model.model[-1].detect is yolo.Detect.forward
    assert torch.equal(boxes(checkpoint.model), boxes(model))
    model.__class__ = DetectionModel
    assert load_checkpoint(write(tmp_path / "seg.pt", model)).task == "segment"


def foreign_class(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> type:
    """A class at an address of the original, made for pickling."""
    holder = ModuleType(module)
    made = type(name, (nn.Module,), {"__module__": module})
    setattr(holder, name, made)
    monkeypatch.setitem(sys.modules, module, holder)
    return made


def test_classifier_with_image_transforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constructed: no YAML, transforms of torchvision and of the original, which are not rebuilt."""
    model = randomize_norms(ClassificationModel(small("yolov5n.yaml"), nc=5))
    del model.yaml, model.inplace, model.yaml_file
    model.transforms = [foreign_class("utils.augmentations", "CenterCrop", monkeypatch)()]
    file = write(tmp_path / "cls.pt", model, opt={"save_dir": Path("runs/train-cls/exp")})
    checkpoint = load_checkpoint(file)
    assert (checkpoint.task, checkpoint.model.nc) == ("classify", 5)
    rebuilt = build_classifier(checkpoint.yaml, 5)  # the file has no YAML: the layers tell it
    rebuilt.load_state_dict(checkpoint.state_dict)
    assert torch.equal(rebuilt.eval()(IMAGE), checkpoint.model(IMAGE))
    assert not hasattr(checkpoint.model, "transforms")
    with torch.no_grad():
        assert torch.equal(checkpoint.model(IMAGE), model(IMAGE))


def test_fused_conv_without_norm(tmp_path: Path) -> None:
    """Constructed: fused files have Conv blocks without `bn`."""
    model = randomize_norms(DetectionModel(small("yolov5n.yaml"))).fuse()
    for module in model.modules():
        if isinstance(module, common.Conv):
            del module._modules["bn"]
    loaded = load_checkpoint(write(tmp_path / "fused.pt", model)).model
    for module in model.modules():
        if isinstance(module, common.Conv):
            module.bn = None
    assert torch.equal(boxes(loaded), boxes(model.half().float()))


def test_hooks_and_replaced_methods_are_dropped(tmp_path: Path) -> None:
    """Constructed: a network that would run something else when called."""
    model = randomize_norms(DetectionModel(small("yolov5n.yaml")))
    expected = boxes(model)
    conv = model.model[0].conv
    conv._forward_hooks[0] = torch.Tensor
    conv.__dict__["forward"] = torch.Size
    conv.__dict__["_compiled_call_impl"] = set
    model.__dict__["extra"] = [nn.Identity()]
    loaded = load_checkpoint(write(tmp_path / "hooked.pt", model)).model
    assert not loaded.model[0].conv._forward_hooks
    assert "forward" not in vars(loaded.model[0].conv)
    assert not hasattr(loaded, "extra")
    assert torch.equal(boxes(loaded), expected)


def test_activation_objects_are_shared_as_they_were(tmp_path: Path) -> None:
    model = randomize_norms(DetectionModel(small("yolov5n.yaml")))
    loaded = load_checkpoint(write(tmp_path / "a.pt", model)).model
    assert len({id(m.act) for m in loaded.modules() if isinstance(m, common.Conv)}) == 1


def test_files_without_a_network_are_refused(tmp_path: Path) -> None:
    model = DetectionModel(small("yolov5n.yaml"))
    headless = copy.deepcopy(model)
    headless.model = headless.model[:-1]
    no_origin = copy.deepcopy(model)
    del no_origin.model[3].f
    cases: list[tuple[Any, str]] = [
        (model.state_dict(), "holds weights without their network"),
        (
            {"model": model.state_dict(), "epoch": 3},
            "holds weights without their network; give a checkpoint of train.py",
        ),
        ({"model": None}, "holds no network"),
        ([1, 2], "holds no network"),
        ({"model": nn.Conv2d(1, 1, 1)}, "cannot be used as a network: .*Conv2d is not a network"),
        ({"model": headless}, "the last layer, C3, is not a head"),
        ({"model": no_origin}, "the layers do not name their inputs"),
    ]
    for content, message in cases:
        file = tmp_path / "a.pt"
        torch.save(content, file)
        with pytest.raises(InputError, match=message):
            load_checkpoint(file)
