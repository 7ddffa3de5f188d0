"""TorchScript files for tests: small networks, and copies of files with other members."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """Multiplies by weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(77.0).view(7, 11))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.sum()


class TwoLayers(nn.Module):
    """A layer with weights and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.act = Scale(), nn.ReLU()
        self.table = torch.arange(3.0)  # a constant of the file

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.scale(x)) + self.table


def save_traced(file: Path) -> Path:
    """Save a traced `TwoLayers`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(TwoLayers(), torch.zeros(3)).save(str(file))
    return file


def read_members(file: Path) -> dict[str, bytes]:
    """Content by name, without the root folder and without debug files."""
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if not name.endswith(".debug_pkl")]
        return {name.partition("/")[2]: archive.read(name) for name in names}


def write_members(file: Path, members: Mapping[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive with a root folder."""
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"root/{name}", data)
    return file


def edit_module(file: Path, pattern: bytes, new: bytes) -> Path:
    """Replace the first match of a pattern in `data.pkl`."""
    members = read_members(file)
    module, count = re.subn(pattern, lambda _: new, members["data.pkl"], count=1)
    assert count
    return write_members(file, {**members, "data.pkl": module})


def pack_int(value: int) -> bytes:
    """A number in a pickle."""
    return pickle.BININT + struct.pack("<i", value)
