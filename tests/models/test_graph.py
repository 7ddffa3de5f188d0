"""Model YAML parser: grammar, errors that name the row, activations per model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models import graph
from models.graph import find_model_yaml, load_model_yaml, parse_value
from models.yolo import DetectionModel
from utils.core.errors import InputError

NAMES = {"nc": 80, "na": 3, "no": 255, "anchors": [[1, 2]]}


def config(backbone: list[Any], head: list[Any] | None = None, **other: Any) -> dict[str, Any]:
    """A small graph of full width; the head is two levels of nothing unless given."""
    return {"nc": 2, "anchors": [[1, 2, 3, 4]], "backbone": backbone, "head": head or [], **other}


def build(*args: Any, **kwargs: Any) -> DetectionModel:
    return DetectionModel(config(*args, **kwargs))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("nc", 80, id="name"),
        pytest.param("na * (nc + 5)", 255, id="arithmetic"),
        pytest.param("-7 // 2 + 2 * 3.5 % 4 - 1 / 4", -4 + 3.0 - 0.25, id="operators"),
        pytest.param("None", None, id="none"),
        pytest.param("True", True, id="true"),
        pytest.param("nearest", "nearest", id="unknown word"),
        pytest.param("'nc'", "nc", id="quoted"),
        pytest.param("[nc, [1, None]]", [80, [1, None]], id="list in text"),
        pytest.param(["nc", ["na", 5]], [80, [3, 5]], id="nested list"),
        pytest.param("anchors", [[1, 2]], id="anchors"),
        pytest.param(1.5, 1.5, id="number"),
        pytest.param("", "", id="empty"),
        pytest.param("a b", "a b", id="no expression"),
        pytest.param("2 * nearest", "2 * nearest", id="arithmetic on a word"),
        pytest.param("'a' * 9", "'a' * 9", id="arithmetic on text"),
        pytest.param("9 ** 9 ** 9", "9 ** 9 ** 9", id="no powers"),
        pytest.param("__import__('os').getcwd()", "__import__('os').getcwd()", id="no import"),
        pytest.param("nn.Module.__subclasses__()", "nn.Module.__subclasses__()", id="no attributes"),
        pytest.param("nn.init.zeros_(3)", "nn.init.zeros_(3)", id="no functions"),
        pytest.param("(lambda: 1)()", "(lambda: 1)()", id="no lambda"),
    ],
)
def test_values(text: Any, value: Any) -> None:
    assert parse_value(text, NAMES) == value


def test_values_that_are_modules() -> None:
    leaky = parse_value("nn.LeakyReLU(0.1, inplace=True)", {})
    assert isinstance(leaky, nn.LeakyReLU)
    assert (leaky.negative_slope, leaky.inplace) == (0.1, True)
    assert type(parse_value("Hardswish()", {})).__module__ == "utils.activations"


@pytest.mark.parametrize("text", ["1 / 0", "nn.LeakyReLU(1, 2, 3)"])
def test_values_that_cannot_be_evaluated(text: str) -> None:
    with pytest.raises(ValueError, match=text.split("(")[0].replace(".", r"\.")):
        parse_value(text, {})


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("yolov5s", ""),
        ("yolov5s.yaml", ""),
        ("yolov5s6", "hub"),
        ("hub/yolov5s6.yaml", "hub"),
        ("yolov5s-seg.yaml", "segment"),
        ("yolov5s-v3", "legacy"),
    ],
)
def test_shipped_names_are_found(name: str, folder: str) -> None:
    assert find_model_yaml(name) == graph.MODELS_DIR / folder / f"{Path(name).stem}.yaml"


def test_unknown_name_lists_near_ones() -> None:
    with pytest.raises(InputError, match=r"^yolov5z: no such model YAML; near: yolov5[nsmlx]"):
        load_model_yaml("yolov5z")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("nc: [", "not valid YAML", id="syntax"),
        pytest.param("{nc: 1, backbone: [], head: []}", "backbone and head have no rows", id="no rows"),
        pytest.param("- 1", "expected keys nc, anchors, backbone, head", id="list"),
        pytest.param("{nc: 80, backbone: []}", r"head: expected a list of rows", id="no head"),
        pytest.param("{nc: 0, backbone: [[]], head: []}", "nc: 0 is not a positive integer", id="nc"),
        pytest.param("{backbone: [[]], head: []}", "nc: None is not a positive integer", id="no nc"),
        pytest.param("{nc: 1, ch: 2.5, backbone: [[]], head: []}", "ch: 2.5 is not", id="ch"),
        pytest.param("{nc: 1, width_multiple: 0, backbone: [[]], head: []}", "width_multiple: 0 is not", id="width"),
        pytest.param(
            "{nc: 1, anchors: [[1, 2, 3]], backbone: [[]], head: []}", r"level 0: \[1, 2, 3\] is not", id="odd"
        ),
        pytest.param(
            "{nc: 1, anchors: [[1, 2], [1, 2, 3, 4]], backbone: [[]], head: []}", "level 1 has 4", id="uneven"
        ),
        pytest.param("{nc: 1, anchors: [], backbone: [[]], head: []}", "anchors: level 0: None", id="no anchors"),
    ],
)
def test_invalid_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "net.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=rf"net\.yaml\S* .*{message}"):
        load_model_yaml(file)


def test_misspelled_key_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="openyolov5"):
        load_model_yaml(config([[]], width_multple=0.5))
    assert "unknown key 'width_multple' ignored; did you mean 'width_multiple'?" in caplog.text


CONV = [-1, 1, "Conv", [8, 3, 2]]
TWO = [CONV, CONV]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param(
            [[-1, 1, "C3", []]],
            r"row 0: C3 expects \[c2, shortcut=True, g=1, e=0.5\], got \[\]: .* missing",
            id="no c2",
        ),
        pytest.param([[-1, 1, "C3", [8, True, 1, 0.5, 9]]], r"row 0: C3 expects .*too many positional", id="too many"),
        pytest.param(
            [[-1, 1, "Conv", ["wide"]]], r"row 0: Conv expects .*'wide' is not a number of channels", id="text"
        ),
        pytest.param([CONV, [-1, 1, "Conv", [8, "k"]]], r"row 1: Conv expects \[c2, k=1, s=1, p=None", id="kernel"),
        pytest.param([[-1, 1, "c3", [8]]], r"row 0: unknown layer 'c3'; near: C3", id="case"),
        pytest.param([[-1, 1, "SSPF", [8]]], r"unknown layer 'SSPF'; near: SPP", id="typo"),
        pytest.param([[-1, 1, "nn.Upsampel", [8]]], r"unknown layer 'nn.Upsampel'; near: nn.Upsample", id="torch typo"),
        pytest.param([[-1, 1, "nn.init", []]], "unknown layer 'nn.init'", id="not a module"),
        pytest.param([CONV, [5, 1, "Conv", [8]]], r"row 1: from 5 is not an earlier row; expected 0 to 0", id="later"),
        pytest.param([CONV, [[-1, -3], 1, "Concat", [1]]], r"row 1: from -3 is not an earlier row", id="before first"),
        pytest.param([CONV, [[-1, 0], 1, "Conv", [8]]], r"row 1: Conv takes one input, from lists 2", id="two inputs"),
        pytest.param([[0, 1, "Conv", [8]]], "row 0: from 0 is not an earlier row; expected -1, the image", id="first"),
        pytest.param([[-1, "n", "Conv", [8]]], "row 0: number 'n' is not a positive integer", id="number"),
        pytest.param([[-1, 1, "Conv", 8]], "row 0: arguments 8 are not a list", id="arguments"),
        pytest.param([[-1, 1, "Conv"]], r"row 0: expected \[from, number, layer, arguments\]", id="short"),
        pytest.param(
            [CONV, [[0, -1], 1, "Detect", ["nc", "anchors"]]],
            "row 1: Detect expects .*1 anchor lists for 2",
            id="levels",
        ),
        pytest.param(
            [CONV, [[], 1, "Detect", ["nc", "anchors"]]], "row 1: no earlier row has the 14 channels", id="open"
        ),
        pytest.param(
            [CONV, [-1, 1, "Expand", [3]]], "row 1: Expand expects .*8 channels are not divisible by 9", id="expand"
        ),
        pytest.param([CONV, [-1, 1, "nn.Linear", ["1 / 0"]]], "row 1: '1 / 0': division by zero", id="arithmetic"),
    ],
)
def test_invalid_rows_are_named(rows: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^net\.yaml: .*{message}"):
        build(rows, yaml_file="net.yaml")


def test_repeats_and_widths() -> None:
    """Numbers above one scale with the depth, widths round up to eights, output maps keep theirs."""
    rows = [[-1, 1, "Conv", [20]], [-1, 4, "C3", [20]], [-1, 3, "Conv", [40]], [-1, 1, "nn.Conv2d", ["no", 1]]]
    model = build(rows, depth_multiple=0.5, width_multiple=0.5)
    conv, c3, several, output = model.model
    assert conv.conv.out_channels == 16  # 20 / 2 = 10
    assert len(c3.m) == 2
    assert isinstance(several, nn.Sequential)
    assert len(several) == 2  # 3 / 2 = 1.5, rounded to even
    assert output.out_channels == 14  # 2 anchors x (2 + 5)
    assert c3.np == sum(p.numel() for p in c3.parameters())
    assert [layer.type for layer in model.model][:3] == ["models.common.Conv", "models.common.C3", "models.common.Conv"]


def test_saved_outputs_and_channels_of_joins() -> None:
    rows = [CONV, CONV, [[-1, 0], 1, "Contract", [2]]]
    with pytest.raises(InputError, match="Contract takes one input"):
        build(rows)
    rows = [[-1, 1, "Conv", [8]], [-1, 1, "Conv", [16]], [[-1, 0, -2], 1, "Concat", [1]], [-2, 1, "nn.BatchNorm2d", []]]
    rows += [[2, 1, "Contract", [2]], [-1, 1, "Expand", [4]], [-1, 1, "nn.ReLU", []], [-1, 1, "Conv", [8]]]
    model = build(rows)
    assert model.save == [0, 1, 2]
    assert model.model[3].num_features == 16
    assert model.model[7].conv.in_channels == 8  # (16 + 8 + 8) * 4 / 16
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 8, 16, 16)


def test_anchor_number_gives_placeholders() -> None:
    model = build([CONV, CONV], [[[0, 1], 1, "Detect", ["nc", "anchors"]]], anchors=2)
    assert (model.head.nl, model.head.na) == (2, 2)
    assert (model.head.anchors[0] * model.stride[0]).flatten().tolist() == [0, 1, 2, 3]


def test_anchors_written_in_the_row() -> None:
    rows = [[[0, 1], 1, "Detect", ["nc", [[1, 2], [3, 4]]]]]
    head = DetectionModel({"nc": 2, "backbone": TWO, "head": rows}).head
    assert (head.anchors * head.stride.view(-1, 1, 1)).flatten().tolist() == [1, 2, 3, 4]
    assert DetectionModel({"nc": 2, "anchors": 2.0, "backbone": TWO, "head": rows}).yaml["anchors"] == 2


def test_activation_stays_with_its_model() -> None:
    before, leaky, after = (build(TWO, activation=text) for text in (None, "nn.LeakyReLU(0.2)", None))
    kinds = [[type(layer.act) for layer in model.model] for model in (before, leaky, after)]
    assert kinds == [[nn.SiLU] * 2, [nn.LeakyReLU] * 2, [nn.SiLU] * 2]
    assert leaky.model[0].act is leaky.model[1].act
    assert before.model[0].act is not after.model[0].act


def test_activation_per_block() -> None:
    rows = [[-1, 1, "BottleneckCSP", [8]], [-1, 1, "DWConv", [8]], [-1, 1, "Conv", [8, 1, 1, None, 1, 1, "nn.ReLU()"]]]
    rows += [[-1, 1, "MixConv2d", [8]], [-1, 1, "GhostBottleneck", [8]]]
    per_block = {"Conv": "nn.Hardswish()", "BottleneckCSP": "nn.LeakyReLU(0.1)", "DWConv": "nn.Tanh()"}
    csp, depthwise, own, mixed, ghost = build(rows, activation=per_block).model
    assert isinstance(csp.act, nn.LeakyReLU)
    assert csp.act.negative_slope == 0.1
    assert {type(m.act) for m in csp.modules() if hasattr(m, "conv")} == {nn.Hardswish}
    assert [type(m.act) for m in (depthwise, own, mixed)] == [nn.Tanh, nn.ReLU, nn.SiLU]
    assert isinstance(ghost.conv[2].cv1.act, nn.Identity)


def test_activation_must_be_a_module() -> None:
    with pytest.raises(InputError, match=r"activation: 'nn\.LeakyRelu' is not an activation"):
        build(TWO, activation="nn.LeakyRelu")


@pytest.mark.parametrize(("tag", "expected"), [("v1", ("LeakyReLU", "LeakyReLU")), ("v3", ("Hardswish", "LeakyReLU"))])
def test_activations_of_old_releases(tag: str, expected: tuple[str, str]) -> None:
    with torch.device("meta"):
        model = DetectionModel(f"yolov5s-{tag}")
    assert (type(model.model[1].act).__name__, type(model.model[2].act).__name__) == expected
    assert type(model.model[2].cv1.act).__name__ == expected[0]


def test_anchor_lists_of_the_hub() -> None:
    found = graph._read_yaml(graph.MODELS_DIR / "hub" / "anchors.yaml")
    assert list(found) == ["p5_640", "p6_640", "p6_1280", "p6_1920", "p7_640", "p7_1280", "p7_1920"]
    assert found["p5_640"] == load_model_yaml("yolov5s")["anchors"]
    assert found["p6_1280"] == load_model_yaml("yolov5s6")["anchors"]
    assert [len(levels) for levels in found.values()] == [3, 4, 4, 4, 5, 5, 5]
    assert all(len(level) == 6 for levels in found.values() for level in levels)


HEAD = [[0, 1], 1, "Detect", ["nc", "anchors"]]


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        pytest.param([[-1, 9, "Conv", [8]]], {"depth_multiple": 1e9}, "9,000,000,000 repeats, the limit", id="depth"),
        pytest.param([[-1, 10**9, "nn.ReLU", []]], {}, "1,000,000,000 repeats, the limit is 10,000", id="repeats"),
        pytest.param([[-1, 9999, "C3", [8]]], {}, "20,001 modules and tensors, the limit is 20,000", id="modules"),
        pytest.param(
            [CONV, [-1, 1, "Conv", [64]]], {"width_multiple": 1e7}, "parameters, the limit is 500", id="width"
        ),
        pytest.param(
            [[-1, 1, "Conv", [10**9]]], {}, "parameters, the limit is 500,000,000; use --no-limits", id="wide"
        ),
        pytest.param([[-1, 1, "Conv", [8, 6000]]], {}, "864,000,000 parameters", id="kernel"),
        pytest.param([[-1, 1, "nn.PReLU", [2 * 10**9]]], {}, "2,000,000,000 parameters", id="layer of torch"),
        pytest.param(
            [[-1, 1, "Conv", [8, 1, 1, None, 1, 1, "nn.PReLU(2*1000000000)"]]], {}, "2,000,0", id="expression"
        ),
        pytest.param(
            TWO, {"activation": "nn.PReLU(2000000000)"}, "activation: 2,000,000,858 parameters", id="activation"
        ),
        pytest.param(
            [*TWO, HEAD], {"anchors": 1e9}, "1,000,000,000 anchors per level, the limit is 1,000", id="anchors"
        ),
        pytest.param(TWO, {"nc": 10**9}, "nc: 1,000,000,000 classes, the limit is 100,000", id="classes"),
        pytest.param([CONV] * 2001, {}, "2,001 rows, the limit is 2,000", id="rows"),
        pytest.param([[[-1] * 1001, 1, "Concat", [1]]], {}, "row 0: more than 1000 values", id="inputs"),
        pytest.param([[-1, 1, "SPP", [8, [3] * 1001]]], {}, "row 0: more than 1000 values", id="arguments"),
        pytest.param([[-1, 1, "nn.LSTM", [8, 8, 10**9]]], {}, "unknown layer 'nn.LSTM'", id="recurrent layer"),
        pytest.param(
            [[-1, 1, "nn.Linear", ["2" * 1001]]], {}, r"Linear expects .*got .*'2222.*\.\.\.: ", id="long text"
        ),
        pytest.param(
            [CONV, [-1, 1, "nn.Upsample", [None, 500]], [-1, 1, "Conv", [8]], [[0, 2], 1, "Detect", ["nc", "anchors"]]],
            {},
            r"row 1: 32,768,000,000 values in the output for an image of 256 px, the limit is",
            id="output",
        ),
    ],
)
def test_small_files_that_ask_for_much(rows: list[Any], changes: dict[str, Any], message: str) -> None:
    anchors = {"anchors": [[1, 2], [3, 4]]}
    with pytest.raises(InputError, match=rf"^net\.yaml: .*{message}") as caught:
        DetectionModel(config(rows, yaml_file="net.yaml", **anchors) | changes)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"depth_multiple": float("inf")}, "depth_multiple: inf is not a positive number", id="infinite"),
        pytest.param(
            {"width_multiple": float("nan")}, "width_multiple: nan is not a positive number", id="not a number"
        ),
        pytest.param({"width_multiple": 10**90}, "row 0: Conv expects", id="large integer"),
        pytest.param({"anchors": float("inf")}, "anchors: level 0: None", id="infinite anchors"),
        pytest.param({"anchors": [[1, float("nan")]]}, "anchors: level 0", id="anchor of no size"),
        pytest.param({"cutoff": "x"}, "cutoff: 'x' is not a positive integer", id="cutoff"),
        pytest.param({"nc": ["x" * 500] * 500}, r"nc: \['xxx.{110,120}\.\.\. is not", id="long value"),
        pytest.param(
            {"activation": "nn.ReLU('a', 'b', 'c', 'd')"}, "activation: .* positional arguments", id="arguments"
        ),
        pytest.param({"activation": "nn.PReLU(-1)"}, r"activation: 'nn\.PReLU\(-1\)': .*negative", id="negative"),
        pytest.param({"activation": {"Conv": ["nn.ReLU()"]}}, "is not an activation", id="list"),
    ],
)
def test_odd_values_of_keys(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^net\.yaml: .*{message}"):
        DetectionModel(config(TWO, yaml_file="net.yaml") | changes)


def test_limits_can_be_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "MAX_ROWS", 1)
    with pytest.raises(InputError, match="2 rows, the limit is 1; use --no-limits if you trust the file"):
        build(TWO)
    monkeypatch.setenv("YOLOv5_NO_LIMITS", "1")
    assert len(build(TWO).model) == 2


def test_sizes_that_only_meta_tensors_accept() -> None:
    for padding in (-1, [1, 1, 1]):
        rows = [[-1, 1, "Conv", [8, 3, 2, padding]], CONV, HEAD]
        with pytest.raises(InputError, match=r"row 0: Conv2d\(.*\) has a size below 1, a padding below 0, or not two"):
            DetectionModel(config(rows, anchors=[[1, 2], [3, 4]]))


def test_detection_head_must_be_the_last_row() -> None:
    for rows, number in (([*TWO, HEAD, CONV], 2), ([*TWO, HEAD, [[0, 1], 1, "Detect", ["nc", "anchors"]]], 2)):
        with pytest.raises(InputError, match=f"row {number}: Detect must be the last row"):
            DetectionModel(config(rows, anchors=[[1, 2], [3, 4]]))


def test_file_name_of_a_mapping_is_shown_only_if_it_is_one() -> None:
    for name in ("\x1b[31m", "x" * 1000, 5, ""):
        with pytest.raises(InputError, match=r"^model YAML: nc: 0 is not"):
            load_model_yaml(config(TWO) | {"nc": 0, "yaml_file": name})
        assert "yaml_file" not in load_model_yaml(config(TWO) | {"yaml_file": name})


def test_unknown_keys_are_named_within_bounds(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="openyolov5"):
        load_model_yaml(config([[]], **{f"key{number}": 1 for number in range(50)}))
    assert len(caplog.records) == 10
