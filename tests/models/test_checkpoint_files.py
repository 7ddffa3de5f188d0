"""The two formats of torch.save, and classes of packages that contain YOLOv5."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.checkpoint_files import STREAM_START
from models.official import ADDRESSES
from models.pickled_values import Record
from models.safe_load import read_checkpoint
from tests.hostile_checkpoints import encode_call, encode_global, encode_text, write_archive
from utils.core.errors import InputError


def save_stream(content: Any, path: Path) -> Path:
    """Save as PyTorch did up to 1.5."""
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def test_stream_of_tensors_and_layers(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    content = {
        "slice": base[1:3, ::2],
        "half": torch.tensor([1.5, -2]).half(),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "layer": nn.Conv2d(1, 2, 3),
        "epoch": 3,
    }
    file = save_stream(content, tmp_path / "old.pt")
    assert file.read_bytes().startswith(STREAM_START)
    result = read_checkpoint(file, ADDRESSES)
    for name in ("slice", "half", "flags", "empty"):
        assert torch.equal(result[name], content[name])
        assert result[name].dtype == content[name].dtype
    assert result["epoch"] == 3
    assert torch.equal(result["layer"].state["_parameters"]["bias"], content["layer"].bias)


def test_source_text_of_classes_is_skipped(tmp_path: Path) -> None:
    """("module", class, file, source) in the place of every class, as PyTorch wrote it up to 1.12."""
    source = b"(" + encode_text("module") + encode_global("torch.nn.modules.conv.Conv2d")
    source += encode_text("conv.py") + encode_text("class Conv2d: ...") + b"tQ"
    pickles = [b"\x8a\x02\xe9\x03", b"}" + encode_text("little_endian") + b"\x88s", source + b")\x81}b", b"]"]
    content = STREAM_START + b"".join(b"\x80\x02" + body + b"." for body in pickles)
    (tmp_path / "old.pt").write_bytes(content)
    record = read_checkpoint(tmp_path / "old.pt", ADDRESSES)
    assert isinstance(record, Record)
    assert record.address == "torch.nn.modules.conv.Conv2d"
    (tmp_path / "old.pt").write_bytes(content.replace(b"\x88s", b"\x89s"))
    with pytest.raises(InputError, match="byte order of the file"):
        read_checkpoint(tmp_path / "old.pt", ADDRESSES)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.99], ids=["in the pickle", "in the tensors", "at the end"])
def test_incomplete_streams(tmp_path: Path, place: float) -> None:
    file = save_stream({"w": torch.rand(1000)}, tmp_path / "old.pt")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * place)])
    with pytest.raises(InputError, match=r"old\.pt: damaged checkpoint"):
        read_checkpoint(file)


def test_streams_that_ask_for_much(tmp_path: Path) -> None:
    """The number of elements is checked before memory is allocated."""
    file = save_stream({"w": torch.rand(1000)}, tmp_path / "old.pt")
    content = file.read_bytes()
    file.write_bytes(content.replace(b"M\xe8\x03", b"J" + struct.pack("<i", 2**30), 1))
    with pytest.raises(InputError, match=r"storage '\d+' of 1073741824 numbers is larger than the file"):
        read_checkpoint(file)


def test_hostile_stream(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    command = encode_call("posix.system", encode_text(f"touch {marker}"))
    pickles = [b"\x8a\x02\xe9\x03", b"}" + encode_text("little_endian") + b"\x88s", command, b"]"]
    (tmp_path / "old.pt").write_bytes(STREAM_START + b"".join(b"\x80\x02" + body + b"." for body in pickles))
    with pytest.raises(InputError, match=r"none of its code was run: it contains posix\.system"):
        read_checkpoint(tmp_path / "old.pt", ADDRESSES)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("yolov5.models.common.Conv", "models.common.Conv"),
        ("a.b.models.c.models.yolo.Detect", "models.yolo.Detect"),
        ("openyolov5.utils.activations.FReLU", "utils.activations.FReLU"),
    ],
)
def test_classes_of_other_packages(tmp_path: Path, address: str, expected: str) -> None:
    file = write_archive(tmp_path / "a.pt", encode_global(address) + b")\x81}b")
    assert read_checkpoint(file, ADDRESSES).address == expected


@pytest.mark.parametrize(
    "address", ["evil.builtins.set", "a.torch.nn.modules.conv.Conv2d", "mymodels.common.Conv", "models.common.Conv.x"]
)
def test_only_classes_of_networks_are_found_by_their_end(tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError, match=r"refused|custom layers"):
        read_checkpoint(write_archive(tmp_path / "a.pt", encode_call(address)), ADDRESSES)


def test_method_of_a_head_in_another_package(tmp_path: Path) -> None:
    body = encode_call("__builtin__.getattr", encode_global("yolov5.models.yolo.Detect"), encode_text("forward"))
    assert read_checkpoint(write_archive(tmp_path / "a.pt", body), ADDRESSES).name == "models.yolo.Detect.forward"
