"""Pickles of TorchScript files: what PyTorch writes is accepted, anything else is refused before PyTorch reads it."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from script_files import pack_int, read_members, save_traced

from utils.backends.script_code import ScriptClass
from utils.backends.script_data import DataError, check_constants, check_module
from utils.core.errors import InputError

CLASSES = {
    "__torch__.Net": ScriptClass("x", {"act": "__torch__.Act", "weight": "Tensor", "training": "bool"}),
    "__torch__.Act": ScriptClass("x", {"scale": "Optional[float]", "size": "int"}),
    "__torch__.Other": ScriptClass("x", {"scale": "Optional[float]", "size": "int"}),
}


def text(value: str) -> bytes:
    return pickle.BINUNICODE + len(value).to_bytes(4, "little") + value.encode()


def obj(name: str, **state: bytes) -> bytes:
    """An object with its attributes."""
    items = b"".join(text(key) + value for key, value in state.items())
    return f"c__torch__\n{name}\n".encode() + b")\x81}(" + items + b"ub"


def tensor(
    count: bytes = b"K\x06",
    offset: bytes = b"K\x00",
    size: bytes = b"K\x02K\x03",
    stride: bytes = b"K\x03K\x01",
    *,
    dtype: str = "FloatStorage",
    key: str = "0",
    device: str = "cpu",
    gradient: bytes = b"\x89",
    hooks: bytes = b"ccollections\nOrderedDict\n)R",
) -> bytes:
    storage = b"(" + text("storage") + f"ctorch\n{dtype}\n".encode() + text(key) + text(device) + count + b"tQ"
    shape = b"(" + size + b"t(" + stride + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + gradient + hooks + b"tR"


ACT = obj("Act", scale=b"N", size=b"K\x01")
NET: dict[str, bytes] = {"act": ACT, "weight": tensor(), "training": b"\x89"}


def check(content: bytes, sizes: dict[str, int] | None = None) -> None:
    check_module(b"\x80\x02" + content + b".", CLASSES, {"0": 24} if sizes is None else sizes, "m")


def test_network_is_accepted() -> None:
    check(obj("Net", **NET))
    check(obj("Net", **NET | {"act": obj("Act", scale=b"G" + bytes(8), size=b"\x8a\x08" + bytes(8))}))
    scalar = tensor(b"K\x01", size=b"", stride=b"")
    empty = tensor(b"K\x00", size=b"K\x00", stride=b"K\x01", key="none")
    repeated = tensor(b"K\x01", size=b"K\x64K\x64", stride=b"K\x00K\x00")
    for value in (scalar, empty, repeated, tensor(dtype="HalfStorage", device="cuda:0"), tensor(gradient=b"\x88")):
        check(obj("Net", **NET | {"weight": value}))


def test_files_of_pytorch_are_accepted(tmp_path: Path) -> None:
    members = read_members(save_traced(tmp_path / "m.torchscript"))
    check_constants(members["constants.pkl"], {"0": len(members["constants/0"])}, "m")
    with pytest.raises(DataError, match="a reference to __torch__"):
        check_module(members["data.pkl"], {}, {"0": 308}, "m")


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (tensor(b"K\x07"), "tensor data 0 of 24 instead of 28 bytes"),
        (tensor(dtype="DoubleStorage"), "tensor data 0 of 24 instead of 48 bytes"),
        (tensor(key="1"), "tensor data 1 of 0 instead of 24 bytes"),
        (tensor(pack_int(-1)), "unusual tensor data"),
        (tensor(device="meta"), "unusual tensor data"),
        (tensor(dtype="UntypedStorage"), r"a reference to torch\.UntypedStorage"),
        (tensor(dtype="device"), r"a reference to torch\.device"),
        (tensor(size=b"K\x03K\x03"), "a tensor larger than its data"),
        (tensor(offset=b"K\x01"), "a tensor larger than its data"),
        (tensor(stride=b"K\x04K\x01"), "a tensor larger than its data"),
        (tensor(offset=pack_int(-1)), "a tensor of unusual shape"),
        (tensor(stride=b"K\x03" + pack_int(-1)), "a tensor of unusual shape"),
        (tensor(stride=b"K\x01"), "a tensor without shape"),
        (tensor(size=b"\x88K\x03"), "a tensor of unusual shape"),
        (tensor(size=b"K\x01" * 65, stride=b"K\x01" * 65), "a tensor of unusual shape"),
        (tensor(gradient=b"N"), "a tensor without data"),
        (tensor(hooks=b"K\x01"), "a tensor without data"),
        (tensor(hooks=b"N") + b"0", "a damaged pickle"),
        (b"K\x01", "attribute weight of class __torch__.Net is not of type Tensor"),
        (b"}", "attribute weight"),
        (b")", "attribute weight"),
        (b"N", "attribute weight"),
        (b"ctorch\nFloatStorage\n", "attribute weight"),
        (b"cos\nsystem\n" + text("true") + b"\x85R", r"a reference to os\.system"),
        (
            b"c__torch__.torch.classes.quantized\nPacked\n)\x81}b",
            r"a reference to __torch__\.torch\.cl",
        ),
    ],
)
def test_other_tensors_are_refused(weight: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        check(obj("Net", **NET | {"weight": weight}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"act": obj("Other", scale=b"N", size=b"K\x01")}, r"attribute act of class .* is not of type __torch__\.Act"),
        ({"act": b"c__torch__\nAct\n)\x81"}, "attribute act"),
        ({"act": b"c__torch__\nAct\n"}, "attribute act"),
        ({"act": obj("Act", scale=b"K\x01", size=b"K\x01")}, "attribute scale"),
        ({"act": obj("Act", scale=b"N", size=b"\x88")}, "attribute size"),
        ({"act": obj("Act", scale=b"N")}, "without the attributes that its code declares"),
        ({"act": obj("Act", scale=b"N", size=b"K\x01", more=b"N")}, "without the attributes that its code declares"),
        ({"act": ACT + b"}b"}, "without the attributes that its code declares"),
        ({"training": b"K\x01"}, "attribute training"),
        ({"training": b"]"}, "a damaged pickle"),
    ],
)
def test_other_attributes_are_refused(changes: dict[str, bytes], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        check(obj("Net", **NET | changes))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"N", ACT + ACT, b"K\x01", b"(" + ACT, ACT + b"t", b"t", b"u", b"N(u", b"}(Nu", b"N\x86", b"q\x00",
        b"h\x00", b"NR", b"Nb", b"Q", b"NNb", b"NNR", b"(N\x85t", b"N(b", b"}N(ub", b"N\x85(b", b"N0", b"\x94", b"\xff",
        b"N" + b"\x85" * 100_000, b"]" + b"]a" * 1000, b"cos\nsystem\n", b"Nr\xff\xff\xff\xff", b"Nq\x01",
        b"X\xff\xff\xff\xffa", b"c__torch__\nNet Act\n)\x81}b", b"\x8a\x01\x01",
    ],
)  # fmt: skip
def test_other_pickles_are_refused(content: bytes) -> None:
    with pytest.raises(DataError):
        check(content)


def test_layers_in_layers_are_bounded() -> None:
    names = [f"L{i}" for i in range(120)]
    classes = {f"__torch__.{names[0]}": ScriptClass("x", {})}
    for inner, name in pairwise(names):
        classes[f"__torch__.{name}"] = ScriptClass("x", {"m": f"__torch__.{inner}"})
    content = obj(names[0])
    for name in names[1:]:
        content = obj(name, m=content)
    with pytest.raises(DataError, match="layers nested over 100 levels"):
        check_module(b"\x80\x02" + content + b".", classes, {}, "m")


def test_repeated_data_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    side = pack_int(2**20)
    weight = tensor(b"K\x01", size=side * 2, stride=b"K\x00K\x00")
    with pytest.raises(InputError, match="1,099,511,627,776 elements of a tensor, the limit is 2,147,483,648"):
        check(obj("Net", **NET | {"weight": weight}))
    monkeypatch.setenv("YOLOv5_NO_LIMITS", "1")
    check(obj("Net", **NET | {"weight": weight}))


@pytest.mark.parametrize("content", [b"N", b"K\x01\x85", ACT + b"\x85", b"]", tensor()])
def test_constants_are_tensors(content: Any) -> None:
    check_constants(b"\x80\x02" + tensor() + tensor() + b"\x86.", {"0": 24}, "m")
    check_constants(b"\x80\x02).", {}, "m")
    with pytest.raises(DataError):
        check_constants(b"\x80\x02" + content + b".", {"0": 24}, "m")
