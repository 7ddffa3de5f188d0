"""Values in checkpoints that are not of this project, and files saved with dill, which names types by strings."""

from __future__ import annotations

import argparse
import collections
import datetime
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.pickled_values import Record
from models.safe_load import read_checkpoint
from tests.hostile_checkpoints import encode_array, encode_call, encode_global, encode_int, encode_text, write_archive
from utils.core.errors import InputError

MOMENT = datetime.datetime(2023, 4, 5, 6, 7, 8, 9)
VALUES: dict[str, tuple[Any, Any]] = {  # what programs save: value, and what it becomes
    "bytearray": (bytearray(b"a\xff"), b"a\xff"),
    "complex": (1 + 2j, 1 + 2j),
    "counter": (collections.Counter("aab"), {"a": 2, "b": 1}),
    "date": (MOMENT.date(), "2023-04-05"),
    "datetime": (MOMENT, "2023-04-05T06:07:08.000009"),
    "zone": (MOMENT.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=2))), "2023-04-05T06:07:08.000009"),
    "duration": (datetime.timedelta(days=1, seconds=2, microseconds=500_000), 86_402.5),
    "defaultdict": (collections.defaultdict(int, a=1), {"a": 1}),
    "defaultdict of lists": (collections.defaultdict(list, a=[1]), {"a": [1]}),
    "frozenset": (frozenset([1, 2]), {1, 2}),
    "namespace": (argparse.Namespace(epochs=3, hyp={"lr0": 0.1}), {"epochs": 3, "hyp": {"lr0": 0.1}}),
    "simple namespace": (SimpleNamespace(a=[1]), {"a": [1]}),
    "numpy text": (np.str_("cat"), "cat"),
    "numpy array of text": (np.array(["ab", "c"]), np.array(["ab", "c"])),
    "device and dtype": ((torch.device("cuda:1"), torch.float16), ("cuda:1", torch.float16)),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", VALUES)
def test_values_become_plain(tmp_path: Path, name: str, protocol: int) -> None:
    value, expected = VALUES[name]
    torch.save({"opt": value, "twice": [value, value]}, tmp_path / "a.pt", pickle_protocol=protocol)
    content = read_checkpoint(tmp_path / "a.pt")
    for result in (content["opt"], *content["twice"]):
        assert type(result) is type(expected)
        assert np.array_equal(result, expected) if isinstance(expected, np.ndarray) else result == expected


