"""Safe checkpoint reader: no code of a .pt file runs, and refused globals are named."""

from __future__ import annotations

import codecs
import os
import pathlib
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.official import ADDRESSES
from models.safe_load import Record, read_checkpoint
from utils.core.errors import InputError


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
    assert isinstance(read_checkpoint(saved(file, Calls(getattr, Detect, "forward")), ADDRESSES), Record)


def test_constructors_of_listed_classes_are_not_called(tmp_path: Path) -> None:
    huge = Calls(nn.Conv2d, 10**9, 10**9, 99)
    record = read_checkpoint(saved(tmp_path / "a.pt", huge), ADDRESSES)
    assert isinstance(record, Record)
    assert record.address == "torch.nn.modules.conv.Conv2d"
    assert record.state == {}


def test_allow_list_is_restored(tmp_path: Path) -> None:
    before = set(map(str, torch.serialization.get_safe_globals()))
    read_checkpoint(saved(tmp_path / "a.pt", nn.Conv2d(1, 1, 1)), ADDRESSES)
    with pytest.raises(InputError):
        read_checkpoint(saved(tmp_path / "b.pt", Calls(os.getcwd)), ADDRESSES)
    assert set(map(str, torch.serialization.get_safe_globals())) == before


def test_threads_share_the_allow_list(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.pt", nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(50))))
    results: list[Any] = []

    def read() -> None:
        for _ in range(5):
            results.append(read_checkpoint(file, ADDRESSES).address)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["torch.nn.modules.container.Sequential"] * 20


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
        "page.pt": (b"<html>404</html>", "not a PyTorch checkpoint"),
        "cut.pt": (good[: len(good) // 2], "damaged or truncated"),
        "pickle.pt": (pickle.dumps({}, protocol=2), "a pickle in the format of PyTorch before 1.6"),
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
