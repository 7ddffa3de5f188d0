"""Safe checkpoint reader: no code of a .pt file runs, and refused globals are named."""

from __future__ import annotations

import codecs
import os
import pathlib
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.official import ADDRESSES
from models.pickle_reader import Global
from models.pickled_values import Record
from models.safe_load import read_checkpoint
from tests.hostile_checkpoints import (
    encode_array,
    encode_bytes,
    encode_call,
    encode_global,
    encode_int,
    encode_shared_lists,
    encode_tensor,
    encode_text,
    encode_tuple,
    write_archive,
)
from utils.core.errors import InputError
from utils.core.limits import NO_LIMITS


class Calls:
    """Pickles as the call of a function, which an unrestricted unpickler would make."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        pytest.param(os.system, ("touch {}",), "posix.system", id="command"),
        pytest.param(exec, ("open('{}', 'w')",), "exec", id="exec"),
        pytest.param(eval, ("open('{}', 'w')",), "eval", id="eval"),
        pytest.param(open, ("{}", "w"), "io.open", id="open"),
        pytest.param(pathlib.Path.touch, ("{}",), "pathlib.Path", id="method"),
        pytest.param(getattr, (os, "system"), "posix", id="getattr of a module"),
    ],
)
def test_malicious_file_runs_nothing_and_names_its_global(
    tmp_path: Path, function: Any, arguments: tuple[Any, ...], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    filled = [a.format(marker) if isinstance(a, str) else a for a in arguments]
    if function is getattr:
        filled = [Calls(__import__, "posix"), "system"]
    file = saved(tmp_path / "evil.pt", {"epoch": -1, "model": Calls(function, *filled)})
    with pytest.raises(InputError, match=r"refused, none of its code was run") as caught:
        read_checkpoint(file, ADDRESSES)
    assert not marker.exists()
    shown = "__import__" if function is getattr else name
    assert shown in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    if function is not getattr:  # the file does what it is accused of when it is unpickled without care
        torch.load(file, weights_only=False)
        assert marker.exists()


def test_every_foreign_global_is_named(tmp_path: Path) -> None:
    content = [Calls(os.getcwd), Calls(codecs.lookup, "utf-8"), nn.Conv2d(1, 1, 1)]
    with pytest.raises(InputError, match=r"contains _codecs\.lookup, posix\.getcwd, which"):
        read_checkpoint(saved(tmp_path / "a.pt", content), ADDRESSES)


@pytest.mark.parametrize("name", ["__init__", "__globals__", "_apply"])
def test_getattr_is_limited_to_one_function(tmp_path: Path, name: str) -> None:
    from models.yolo import Detect

    file = saved(tmp_path / "a.pt", Calls(getattr, Detect, name))
    with pytest.raises(InputError, match=rf"contains builtins\.getattr\(models\.yolo\.Detect, '{name}'\)"):
        read_checkpoint(file, ADDRESSES)
    function = read_checkpoint(saved(file, Calls(getattr, Detect, "forward")), ADDRESSES)
    assert (type(function), function.name) == (Global, "models.yolo.Detect.forward")


def test_constructors_of_listed_classes_are_not_called(tmp_path: Path) -> None:
    huge = Calls(nn.Conv2d, 10**9, 10**9, 99)
    record = read_checkpoint(saved(tmp_path / "a.pt", huge), ADDRESSES)
    assert isinstance(record, Record)
    assert record.address == "torch.nn.modules.conv.Conv2d"
    assert record.state == {}


def test_numbers_arrays_and_paths_become_plain(tmp_path: Path) -> None:
    content = {
        "lr": np.float64(0.25),
        "count": np.int64(-7),
        "flag": np.bool_(True),
        "fitness": np.array([0.5], dtype=">f4"),
        "matrix": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "project": pathlib.PurePosixPath("runs/train"),
        "save_dir": Path("runs/train/exp"),
        "theirs": Calls(pathlib.WindowsPath, "C:\\", "runs"),
        "kept": {1, 2},
        "size": torch.Size([2, 3]),
    }
    plain = read_checkpoint(saved(tmp_path / "a.pt", content))
    assert {k: type(v) for k, v in plain.items()} == {
        "lr": float,
        "count": int,
        "flag": bool,
        "fitness": np.ndarray,
        "matrix": np.ndarray,
        "project": str,
        "save_dir": str,
        "theirs": str,
        "kept": set,
        "size": tuple,
    }
    assert (plain["lr"], plain["count"], plain["flag"], plain["fitness"].tolist()) == (0.25, -7, True, [0.5])
    assert plain["matrix"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (plain["project"], plain["save_dir"]) == ("runs/train", "runs/train/exp")
    assert plain["theirs"] == "C:\\runs"


def test_numpy_objects_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.pt", np.array([{}], dtype=object))
    with pytest.raises(InputError, match=r"contains numpy\.dtype\('O8'\)"):
        read_checkpoint(file, ADDRESSES)


def test_files_that_are_not_checkpoints(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.pt", {"a": torch.zeros(1000)}).read_bytes()
    script = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(nn.Identity()), str(script))
    cases = {
        "empty.pt": (b"", "the file is empty"),
        "page.pt": (b"\n<!DOCTYPE html><title>404</title>", "a web page, not a checkpoint; download the file itself"),
        "pointer.pt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "run git lfs pull"),
        "text.pt": (b"epoch: 3", "not a PyTorch checkpoint"),
        "cut.pt": (good[: len(good) // 2], "damaged checkpoint"),
        "pickle.pt": (pickle.dumps({}, protocol=2), "a pickle that torch.save did not write"),
        "script.pt": (script.read_bytes(), "a TorchScript file"),
        "flipped.pt": (good.replace(b"\x80\x02}", b"\x80\x02\xff"), "damaged checkpoint"),
    }
    for name, (content, message) in cases.items():
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_checkpoint(file)
        assert str(caught.value).startswith(f"{file}: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"none\.pt: no such file"):
        read_checkpoint(tmp_path / "none.pt")


# -- checksums --------------------------------------------------------------------------------------------------------


def test_a_changed_byte_in_a_tensor_is_found(tmp_path: Path) -> None:
    content = {f"w{i}": torch.randn(50) for i in range(3)}
    file = saved(tmp_path / "a.pt", content)
    good = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        storages = [archive.read(f"a/data/{i}") for i in range(3)]
    rng = np.random.default_rng(0)
    for storage in storages:
        for place in good.index(storage) + rng.integers(len(storage), size=20):
            changed = bytearray(good)
            changed[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(changed)
            with pytest.raises(InputError, match=r"a\.pt: damaged .*Bad CRC-32 for file 'a/data/"):
                read_checkpoint(file)
    file.write_bytes(good)
    assert all(torch.equal(value, content[key]) for key, value in read_checkpoint(file).items())


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    content = {"w": torch.randn(5), "names": ["a", "b"]}
    torch.serialization.set_crc32_options(False)
    try:
        file = saved(tmp_path / "a.pt", content)
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(file) as archive:
        assert {info.CRC for info in archive.infolist()} == {0}
    loaded = read_checkpoint(file)
    assert torch.equal(loaded["w"], content["w"])
    assert loaded["names"] == ["a", "b"]


# -- tensors ----------------------------------------------------------------------------------------------------------


def test_tensors_are_those_of_torch(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    content = {
        "transposed": base.T,
        "slice": base[1:3, ::2],
        "expanded": torch.ones(1, 3).expand(2, 3),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.ones(2)),
        "frozen": nn.Parameter(torch.ones(2), requires_grad=False),
        **{
            str(dtype): torch.tensor([0, 1]).to(dtype) for dtype in (torch.half, torch.bfloat16, torch.int8, torch.bool)
        },
    }
    file = saved(tmp_path / "a.pt", content)
    loaded, expected = read_checkpoint(file), torch.load(file, weights_only=True)
    for key, value in expected.items():
        assert torch.equal(loaded[key], value), key
        assert loaded[key].dtype == value.dtype
        assert loaded[key].stride() == value.stride()
        assert (type(loaded[key]), loaded[key].requires_grad) == (type(value), value.requires_grad)
    assert loaded["slice"].untyped_storage().data_ptr() == loaded["transposed"].untyped_storage().data_ptr()


def test_files_of_the_other_byte_order(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    with zipfile.ZipFile(saved(file, torch.tensor([1.5, -2.0]))) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    members |= {"a/byteorder": b"big", "a/data/0": struct.pack(">2f", 1.5, -2.0)}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert read_checkpoint(file).tolist() == [1.5, -2.0]


NUMBER = struct.pack("<f", 2.0)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        pytest.param(encode_tensor((10**5, 10**5), (0, 0)), "40,000,000,000 bytes of tensors", id="stride 0"),
        pytest.param(encode_tensor((2**62, 2**62), (0, 0)), "bytes of tensors, the limit", id="product over 64 bits"),
        pytest.param(encode_tensor((1,), (1,), offset=-5), "invalid size, stride or offset", id="negative offset"),
        pytest.param(encode_tensor((-1,), (1,)), "invalid size, stride or offset", id="negative size"),
        pytest.param(encode_tensor((1,), (1, 1)), "invalid size, stride or offset", id="lengths differ"),
        pytest.param(encode_tensor((1,) * 70, (1,) * 70), "invalid size, stride or offset", id="70 dimensions"),
        pytest.param(encode_tensor((2,), (1,)), r"size \(2,\) and stride \(1,\) beyond the end", id="one too many"),
        pytest.param(encode_tensor((1,), (1,), offset=1), "beyond the end", id="offset"),
        pytest.param(encode_tensor((2, 2), (2**62, 2**62)), "beyond the end", id="large stride"),
        pytest.param(encode_tensor((1,), (1,), elements=10**9), "storage '0' has 4 bytes", id="storage too small"),
        pytest.param(encode_tensor((1,), (1,), key="7"), "no item named 'archive/data/7'", id="no storage"),
        pytest.param(encode_call("torch.FloatTensor", encode_int(2**33)), "contains torch.FloatTensor", id="class"),
    ],
)
def test_tensors_that_do_not_fit_their_storage(tmp_path: Path, tensor: bytes, message: str) -> None:
    file = write_archive(tmp_path / "a.pt", b"]" + tensor + b"a", {"0": NUMBER})
    with pytest.raises(InputError, match=rf"^{file}: .*{message}"):
        read_checkpoint(file)
    good = encode_tensor((2, 3), (0, 0))  # expanded, as grids of old releases
    assert read_checkpoint(write_archive(file, good, {"0": NUMBER})).tolist() == [[2.0] * 3] * 2


# -- bounds -----------------------------------------------------------------------------------------------------------

RANGE = encode_call("__builtin__.xrange", encode_int(0), encode_int(2**31))
LONG_TEXT = encode_text("x" * 10**6) + b"q\x00"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(encode_call("__builtin__.set", RANGE), r"range\(0, 2147483648\) is too long", id="set of a range"),
        pytest.param(encode_call("torch.Size", RANGE), "is too long", id="size of a range"),
        pytest.param(encode_call("__builtin__.bytearray", encode_int(2**35)), "builtins.bytearray", id="bytearray"),
        pytest.param(
            encode_tuple(LONG_TEXT, *[encode_call("_codecs.encode", b"h\x00", encode_text("latin1"))] * 9),
            "items in calls, the limit is 4,000,000; use --no-limits",
            id="text copied by many calls",
        ),
        pytest.param(encode_shared_lists(60), "values, the limit is 4,000,000", id="shared lists"),
        pytest.param(b"]q\x00h\x00a", "a value that contains itself", id="list in itself"),
        pytest.param(b"}q\x00" + encode_text("a") + b"h\x00s", "a value that contains itself", id="mapping in itself"),
        pytest.param(b"]" * 1000 + b"a" * 999, "nested too deep", id="nested"),
        pytest.param(encode_array("f8", (10**12,), bytes(8)), "cannot reshape", id="array too short"),
        pytest.param(encode_array("f8", (1,), bytes(3)), "buffer size must be a multiple", id="array of half numbers"),
        pytest.param(encode_call("numpy.dtype", b"]"), r"contains numpy\.dtype\(list\)", id="dtype of a list"),
        pytest.param(encode_call("_codecs.encode", encode_text("x"), encode_text("idna")), "as 'idna'", id="codec"),
        pytest.param(encode_call("collections.OrderedDict", encode_bytes(b"ab")), "items in a bytes", id="pairs"),
    ],
)
def test_small_files_that_ask_for_much(tmp_path: Path, body: bytes, message: str) -> None:
    file = write_archive(tmp_path / "a.pt", body)
    with pytest.raises(InputError, match=rf"^{file}: .*{message}") as caught:
        read_checkpoint(file)
    assert len(str(caught.value)) < len(str(file)) + 250
    assert str(caught.value).isprintable()


def test_compressed_files_are_bounded_by_their_declared_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.checkpoint_files.SPARE_BYTES", 10**6)
    file, count = tmp_path / "a.pt", 10**6
    body, storage = encode_tensor((count,), (1,), elements=count), {"0": bytes(4 * count)}
    write_archive(file, body, storage, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"4,000,\d+ bytes unpacked, the limit is 1,0\d\d,\d+; use --no-limits"):
        read_checkpoint(file)
    monkeypatch.setenv(NO_LIMITS, "1")
    assert read_checkpoint(file).shape == (count,)
    write_archive(file, body, storage, compression=zipfile.ZIP_BZIP2)
    with pytest.raises(InputError, match=r"compression 12"):
        read_checkpoint(file)


def test_size_of_the_pickle_is_bounded(tmp_path: Path) -> None:
    file = write_archive(tmp_path / "a.pt", b"](" + b"K\x01" * 9_000_000 + b"e", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"18,000,006 bytes of data\.pkl, the limit is 16,777,216"):
        read_checkpoint(file)


def test_members_that_overlap_are_counted_each_time(tmp_path: Path) -> None:
    """A directory that lists one storage under many names."""
    file = write_archive(tmp_path / "a.pt", b"}", {str(i): b"" for i in range(300)})
    content = bytearray(file.read_bytes())
    entry = content.index(b"PK\x01\x02")
    while entry >= 0:
        struct.pack_into("<2L", content, entry + 20, 10**6, 10**6)  # bytes in the file, bytes unpacked
        entry = content.find(b"PK\x01\x02", entry + 4)
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"302,000,000 bytes unpacked, the limit is 268,\d+"):
        read_checkpoint(file)


@pytest.mark.parametrize(("place", "value"), [(6, 255), (8, 1), (10, 99)], ids=["version", "encrypted", "compression"])
def test_odd_archives(tmp_path: Path, place: int, value: int) -> None:
    file = write_archive(tmp_path / "a.pt", b"}")
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\x01\x02") + place] = value
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pt: damaged checkpoint"):
        read_checkpoint(file)


# -- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        pytest.param(
            ["models.common.CBAM", "models.common.Conv", "yolov5.models.attention.C2f"],
            "custom layers C2f, CBAM: not part of YOLOv5, so the file alone does not say what they compute; export",
            id="own layers of a fork",
        ),
        pytest.param(["__main__.SEBlock"], "custom layers SEBlock: not part of YOLOv5", id="layers of a notebook"),
        pytest.param(["timm.layers.DropPath", "models.yolo.IDetect"], "custom layers DropPath, IDetect:", id="library"),
        pytest.param(
            ["ultralytics.nn.tasks.DetectionModel", "ultralytics.nn.modules.conv.Conv", "models.x.Y"],
            "saved by the ultralytics package (YOLOv8 or later), whose networks are not those of YOLOv5",
            id="ultralytics",
        ),
        pytest.param(
            ["models.common.CBAM", "posix.system"],
            "refused, none of its code was run: it contains models.common.CBAM, posix.system, which no YOLOv5",
            id="a command among layers",
        ),
        pytest.param([f"m.f{n}\x1b" for n in range(12)], r"'m.f0\x1b', 'm.f1\x1b', 'm.f10\x1b'", id="many"),
        pytest.param([f"m.f{n}\x1b" for n in range(12)], " and 2 more, which no YOLOv5", id="rest"),
        pytest.param(["m." + "x" * 1000], "contains m." + "x" * 78 + ", which", id="long"),
    ],
)
def test_unknown_classes_are_explained(tmp_path: Path, addresses: list[str], message: str) -> None:
    file = write_archive(tmp_path / "a.pt", b"(" + b"".join(map(encode_global, addresses)) + b"t")
    with pytest.raises(InputError) as caught:
        read_checkpoint(file, ADDRESSES)
    assert message in str(caught.value)
