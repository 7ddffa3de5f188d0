"""Networks with semantic heads: sizes, outputs, strides, copies, dtypes, fusing, TTA, weights, checkpoints."""

from __future__ import annotations

import copy
import io
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from slim_networks import SLIM, flatten_tensors, randomize_norm_stats
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.checkpoint import save_checkpoint, transfer_weights
from models.graph import MODELS_DIR, load_model_yaml
from models.semantic_heads import PooledNorm
from models.summary import build_layer_table, count_flops, run_on_meta
from models.yolo import DetectionModel, JointModel, JointOutput, SemanticModel
from utils.core.errors import InputError
from utils.imaging.semantic_classes import SemanticClasses
from utils.tasks.networks import build_model, load_checkpoint
from utils.tasks.registry import find_graph_task

HEADS = ("base", "bise", "lab", "psp")
PARAMETERS = {  # of all but the head, of the heads in the order above
    "s": (7_087_815, (609664, 1754297, 1125459, 672275)),
    "m": (21_092_775, (1689408, 2212729, 2343059, 1509139)),
    "l": (46_679_815, (3613440, 2832953, 5035731, 2679827)),
}
GFLOPS = {"s": (9.9, 12.0, 9.0, 8.8), "m": (27.6, 13.3, 15.9, 19.7), "l": (59.1, 15.0, 28.7, 35.0)}
DETECTOR_GFLOPS = {"s": 20.9, "m": 64.4, "l": 146.0}


def slim(name: str, **overrides: Any) -> Any:
    """A narrow version of a shipped network with 3 and 5 classes and random norm statistics, in evaluation mode."""
    torch.manual_seed(0)
    config = {**load_model_yaml(name), **SLIM, "n_segcls": 5, "nc": 3, **overrides}
    model = build_model(config)
    return randomize_norm_stats(model)


@pytest.mark.parametrize("size", PARAMETERS)
@pytest.mark.parametrize("head", HEADS)
def test_parameters_and_flops_on_release_5(size: str, head: str) -> None:
    rest, heads = PARAMETERS[size]
    with torch.device("meta"):
        model = build_model(f"yolov5{size}-v5-{head}.yaml")
    total = sum(p.numel() for p in model.parameters())
    assert (total - model.semantic_head.np, model.semantic_head.np) == (rest, heads[HEADS.index(head)])
    assert (model.nc, model.semantic_head.nc, model.semantic_head.i, model.head.i) == (10, 19, 24, 25)
    totals: list[int] = []
    model.semantic_head.training = False  # as in use: without the auxiliary outputs
    with FlopCounterMode(display=False) as counter:
        run_on_meta(model, (512, 1024), visualize=lambda *_: totals.append(counter.get_total_flops()))
    before, after = totals[23:25]
    assert (after - before) / 1e9 == pytest.approx(GFLOPS[size][HEADS.index(head)], abs=0.051)
    assert (counter.get_total_flops() - after + before) / 1e9 == pytest.approx(DETECTOR_GFLOPS[size], abs=0.051)


GRAPHS = sorted(path.stem for path in (MODELS_DIR / "semantic").glob("*.yaml"))


def test_shipped_graphs() -> None:
    sizes = [f"yolov5{size}" for size in ("n", "s", "m", "l", "x", "s6")] + [f"yolov5{size}-v5" for size in "sml"]
    joint = {f"{size}-{head}" for size in sizes for head in HEADS}
    assert set(GRAPHS) == joint | {f"yolov5{size}-sem" for size in "nsmlx"}


def test_sizes_differ_in_their_multiples_only() -> None:
    rest = [{k: v for k, v in load_model_yaml(name).items() if "multiple" not in k} for name in GRAPHS]
    kinds = {name: re.sub(r"yolov5[nsmlx](?!6)", "yolov5", name) for name in GRAPHS}
    for name, config in zip(GRAPHS, rest, strict=True):
        first = rest[list(kinds.values()).index(kinds[name])]
        assert {**config, "yaml_file": ""} == {**first, "yaml_file": ""}
        plain = load_model_yaml(name.rpartition("-")[0])
        assert config["backbone"] == plain["backbone"]
        assert load_model_yaml(name).get("depth_multiple") == plain["depth_multiple"]
        assert load_model_yaml(name).get("width_multiple") == plain["width_multiple"]


