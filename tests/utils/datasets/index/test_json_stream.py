from __future__ import annotations

import json
from pathlib import Path

import pytest

from utils.core.errors import InputError
from utils.datasets.index import json_stream
from utils.datasets.index.json_stream import stream_lists

CONTENT = {
    "info": {"year": 2020, "note": 'a "quoted" ]}, text'},
    "numbers": [1, -2.5e3, 12345678901234, True, None],
    "empty": [],
    "images": [{"id": 1, "file_name": "ä.jpg", "nested": [[1, 2], {"x": []}]}, "plain"],
    "last": 123456,
}


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_entries_in_pieces_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    file = tmp_path / "a.json"
    file.write_text(json.dumps(CONTENT, indent=indent, ensure_ascii=False), encoding="utf-8")
    found: dict[str, list[object]] = {}
    for key, item in stream_lists(file):
        found.setdefault(key, []).append(item)
    expected = {key: value if isinstance(value, list) else [value] for key, value in CONTENT.items() if value != []}
    assert found == expected


def test_an_empty_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(" {} ")
    assert list(stream_lists(tmp_path / "a.json")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected {, found the end"),
        ("[1]", r"expected {, found \["),
        ('{"a": [1, 2', "found the end"),
        ('{"a": [1 2]}', "near character 9: expected , or ], found 2"),
        ('{"a": [{"x": 1,}]}', "not valid JSON near character 7"),
        ('{"a": "open', "not valid JSON near character 6: Unterminated string"),
        ('{"a" 1}', "expected :, found 1"),
        ('{"a": [' + '{"b": nul},' * 100_000 + "1]}", "near character 7"),
    ],
)
def test_what_is_no_json_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=message):
        list(stream_lists(tmp_path / "a.json"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json: cannot be read"):
        list(stream_lists(tmp_path / "a.json"))
