"""ONNX files as bytes: tensors in other files are noticed wherever they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import AttributeProto, ModelProto, SparseTensorProto, TensorProto, helper

from utils.backends.onnx_file import read_onnx
from utils.core.errors import InputError


def tensor(external: bool) -> TensorProto:
    result = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    if external:
        result.data_location = TensorProto.EXTERNAL
    else:
        result.raw_data = bytes(4)
        result.data_location = TensorProto.DEFAULT
    return result


def in_initializer(model: ModelProto, external: bool) -> None:
    model.graph.initializer.append(tensor(external))


def in_sparse_initializer(model: ModelProto, external: bool) -> None:
    model.graph.sparse_initializer.append(SparseTensorProto(values=tensor(False), indices=tensor(external)))


def in_attribute(model: ModelProto, external: bool) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor(external)))


def in_attribute_list(model: ModelProto, external: bool) -> None:
    attribute = AttributeProto(name="t", type=AttributeProto.TENSORS, tensors=[tensor(False), tensor(external)])
    model.graph.node.append(onnx.NodeProto(op_type="X", attribute=[attribute]))


def in_branch(model: ModelProto, external: bool) -> None:
    branch = helper.make_graph([], "b", [], [], [tensor(external)])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch))


def in_function(model: ModelProto, external: bool) -> None:
    node = helper.make_node("Constant", [], ["c"], value=tensor(external))
    model.functions.append(onnx.FunctionProto(name="f", domain="d", node=[node]))


def in_training(model: ModelProto, external: bool) -> None:
    model.training_info.add().algorithm.initializer.append(tensor(external))


PLACES = [
    in_initializer, in_sparse_initializer, in_attribute, in_attribute_list, in_branch, in_function, in_training,
]  # fmt: skip


@pytest.mark.parametrize("put", PLACES)
def test_tensors_are_found(put: Callable[[ModelProto, bool], None], tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    for external in (False, True):
        model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], []))
        put(model, external)
        file.write_bytes(model.SerializeToString())
        if external:
            with pytest.raises(InputError, match="m: has tensors in other files"):
                read_onnx(file, "m")
        else:
            assert read_onnx(file, "m") == file.read_bytes()


def test_unusual_encodings_are_read(tmp_path: Path) -> None:
    """A graph in two parts, and lengths and numbers with superfluous bytes."""
    place = b"\x70\x81\x80\x00"  # data_location: 1 in three bytes
    graph = b"\x2a\x84\x00" + place
    file = tmp_path / "m.onnx"
    file.write_bytes(b"\x3a\x00\x3a\x87\x80\x00" + graph)
    merged = ModelProto()
    merged.ParseFromString(file.read_bytes())
    assert merged.graph.initializer[0].data_location == TensorProto.EXTERNAL
    with pytest.raises(InputError, match="m: has tensors in other files"):
        read_onnx(file, "m")


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a",
        b"\x3a\x05\x00",
        b"\x3b\x3c",
        b"\x38" + b"\xff" * 10 + b"\x01",
        b"\x39\x00",
        b"\x3f",
        b"\x3a\x02\x2a\x05",
    ],
)
def test_damaged_messages(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(InputError, match="m: damaged or not an ONNX file; copy or export it again"):
        read_onnx(tmp_path / "m.onnx", "m")