@pytest.mark.parametrize("name", [name for name in GRAPHS if name.startswith(("yolov5n-", "yolov5s6-"))])
def test_task_of_every_kind_of_graph(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name)
    kind, task = (SemanticModel, "semantic") if name.endswith("-sem") else (JointModel, "joint")
    assert type(model) is kind
    assert model.task == find_graph_task(load_model_yaml(name)).name == task
    assert model.semantic == SemanticClasses.from_count(19)
    assert model.semantic_head.stride == 8
    assert int(model.stride.max()) == (64 if "6" in name else 32)
    table = build_layer_table(model, (128, 192))
    row = table[model.semantic_head.i]
    assert row.shape == (19, 128, 192)
    assert row.flops > 0
    assert count_flops(model, (128, 192)) == sum(r.flops for r in table)
    if task == "joint" and "-v5-" not in name:  # the detector's rows keep their numbers
        with torch.device("meta"):
            plain = build_model(name.rpartition("-")[0]).state_dict()
        own = model.state_dict()
        assert all(own[key].shape == value.shape for key, value in plain.items())


@pytest.mark.parametrize("name", ["yolov5n-psp", "yolov5s-v5-bise", "yolov5s6-lab"])
def test_joint_outputs(name: str) -> None:
    model, images = slim(name), torch.rand(1, 3, 64, 128)
    found = model(images)
    assert isinstance(found, JointOutput)
    boxes, maps = found.detection
    assert boxes.shape[2] == 8
    assert len(maps) == model.head.nl
    assert found.semantic.shape == (1, 5, 64, 128)
    trained = model.train()(torch.rand(2, 3, 128, 128))
    assert [raw.shape[-1] for raw in trained.detection] == [8] * model.head.nl
    outputs = flatten_tensors(trained.semantic)
    assert isinstance(trained.semantic, list) == name.endswith("bise")
    assert {tuple(o.shape) for o in outputs} == {(2, 5, 128, 128)}
    model.eval().head.export = True
    exported = model(images)
    assert [tuple(t.shape) for t in exported] == [tuple(boxes.shape), (1, 5, 64, 128)]


@pytest.mark.parametrize("name", ["yolov5n-base", "yolov5n-bise", "yolov5n-lab", "yolov5n-psp", "yolov5n-sem"])
def test_one_image_trains(name: str) -> None:
    model = slim(name).train()
    sum(t.float().sum() for t in flatten_tensors(model(torch.rand(1, 3, 64, 64)))).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()(torch.rand(1, 3, 64, 64))


def test_semantic_network() -> None:
    model = slim("yolov5n-sem")
    assert (model.nc, model.names, model.stride.tolist()) == (5, {i: str(i) for i in range(5)}, [32])
    assert model.head is model.semantic_head
    assert model(torch.rand(2, 3, 64, 96)).shape == (2, 5, 64, 96)
    assert len(model.yaml["backbone"]) + len(model.yaml["head"]) == 24


def test_class_numbers_override_the_yaml() -> None:
    joint = build_model({**load_model_yaml("yolov5n-psp"), **SLIM}, nc=2, n_segcls=7)
    assert (joint.nc, joint.semantic_head.nc, joint.yaml["n_segcls"], len(joint.semantic)) == (2, 7, 7, 7)
    config = {**load_model_yaml("yolov5n-sem"), **SLIM}
    for model in (build_model(config, nc=4), build_model(config, n_segcls=4), SemanticModel(config, n_segcls=4)):
        assert (model.nc, model.yaml["nc"], model.yaml["n_segcls"]) == (4, 4, 4)


def test_semantic_head_at_another_stride() -> None:
    config = {**load_model_yaml("yolov5n-sem"), **SLIM, "n_segcls": 5}
    config["head"] = [[[2, 6, 9], 1, "SegMaskPSP", ["n_segcls", 3, 256, False]]]
    model = SemanticModel(config)
    assert model.semantic_head.stride == 4
    assert model.eval()(torch.rand(1, 3, 64, 96)).shape == (1, 5, 64, 96)


