"""TorchScript archives: PyTorch gets what was checked; files that write, read or crash are refused."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from script_files import edit_module, pack_int, read_members, save_traced, write_members
from torch import Tensor, nn

from utils.backends.registry import load_backend
from utils.backends.script_archive import read_script
from utils.backends.trust import UntrustedError
from utils.core.errors import InputError

CPU = torch.device("cpu")
DAMAGED = r"m\.torchscript: damaged or not a TorchScript file; copy or export it again"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A harmless TorchScript file."""
    return save_traced(tmp_path / "m.torchscript")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """TorchScript is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class SavesAtLoad(nn.Module):
    """Writes a file when it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.training = torch.zeros(1), True

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.weight, self.training = state[0], state[1]
        torch.save(self.weight, "made")


class SavesWhenRun(nn.Module):
    """Writes a file when it is called."""

    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "made")
        return x


class ReadsFile(nn.Module):
    """Reads any file when it is called."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_file("m.torchscript", False, 2, dtype=torch.uint8).sum()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (SavesAtLoad, r"code/__torch__/test_script_archive\.py:\d+: method __getstate__"),
        (SavesWhenRun, r"code/__torch__/test_script_archive\.py:\d+: a call of torch\.save"),
        (ReadsFile, r"code/__torch__/test_script_archive\.py:\d+: a call of torch\.from_file"),
    ],
)
def test_programs_need_trust(
    kind: type[nn.Module], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(kind()).save("m.torchscript")
    with pytest.raises(UntrustedError, match=rf"^m\.torchscript: {reason}, which no traced network has.*use --trust"):
        load_backend("m.torchscript", device=CPU)
    assert not Path("made").exists()
    backend = load_backend("m.torchscript", device=CPU, trust=True)
    changed = backend.run(torch.zeros(1))[0].item() != 0
    assert (Path("made").exists(), changed) == ((False, True) if kind is ReadsFile else (True, False))


def test_copy_has_what_pytorch_needs(file: Path) -> None:
    content = read_script(file, "m")
    with zipfile.ZipFile(content) as archive:
        names = {name.removeprefix("archive/") for name in archive.namelist()}
    assert {name for name in names if not name.startswith(("code/", "data/", "constants/"))} == {
        "data.pkl", "constants.pkl", "version",
    }  # fmt: skip
    content.seek(0)
    expected = torch.jit.load(str(file))(torch.ones(3))
    torch.testing.assert_close(torch.jit.load(content)(torch.ones(3)), expected)


def test_other_members_are_not_read(file: Path) -> None:
    """`model.json` would select another reader, `bytecode.pkl` another program."""
    members = read_members(file) | {"model.json": b"{}", "bytecode.pkl": b"?", "CODE/X.PY": b"?", "code/x.py.bak": b"?"}
    write_members(file, members)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("elsewhere.txt", b"?")
    with zipfile.ZipFile(read_script(file, "m")) as archive:
        assert {"archive/model.json", "archive/bytecode.pkl", "archive/CODE/X.PY"}.isdisjoint(archive.namelist())
    assert len(load_backend(file, device=CPU).run(torch.ones(3))) == 1


def test_names_that_pytorch_confuses(file: Path) -> None:
    """PyTorch looks names up without regard to case."""
    code = next(name for name in read_members(file) if name.startswith("code/"))
    other = code.replace("script_files", "SCRIPT_files")
    assert other != code
    write_members(file, read_members(file) | {other: read_members(file)[code]})
    with pytest.raises(UntrustedError, match=rf"{other}: a second file of this name"):
        read_script(file, "m")


def test_repeated_members_are_refused(file: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(file, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(archive.namelist()[0].partition("/")[0] + "/data.pkl", b"?")
    with pytest.raises(UntrustedError, match=r"data\.pkl: a second file of this name"):
        read_script(file, "m")


def test_data_before_the_archive(file: Path) -> None:
    file.write_bytes(bytes(100) + file.read_bytes())
    assert len(load_backend(file, device=CPU).run(torch.ones(3))) == 1


@pytest.mark.parametrize("name", ["data.pkl", "constants.pkl", "version"])
def test_missing_members(name: str, file: Path) -> None:
    members = read_members(file)
    del members[name]
    write_members(file, members)
    with pytest.raises(InputError, match=DAMAGED):
        load_backend(file, device=CPU)


def test_changed_byte_is_noticed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    weights = read_members(file)["data/0"]
    content[content.index(weights) + 5] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=DAMAGED):
        load_backend(file, device=CPU)


def test_large_members_are_refused_unread(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = read_members(file)
    write_members(file, members | {"data/9": bytes(50_000_000)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"^m: 50,0\d\d,\d\d\d bytes of content, the limit is .*use --no-limits"):
        read_script(file, "m")
    write_members(file, members | {"code/__torch__/x.py": bytes(5_000_000)})
    with pytest.raises(InputError, match=r"^m: 5,0\d\d,\d\d\d bytes of code and pickles, the limit is 4,194,304"):
        read_script(file, "m")
    write_members(file, {f"data/{i}": b"" for i in range(100_001)})
    with pytest.raises(InputError, match="100,001 members, the limit is 100,000"):
        read_script(file, "m")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (rb"KMt", pack_int(2**23) + b"t", "tensor data 0 of 308 instead of 33554432 bytes"),
        (rb"K\x07K\x0bt", pack_int(2**20) + b"K\x0bt", "a tensor larger than its data"),
        (
            rb"c__torch__\S*\nScale\n",
            b"c__torch__.torch.nn.modules.activation\nReLU\n",
            "an object of class|a reference",
        ),
    ],
)
def test_files_that_reach_foreign_memory(old: bytes, new: bytes, reason: str, file: Path) -> None:
    """The first and the third made PyTorch 2.15 read memory outside the file, the second PyTorch 2.11."""
    edit_module(file, old, new)
    with pytest.raises(UntrustedError, match=rf"m\.torchscript: data\.pkl: ({reason})"):
        load_backend(file, device=CPU)


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(b"\x80\x02N" + b"\x85" * 1_000_000 + b".", id="deep tuples"),
        pytest.param(b"\x80\x02Nr\xff\xff\xff\xff.", id="memory cell 4294967295"),
    ],
)
def test_pickles_that_crash_pytorch(module: bytes, file: Path) -> None:
    write_members(file, read_members(file) | {"data.pkl": module})
    with pytest.raises(UntrustedError, match=r"data\.pkl: "):
        load_backend(file, device=CPU)


def test_code_that_crashes_pytorch(file: Path) -> None:
    members = read_members(file)
    name = next(name for name in members if name.startswith("code/__torch__/torch/"))
    for value in ("(" * 100_000 + "x" + ")" * 100_000, "not " * 200_000 + "x"):
        code = members[name].replace(b"return ", f"return {value} + ".encode())
        write_members(file, members | {name: code})
        with pytest.raises(UntrustedError, match=r"\.py:\d+: unusual syntax|expression"):
            load_backend(file, device=CPU)


@pytest.mark.parametrize("name", ["_c", "_modules", "_parameters", "_concrete_type", "forward", "__class__"])
def test_attributes_with_names_of_torch(name: str, file: Path) -> None:
    members = read_members(file)
    code = next(name for name, data in members.items() if b"class TwoLayers" in data)
    source = members[code].replace(b"  act : ", f'  __annotations__["{name}"] = '.encode())
    members[code] = source.replace(b"self.act", f'getattr(self, "{name}")'.encode())
    members["data.pkl"] = members["data.pkl"].replace(b"\x03\0\0\0act", bytes([len(name), 0, 0, 0]) + name.encode())
    write_members(file, members)
    if name == "__class__":
        assert len(load_backend(file, device=CPU).run(torch.ones(3))) == 1
    else:
        with pytest.raises(
            InputError, match=r"m\.torchscript: torch \S+ cannot run it \(.*\); copy or export it again"
        ):
            load_backend(file, device=CPU)


def test_network_without_forward(file: Path) -> None:
    members = read_members(file)
    code = next(name for name, data in members.items() if b"class TwoLayers" in data)
    write_members(file, members | {code: members[code].replace(b"def forward(", b"def forward1(")})
    backend = load_backend(file, device=CPU)
    with pytest.raises(InputError, match=r"m\.torchscript: cannot run images of shape \(1, 3, 32, 32\) \("):
        backend.forward(torch.ones(1, 3, 32, 32))


def test_not_an_archive(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), io.BytesIO().getvalue() + bytes(1000)):
        (tmp_path / "m.torchscript").write_bytes(content)
        with pytest.raises(InputError, match=DAMAGED):
            load_backend(tmp_path / "m.torchscript", device=CPU)
