"""Table of export formats."""

from __future__ import annotations

import ast
from dataclasses import fields

import pytest

from utils.backends.registry import FORMATS
from utils.config.base import ROOT
from utils.core.errors import InputError
from utils.export.base import ExportOptions
from utils.export.table import EXPORT_FORMATS, find_export_formats


def test_every_exporter_exists() -> None:
    for fmt in EXPORT_FORMATS:
        module, _, function = fmt.exporter.partition(":")
        file = ROOT / "utils" / "export" / f"{module}.py"
        names = {node.name for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}
        assert function in names, f"{fmt.include}: {file.name} has no {function}"


def test_every_option_exists() -> None:
    known = {field.name for field in fields(ExportOptions)}
    assert not [(fmt.include, fmt.options - known) for fmt in EXPORT_FORMATS if fmt.options - known]


def test_every_format_has_a_runtime() -> None:
    for fmt in EXPORT_FORMATS:
        if fmt.runs_here:
            assert any(f"model{fmt.ending}".endswith(form.ending) and form.runtime for form in FORMATS), fmt.include


def test_formats_are_found_by_name_without_repetitions() -> None:
    assert [fmt.title for fmt in find_export_formats(["onnx", "TorchScript", "onnx"])] == ["ONNX", "TorchScript"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onxx", r"--include onxx: no such format; did you mean onnx\? known: torchscript, onnx, openvino, engine,"),
        ("ncnn7", "--include ncnn7: no such format; known: torchscript"),
    ],
)
def test_unknown_formats(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_export_formats(["onnx", name])