def test_a_row_may_follow_the_semantic_head() -> None:
    config = {**load_model_yaml("yolov5n-sem"), **SLIM, "n_segcls": 5}
    config["head"] = [[[4, 6, 9], 1, "SegMaskPSP", ["n_segcls", 3, 256, False]], [9, 1, "Conv", [64]]]
    assert SemanticModel(config).eval()(torch.rand(1, 3, 64, 64)).shape == (1, 5, 64, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_segcls": 0}, "n_segcls: 0 is not a positive integer"),
        ({"n_segcls": 256}, "row 10: SegMaskPSP expects .*: 256 is not a number of classes from 1 to 255"),
        ({"head": [[[4, 6], 1, "SegMaskPSP", ["n_segcls", 3, 256]]]}, "2 inputs, but SegMaskPSP takes 3, finest first"),
        ({"head": [[[4, 6, 9], 1, "SegMaskPSP", ["n_segcls"]]]}, r"expected \[n_segcls, n, c, shortcut\]"),
        ({"head": [[[4, 6, 9], 1, "SegMaskPSP", ["n_segcls", 0, 256]]]}, "n 0 is not a positive integer"),
        ({"head": [[4, 1, "SegMaskBase", ["n_segcls", 3, 64]]] * 2}, "x.yaml: 2 semantic heads; use exactly one row"),
    ],
)
def test_rows_that_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    config = {**load_model_yaml("yolov5n-sem"), **SLIM, "n_segcls": 5, "yaml_file": "x.yaml"}
    config["head"] = [[[4, 6, 9], 1, "SegMaskPSP", ["n_segcls", 3, 256]]]
    with pytest.raises(InputError, match=message):
        build_model({**config, **changes})


def test_missing_number_of_classes_raises() -> None:
    config = load_model_yaml("yolov5n-psp")
    del config["n_segcls"]
    with pytest.raises(InputError, match=r"'n_segcls' is not a number of classes.*set n_segcls in the model YAML"):
        build_model(config)


def test_segment_with_a_semantic_head_raises() -> None:
    config = load_model_yaml("yolov5n-psp")
    config["head"][-2] = [[17, 20, 23], 1, "Segment", ["nc", "anchors", 32, 256]]
    with pytest.raises(InputError, match=r"yolov5n-psp.yaml: Segment beside a semantic head"):
        build_model(config)


THIN = [*(f"yolov5n-{head}" for head in HEADS), "yolov5s-v5-psp", "yolov5n-sem"]


@pytest.mark.parametrize("name", THIN)
def test_copies_and_pickles(name: str) -> None:
    model, images = slim(name), torch.rand(1, 3, 128, 64)
    model.semantic = SemanticClasses({i: f"class {i}" for i in range(5)})
    with torch.inference_mode():
        wanted = flatten_tensors(model(images))
        for twin in (copy.deepcopy(model), pickle.load(io.BytesIO(pickle.dumps(model)))):  # our own bytes
            assert twin.semantic == model.semantic
            assert all(torch.equal(a, b) for a, b in zip(flatten_tensors(twin(images)), wanted, strict=True))


@pytest.mark.parametrize("name", THIN)
def test_types_memory_format_and_fusing(name: str) -> None:
    model, images = slim(name), torch.rand(2, 3, 128, 64)
    with torch.inference_mode():
        wanted = flatten_tensors(model(images))
        fused = copy.deepcopy(model).fuse()
        assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
        model.to(memory_format=torch.channels_last)
        others = [model(images.to(memory_format=torch.channels_last)), fused(images)]
        for found in others:
            for a, b in zip(flatten_tensors(found), wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        for dtype, tolerance in ((torch.bfloat16, 0.05), (torch.float16, 0.01)):
            low = copy.deepcopy(model).to(dtype)
            for a, b in zip(flatten_tensors(low(images.to(dtype))), wanted, strict=True):
                assert a.dtype in (dtype, torch.float32)  # decoded boxes are of FP32
                assert (a.float() - b).abs().max() <= tolerance * b.abs().max()


def test_constants_of_unfused_norms() -> None:
    norms = [m for m in slim("yolov5n-psp").modules() if isinstance(m, PooledNorm)]
    assert [(norm.eps, norm.momentum) for norm in norms] == [(1e-3, 0.03)]


@pytest.mark.parametrize("name", ["yolov5n-psp", "yolov5n-sem"])
def test_tta_averages_probabilities(name: str) -> None:
    """A network whose logits depend on a pixel's own class color agrees with itself in every view."""
    model, images = slim(name), torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        found = model(images, augment=True)
        logits = found.semantic if name.endswith("psp") else found
        assert logits.shape == (2, 5, 64, 96)
        torch.testing.assert_close(logits.exp().sum(dim=1), torch.ones(2, 64, 96))
        if name.endswith("psp"):
            boxes, maps = found.detection
            detector = DetectionModel({**load_model_yaml("yolov5n"), **SLIM, "nc": 3}).eval()
            detector.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("model.25.")})
            assert torch.equal(boxes, detector(images, augment=True)[0])
            assert maps is None


