"""What --include knows."""

from __future__ import annotations

import ast
from dataclasses import fields

import pytest

from utils.backends.registry import FORMATS
from utils.config.base import ROOT
from utils.core.errors import InputError
from utils.export.base import ExportOptions
from utils.export.table import EXPORT_FORMATS, export_formats


def test_every_exporter_of_the_table_is_there() -> None:
    for kind in EXPORT_FORMATS:
        module, _, function = kind.exporter.partition(":")
        file = ROOT / "utils" / "export" / f"{module}.py"
        names = {node.name for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}
        assert function in names, f"{kind.include}: {file.name} has no {function}"


def test_every_option_is_one() -> None:
    known = {field.name for field in fields(ExportOptions)}
    assert not [(kind.include, kind.options - known) for kind in EXPORT_FORMATS if kind.options - known]


def test_every_exported_format_is_opened_by_a_runtime() -> None:
    for kind in EXPORT_FORMATS:
        if kind.runs_here:
            assert any(f"model{kind.ending}".endswith(form.ending) and form.runtime for form in FORMATS), kind.include


def test_formats_are_looked_up_by_name_once() -> None:
    assert [kind.title for kind in export_formats(["onnx", "TorchScript", "onnx"])] == ["ONNX", "TorchScript"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onxx", r"--include onxx: no such format; did you mean onnx\? known: torchscript, onnx, openvino, engine,"),
        ("ncnn7", "--include ncnn7: no such format; known: torchscript"),
    ],
)
def test_unknown_formats(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        export_formats(["onnx", name])
