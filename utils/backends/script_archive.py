"""TorchScript archives: a checked copy of what PyTorch needs, so that it loads what was checked and nothing else."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
import zlib
from pathlib import Path

from utils.backends.script_code import check_code, refuse
from utils.backends.script_data import DataError, check_constants, check_module
from utils.core.errors import InputError
from utils.core.limits import check_limit

EXTRA = "extra/config.txt"  # metadata
MODULE, CONSTANTS = "data.pkl", "constants.pkl"
VERSIONS = ("version", ".data/version")  # of the operators; its place depends on it
TENSOR = re.compile(r"(data|constants)/\d+", re.ASCII)
ROOT = "archive/"
MAX_BYTES = 2**32  # of the file
MAX_PROGRAM_BYTES = 2**22  # of code and pickles, without tensors
MAX_MEMBERS = 100_000
MAX_RATIO = 100  # of content to file; PyTorch compresses the code only
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError)
DAMAGED = "damaged or not a TorchScript file; copy or export it again"


def read_script(path: Path, file: str) -> io.BytesIO:
    """Check a file without running it, and return an archive for `torch.jit.load`.

    Args:
        file: name for messages.

    Raises:
        UntrustedError: the file may do more than compute.
        InputError: it is damaged or exceeds a limit.
    """
    try:
        check_limit(file, "bytes", path.stat().st_size, MAX_BYTES)
        with zipfile.ZipFile(path) as archive:
            return _copy(archive, path.stat().st_size, file)
    except (*DAMAGE, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: {DAMAGED}") from error


def _copy(archive: zipfile.ZipFile, file_bytes: int, file: str) -> io.BytesIO:
    """Check and copy the members that PyTorch reads."""
    members = _select_members(archive, file_bytes, file)
    program = {name: archive.read(member) for name, member in members.items() if not TENSOR.fullmatch(name)}
    _check_program(program, members, file)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as copy:
        for name, member in members.items():
            data = program[name] if name in program else archive.read(member)
            if len(data) != member.file_size:
                raise InputError(f"{file}: {DAMAGED}")
            copy.writestr(ROOT + name, data)
    return io.BytesIO(content.getvalue())  # of exact size, so that reading it makes no copy


def _select_members(archive: zipfile.ZipFile, file_bytes: int, file: str) -> dict[str, zipfile.ZipInfo]:
    """The members that PyTorch reads, by name without the root folder; others are not copied."""
    infos = archive.infolist()
    check_limit(file, "members", len(infos), MAX_MEMBERS)
    members, lower_names = {}, set()
    for info in infos:
        name = info.filename.partition("/")[2]
        is_code = name.startswith("code/") and name.endswith(".py")
        if is_code or name in (MODULE, CONSTANTS, EXTRA, *VERSIONS) or TENSOR.fullmatch(name):
            if name.lower() in lower_names:  # PyTorch ignores case
                raise refuse(file, name, "a second file of this name")
            lower_names.add(name.lower())
            members[name] = info
    if not {MODULE, CONSTANTS} <= members.keys() or members.keys().isdisjoint(VERSIONS):
        raise InputError(f"{file}: {DAMAGED}")
    sizes = {name: member.file_size for name, member in members.items()}
    program_bytes = sum(size for name, size in sizes.items() if not TENSOR.fullmatch(name))
    check_limit(file, "bytes of code and pickles", program_bytes, MAX_PROGRAM_BYTES)
    check_limit(file, "bytes of content", sum(sizes.values()), MAX_RATIO * file_bytes)
    return members


def _check_program(program: dict[str, bytes], members: dict[str, zipfile.ZipInfo], file: str) -> None:
    """Check code and pickles; UntrustedError if they are not those of a traced network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python about the code
        classes = check_code({name: data for name, data in program.items() if name.startswith("code/")}, file)
    sizes = {name: member.file_size for name, member in members.items() if TENSOR.fullmatch(name)}
    by_folder: dict[str, dict[str, int]] = {"data": {}, "constants": {}}
    for name, size in sizes.items():
        folder, _, key = name.partition("/")
        by_folder[folder][key] = size
    try:
        check_constants(program[CONSTANTS], by_folder["constants"], f"{file}: {CONSTANTS}")
    except DataError as error:
        raise refuse(file, CONSTANTS, str(error)) from error
    try:
        check_module(program[MODULE], classes, by_folder["data"], f"{file}: {MODULE}")
    except DataError as error:
        raise refuse(file, MODULE, str(error)) from error
