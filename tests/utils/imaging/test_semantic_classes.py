"""Classes of semantic masks: defaults, checks, conversion to plain data and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from utils.imaging.semantic_classes import SemanticClasses


def test_default_colors_are_distinct() -> None:
    classes = SemanticClasses.from_count(150)
    assert len(classes) == len(set(classes.palette)) == 150
    assert classes.names[149] == "149"
    assert (classes.ignore, classes.source_ids) == (255, None)


def test_plain_data_and_back() -> None:
    classes = SemanticClasses({0: "road", 1: "car"}, ((128, 64, 128), (0, 0, 142)), 254, (7, 26))
    assert SemanticClasses.from_dict(classes.to_dict()) == classes
    text = json.loads(json.dumps(classes.to_dict()))  # JSON keys are strings
    assert SemanticClasses.from_dict(text) == classes
    assert SemanticClasses.from_dict({"names": {0: "a"}}) == SemanticClasses({0: "a"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": {1: "a"}}, "names"),
        ({"names": {}}, "names"),
        ({"names": dict.fromkeys(range(256), "")}, "names"),
        ({"names": {0: "a", 1: "b"}, "palette": [[1, 2, 3]]}, "1 colors for 2 classes"),
        ({"names": {0: "a"}, "palette": [[1, 2, 300]]}, r"color \[1, 2, 300\] of class 0"),
        ({"names": {0: "a"}, "ignore": 0}, "ignore: 0"),
        ({"names": {0: "a"}, "source_ids": [256]}, "source_ids"),
        ({"names": {0: "a"}, "source_ids": [1, 2]}, "source_ids"),
        ({"palette": []}, "not a description"),
        ({"names": ["a"]}, "not a description"),
    ],
)
def test_impossible_values_raise(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SemanticClasses.from_dict(values)