def test_tta_restores_scale_and_mirroring(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network that gives the image itself as logits, mirrored and padded views give the image again."""
    model = slim("yolov5n-sem")
    monkeypatch.setattr(model, "_run", lambda image: image * 20)
    images = torch.zeros(1, 3, 96, 160)
    images[:, 0, :, :40], images[:, 1, :48, 40:], images[:, 2, 48:, 40:] = 1, 1, 1
    found = model(images, augment=True).argmax(1)
    wanted = images.argmax(1)
    assert (found == wanted).float().mean() > 0.98


@pytest.mark.parametrize("name", ["yolov5n-psp", "yolov5s-v5-lab"])
def test_weights_of_a_detector_are_transferred(name: str) -> None:
    plain = name.rpartition("-")[0]
    detector, model = slim(plain), slim(name)
    count = len(detector.state_dict())
    taken, total = transfer_weights(model, detector.state_dict())
    assert (taken, total) == (count, len(model.state_dict()))
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(images).detection[0], detector(images)[0])
    again = slim(name)
    taken, total = transfer_weights(again, model.state_dict())
    assert taken == total


def test_weights_of_a_detector_are_transferred_to_a_semantic_network() -> None:
    detector, model = slim("yolov5n"), slim("yolov5n-sem")
    own = [key for key in model.state_dict() if not key.startswith("model.23.")]
    assert transfer_weights(model, detector.state_dict())[0] == len(own)


def payload(model: Any, **others: Any) -> dict[str, Any]:
    values = {"task": model.task, "yaml": model.yaml, "names": model.names, "model": model.state_dict()}
    return {**values, "semantic": model.semantic.to_dict(), **others}


@pytest.mark.parametrize("name", ["yolov5n-bise", "yolov5s-v5-psp", "yolov5n-sem"])
def test_checkpoint_keeps_classes_and_outputs(name: str, tmp_path: Path) -> None:
    model, images = slim(name), torch.rand(1, 3, 64, 64)
    palette = tuple((i, 0, 255 - i) for i in range(5))
    model.semantic = SemanticClasses({i: f"class {i}" for i in range(5)}, palette, 200, (7, 8, 11, 12, 13))
    save_checkpoint(tmp_path / "a.pt", payload(model))
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert (loaded.task, loaded.model.semantic, loaded.model.names) == (model.task, model.semantic, model.names)
    with torch.inference_mode():
        found, wanted = flatten_tensors(loaded.model(images)), flatten_tensors(model(images))
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_checkpoint_without_or_with_wrong_classes(tmp_path: Path) -> None:
    model, path = slim("yolov5n-sem"), tmp_path / "a.pt"
    save_checkpoint(path, payload(model, semantic=None))
    assert load_checkpoint(path).model.semantic == SemanticClasses.from_count(5)
    save_checkpoint(path, payload(model, semantic={"names": {0: "a"}}))
    with pytest.raises(InputError, match=r"a.pt: damaged checkpoint, semantic: 1 classes, its graph has 5"):
        load_checkpoint(path)
    save_checkpoint(path, payload(model, semantic={"names": {1: "a"}}))
    with pytest.raises(InputError, match=r"a.pt: damaged checkpoint, semantic: names"):
        load_checkpoint(path)


def test_official_weights_are_transferred_to_a_joint_network(shared: Path) -> None:
    source = load_checkpoint(shared / "weights/yolov5n.pt")
    model = build_model("yolov5n-psp.yaml").eval()
    assert transfer_weights(model, source.state_dict)[0] == 349
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(images).detection[0], source.model(images)[0])