def test_mapping_of_a_package(tmp_path: Path) -> None:
    """A subclass of dict, as the package easydict pickles it: items, then attributes."""
    body = encode_global("easydict.EasyDict") + b")\x81" + encode_text("a") + encode_int(1) + b"s}" + b"b"
    assert read_checkpoint(write_archive(tmp_path / "a.pt", body)) == {"a": 1}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(encode_call("datetime.datetime", encode_int(2020)), "datetime of int", id="date of numbers"),
        pytest.param(encode_call("datetime.date", b"C\x02ab"), "date of bytes", id="date too short"),
        pytest.param(encode_call("__builtin__.bytearray", b"]"), r"contains builtins\.bytearray\(list\)", id="bytes"),
        pytest.param(encode_call("__builtin__.long", encode_text("9" * 9)), r"contains builtins\.int,", id="int"),
        pytest.param(encode_call("__builtin__.dict", b"]"), r"contains builtins\.dict,", id="dict"),
        pytest.param(encode_call("__builtin__.object"), r"contains builtins\.object,", id="object"),
        pytest.param(encode_array("U99999", (1,), b""), r"numpy\.dtype\('U99999'\)", id="long text"),
    ],
)
def test_constructors_are_limited(tmp_path: Path, body: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_checkpoint(write_archive(tmp_path / "a.pt", body))


# -- dill -------------------------------------------------------------------------------------------------------------


class DillPickler(pickle._Pickler):
    """Writes what dill writes for the values of a network: types by name, ranges as text, arrays by a function."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, type) and obj.__module__ == "builtins":
            self.write(encode_call("dill._dill._load_type", encode_text(obj.__name__)))
        elif isinstance(obj, range):
            self.write(encode_call("dill._dill._eval_repr", encode_text(repr(obj))))
        elif isinstance(obj, np.ndarray):
            function, arguments, state = obj.__reduce__()
            self.write(encode_global("dill._dill._create_array") + b"(")
            for part in (function, arguments, state, None):
                self.save(part)
            self.write(b"tR")
        else:
            super().save(obj, save_persistent_id)


def save_with_dill(content: Any, path: Path) -> Path:
    torch.save(content, path, pickle_module=SimpleNamespace(__name__="dill_like", Pickler=DillPickler))
    return path


def test_files_of_dill(tmp_path: Path) -> None:
    layer = nn.Conv2d(1, 2, 3)
    content = {
        "model": layer,
        "best_fitness": np.array([0.25]),
        "range": range(3),
        "classes": {1, 2},
        "counts": collections.defaultdict(int, a=1),
    }
    file = save_with_dill(content, tmp_path / "a.pt")
    assert b"dill._dill\n_load_type" in file.read_bytes()
    result = read_checkpoint(file, ["torch.nn.modules.conv.Conv2d"])
    assert isinstance(result["model"], Record)
    assert torch.equal(result["model"].state["_parameters"]["weight"], layer.weight)
    assert result["model"].state["_non_persistent_buffers_set"] == set()
    assert result["best_fitness"].tolist() == [0.25]
    assert (result["range"], result["classes"], result["counts"]) == (range(3), {1, 2}, {"a": 1})


CODE = encode_text("open('marker', 'w')")


@pytest.mark.parametrize(
    ("body", "name"),
    [
        pytest.param(encode_call("dill._dill._load_type", encode_text("CodeType")), "'CodeType'", id="code"),
        pytest.param(encode_call("dill._dill._load_type", encode_text("object")), "'object'", id="object"),
        pytest.param(encode_call("dill._dill._load_type", encode_text("eval")), "'eval'", id="eval"),
        pytest.param(encode_call("dill._dill._load_type", b"]"), "list", id="not a name"),
        pytest.param(encode_call("dill._dill._load_type"), "TypeError", id="no name"),
        pytest.param(encode_call("dill._dill._eval_repr", CODE), "_eval_repr", id="text that is code"),
        pytest.param(
            encode_call("dill._dill._eval_repr", encode_text("range(0, 3) or open('x')")), "_eval_repr", id="suffix"
        ),
        pytest.param(
            encode_call("dill._dill._eval_repr", encode_text("range(0, 999999999)")), "too long", id="long range"
        ),
        pytest.param(
            encode_call("dill._dill._create_array", encode_global("numpy.dtype"), b")", b")"), "numpy.dtype", id="array"
        ),
        *(
            pytest.param(encode_call(f"dill._dill.{name}", encode_text("os")), name, id=name)
            for name in ("_import_module", "_create_function", "_create_code", "_get_attr", "_load_file", "_unmarshal")
        ),
        pytest.param(encode_global("dill._dill._load_type"), "", id="a type that is not called"),
    ],
)
def test_hostile_files_of_dill(tmp_path: Path, body: bytes, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of types that no network has, code, and functions of dill that run or import something."""
    monkeypatch.chdir(tmp_path)
    file = write_archive(tmp_path / "a.pt", body)
    if not name:
        assert read_checkpoint(file).name == "dill._dill._load_type"
        return
    with pytest.raises(InputError, match=r"refused, none of its code was run|damaged checkpoint") as caught:
        read_checkpoint(file)
    assert name in str(caught.value)
    assert not (tmp_path / "marker").exists()


def test_calls_of_plain_types_in_files_of_dill(tmp_path: Path) -> None:
    """The types that dill names are not called, except those that hold values."""
    name = encode_call("dill._dill._load_type", encode_text("int"))
    with pytest.raises(InputError, match=r"contains builtins\.int,"):
        read_checkpoint(write_archive(tmp_path / "a.pt", name + b"(" + encode_text("9") + b"tR"))
    name = encode_call("dill._dill._load_type", encode_text("set"))
    assert read_checkpoint(write_archive(tmp_path / "a.pt", name + b"(](K\x01K\x02etR")) == {1, 2}
