"""utils/core/yaml_files.py: limits and messages of the YAML reader."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from utils.core.errors import InputError
from utils.core.limits import NO_LIMITS
from utils.core.yaml_files import MAX_BYTES, parse_yaml, read_yaml


def build_alias_bomb(levels: int, width: int = 9) -> str:
    """A mapping whose last value stands for `width ** levels` values."""
    lines = ["a0: &a0 1"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * width)}]" for k in range(1, levels + 1)]
    return "\n".join(lines)


def test_plain_values_with_anchors_and_merges() -> None:
    text = "base: &base {lr0: 0.01, names: [a, b]}\nchild:\n  <<: *base\n  lr0: 1\ncopy: *base\n"
    base = {"lr0": 0.01, "names": ["a", "b"]}
    assert parse_yaml(text, "f.yaml") == {"base": base, "child": {**base, "lr0": 1}, "copy": base}


def test_an_empty_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf# a comment after a byte order mark\n")
    assert read_yaml(tmp_path / "a.yaml") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: 1\nb: 2024-13-01", "f.yaml:2: .*'2024-13-01' is not a valid timestamp", id="date"),
        pytest.param("a: !!bool abc", "f.yaml:1: .*'abc' is not a valid bool", id="bool"),
        pytest.param("a: !!float abc", "f.yaml:1: .*'abc' is not a valid float", id="float"),
        pytest.param("a: " + "9" * 5000, "f.yaml:1: .*'9{40}' is not a valid int", id="digits"),
        pytest.param("a: 0x" + "f" * 10_000, "f.yaml:1: .*'0xf{38}' is not a valid int", id="hexadecimal digits"),
        pytest.param("a: 1" + ":1" * 200_000, "f.yaml:1: .*'1:1:[1:]+' is not a valid int", id="sexagesimal digits"),
        pytest.param("a: !!python/object/apply:os.system [ls]", "f.yaml:1: .*could not determine", id="python object"),
        pytest.param("? [1, 2]\n: 3", "f.yaml:1: .*unhashable key", id="key"),
        pytest.param("a: 1\nb: [", "f.yaml:2: ", id="syntax"),
        pytest.param("a: \x01", "f.yaml: .*unacceptable character", id="control character"),
        pytest.param("a: 1\n---\nb: 2", "f.yaml:2: .*another document", id="two documents"),
        pytest.param("[" * 5000, "f.yaml:1: .*nested more than 64 levels", id="nesting"),
        pytest.param("a: &a [1, *a]", "f.yaml:1: .*alias refers to the value that it is in", id="recursion"),
        pytest.param(build_alias_bomb(9), "f.yaml:8: .*more than 1,000,000 values", id="aliases"),
    ],
)
def test_invalid_text_is_one_line_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        parse_yaml(text, "f.yaml")
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"names:\n- caf\xe9\n")
    with pytest.raises(InputError, match=r"a\.yaml:2: byte 0xe9 is not UTF-8"):
        read_yaml(tmp_path / "a.yaml")


def test_size_limit_can_be_lifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: 1\n" + "#" * MAX_BYTES)
    with pytest.raises(InputError, match=r"a\.yaml: 16,777,221 bytes, the limit is 16,777,216; use --no-limits"):
        read_yaml(file)
    monkeypatch.setenv(NO_LIMITS, "1")
    assert read_yaml(file) == {"a": 1}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(InputError, match=r"a\.yaml: not a regular file"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize("name", ["none.yaml", "a\0.yaml"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path / name)
