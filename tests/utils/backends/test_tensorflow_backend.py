"""The TensorFlow runtime: what it does without the package; tests/utils/export runs real graphs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from utils.backends.info import ModelInfo
from utils.backends.tensorflow import (
    Graph,
    TensorFlowBackend,
    check_operators,
    find_output_nodes,
    import_tensorflow,
    load_graph_def,
    load_saved_model,
    nms_outputs_to_rows,
    parse_info,
)
from utils.backends.trust import UntrustedError
from utils.core.errors import InputError
from utils.core.types import NMSOutput

CPU = torch.device("cpu")


def mock_graph(shape: tuple[int | None, ...], *answers: np.ndarray) -> Graph:
    """Mock of a TensorFlow graph, whose tensors have `numpy()`."""
    return Graph(lambda images: [SimpleNamespace(numpy=lambda a=a: a[: len(images)]) for a in answers], shape)


def node(name: str, op: str, *inputs: str) -> Any:
    return SimpleNamespace(name=name, op=op, input=inputs)


def graph(*nodes: Any, functions: tuple[Any, ...] = ()) -> Any:
    return SimpleNamespace(node=nodes, library=SimpleNamespace(function=functions))


def test_images_go_in_with_channels_last_and_boxes_come_out_in_pixels() -> None:
    seen = []
    rows = np.array([[[0.5, 0.25, 0.125, 1, 0.9, 0.8]]], np.float32)
    plain = mock_graph((None, 32, 64, 3), rows)
    backend = TensorFlowBackend(
        "m", Graph(lambda x: (seen.append(x), plain.run(x))[1], plain.shape), ModelInfo(), device=CPU
    )
    images = torch.rand(1, 3, 32, 64)
    output = backend.forward(images)
    np.testing.assert_array_equal(seen[0], images.permute(0, 2, 3, 1))
    assert output[0, 0].tolist() == pytest.approx([32, 8, 8, 32, 0.9, 0.8])
    assert (backend.fixed_hw, backend.fixed_batch) == ((32, 64), None)


def test_prototypes_come_second_whatever_the_graph_s_order() -> None:
    prototypes, rows = np.ones((1, 4, 8, 16), np.float32), np.zeros((1, 5, 11), np.float32)
    backend = TensorFlowBackend("m", mock_graph((1, None, None, 3), prototypes, rows), ModelInfo(), device=CPU)
    outputs = backend.forward(torch.rand(1, 3, 32, 64))
    assert [tuple(output.shape) for output in outputs] == [(1, 5, 11), (1, 4, 8, 16)]
    assert (backend.fixed_hw, backend.fixed_batch) == (None, 1)


def test_four_outputs_are_those_of_suppression() -> None:
    boxes = np.array([[[0.25, 0.5, 0.5, 1], [0.1, 0.1, 0.2, 0.2]]], np.float32)
    scores, classes = np.array([[0.9, 0.3]], np.float32), np.array([[2, 1]], np.float32)
    answers = (boxes, scores, classes, np.array([1], np.int32))
    backend = TensorFlowBackend("m", mock_graph((1, 32, 64, 3), *answers), ModelInfo(), device=CPU)
    found = backend.forward(torch.rand(1, 3, 32, 64))
    assert isinstance(found, NMSOutput)
    assert found.rows[0, 0].tolist() == pytest.approx([16, 16, 32, 32, 0.9, 2])
    assert not found.rows[0, 1].any()
    empty = [torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2)]
    assert nms_outputs_to_rows(empty, (64, 32)).shape == (2, 0, 6)


def test_an_input_that_is_no_image() -> None:
    with pytest.raises(InputError, match=r"m: expected a batch of images as the input, found \(None, 10\)"):
        TensorFlowBackend("m", mock_graph((None, 10)), ModelInfo(), device=CPU)


def test_outputs_are_what_no_node_takes() -> None:
    nodes = graph(
        node("x", "Placeholder"),
        node("w", "Const"),
        node("spare", "Const"),
        node("conv", "Conv2D", "x", "w:0"),
        node("wait", "NoOp", "^conv"),
        node("Identity_1", "Identity", "conv"),
        node("Identity", "Identity", "conv:1"),
    )
    assert find_output_nodes(nodes) == ["Identity_1", "Identity"]


@pytest.mark.parametrize(
    "op",
    ["WriteFile", "ReadFile", "PrintV2", "SaveV2", "RestoreV2", "ImmutableConst", "EagerPyFunc", "VarHandleOp", ""],
)
def test_operators_that_may_do_more_than_compute_need_trust(op: str) -> None:
    check_operators(graph(node("a", "Conv2D")), "m.pb")
    with pytest.raises(UntrustedError, match=rf"m\.pb: node 'a': operator {op} may do more than compute.*use --trust"):
        check_operators(graph(node("a", op)), "m.pb")
    hidden = SimpleNamespace(node_def=[node("b", op)])
    with pytest.raises(UntrustedError, match=f"node 'b': operator {op} may do more than compute"):
        check_operators(graph(node("a", "Conv2D"), functions=(hidden,)), "m.pb")


def test_metadata_is_plain_data() -> None:
    assert parse_info("", "m") == ModelInfo()
    assert parse_info('{"stride": 16, "names": {"0": "dïsc"}}', "m").names == {0: "dïsc"}
    for text in ("!!python/object/apply:os.getcwd []", "{unclosed", "[1, 2]"):
        with pytest.raises(InputError, match=r"^m(:1: not valid YAML|: metadata)"):
            parse_info(text, "m")


@pytest.mark.parametrize(
    ("load", "name", "include"),
    [(load_saved_model, "ä b_saved_model", "saved_model"), (load_graph_def, "ä b.pb", "pb")],
)
def test_what_is_missing_is_named(
    load: Any, name: str, include: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / name
    with pytest.raises(InputError, match=f"no such file or folder; export one with: .* --include {include}"):
        load([str(place)], device=CPU)
    place.mkdir() if include == "saved_model" else place.write_bytes(b"")

    def absent(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("utils.core.packages.importlib.import_module", absent)
    with pytest.raises(InputError, match="need the package tensorflow: pip install tensorflow"):
        load([str(place)], device=CPU)


@pytest.mark.parametrize(("level", "expected"), [(None, "3"), ("0", "0")])
def test_import_limits_the_log_unless_its_level_is_set(
    level: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorflow.py").write_text("import os\nlevel = os.environ['TF_CPP_MIN_LOG_LEVEL']\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level or "")
    if level is None:
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    tensorflow = import_tensorflow("TensorFlow graphs")
    assert tensorflow.level == expected
    sys.modules.pop("tensorflow")


def test_broken_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no libcudart')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with pytest.raises(InputError, match="package tensorflow is broken"):
        import_tensorflow("TensorFlow graphs")
