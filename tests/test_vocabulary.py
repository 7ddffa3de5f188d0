"""Words that code and docs avoid, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("classify", "data", "docs", "models", "segment", "tests", "utils")
SUFFIXES = (".ipynb", ".md", ".py", ".yaml")
EXEMPT = ("CHANGELOG.md", "tests/test_vocabulary.py")


class Banned(NamedTuple):
    """A pattern over whole words, in any case; underscores separate words."""

    pattern: str
    use: str
    reason: str


BANNED = (
    Banned(r"pictures?", "image", "the field's word; charts are plots, images of a video frames"),
    Banned(r"class[\s_-]?maps?", "semantic mask", "the label and the output of semantic segmentation"),
    Banned(r"cut[\s-]?outs?", "crop", "the word of --save-crop; Cutout is an augmentation"),
    Banned(r"passed\s+over", "skipped or dropped", "inputs are skipped, label rows dropped"),
    Banned(r"likeliest", "most likely or top-k", "the metric is top-1 and top-5"),
    Banned(r"anew", "again, from scratch or re-", "a run is resumed or restarted"),
    Banned(r"(dealt|deals?|dealing)\s+out", "sharded or split", "ranks have shards, data sets have splits"),
    Banned(r"taken\s+over", "transferred or copied", "weights are transferred, as in the log"),
    Banned(r"told\s+apart", "distinguished", "plain English"),
    Banned(r"(is|are|was|were|be)\s+told", "reported, logged or inferred", "say who learns what and where"),
    Banned(r"(is|are|was|were|be)\s+looked\s+at", "checked, processed or read", "says what really happens"),
    Banned(r"not\s+to\s+be\s+had", "unavailable or missing", "plain English"),
    Banned(r"without\s+effect|plays?\s+no\s+part", "ignored", "the word of the warnings about flags"),
    Banned(r"heed(s|ed)?|honou?red", "supported by or used", "a format supports an option"),
    Banned(r"in\s+good\s+order", "cleanly", "runs and servers shut down cleanly"),
    Banned(r"(?<!standard[\s_])deviations?", "standard deviation or std", "name the statistic"),
    Banned(r"colour(s|ed)?|centre(s|d)?", "color, center", "American spelling"),
)

# (file, word) -> why it is the right word there
ALLOWED: dict[tuple[str, str], str] = {
    ("utils/evaluate/script_metrics.py", "class_map"): "argument of a function that other programs call",
    ("utils/datasets/__init__.py", "cutout"): "public name of an augmentation",
    ("utils/augmentations.py", "cutout"): "public name of an augmentation",
    ("tests/utils/test_augmentations.py", "cutout"): "public name of an augmentation",
    ("docs/compatibility.md", "cutout"): "public name of an augmentation",
}


def list_files() -> list[Path]:
    """Source and documentation files of the project; no virtual environment, run folder or hidden folder."""
    files = [path for path in ROOT.iterdir() if path.is_file()]
    files += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    relative = sorted(path.relative_to(ROOT) for path in files if path.suffix in SUFFIXES)
    return [path for path in relative if path.as_posix() not in EXEMPT]


def find_banned(text: str, file: str) -> Iterator[str]:
    """A message for each banned word of a text, with file, line and the word to use."""
    for banned in BANNED:
        for match in re.finditer(rf"(?<![A-Za-z])(?:{banned.pattern})(?![A-Za-z])", text, re.IGNORECASE):
            word = " ".join(match[0].split())
            if (file, word.lower()) not in ALLOWED:
                line = text.count("\n", 0, match.start()) + 1
                yield f"{file}:{line}: {word!r}: write {banned.use} ({banned.reason})"


def test_the_project_uses_the_words_of_the_field() -> None:
    messages = [
        message
        for path in list_files()
        for message in find_banned((ROOT / path).read_text(encoding="utf-8"), path.as_posix())
    ]
    assert not messages, "\n" + "\n".join(messages)


def test_allowed_words_are_in_use() -> None:
    for file, word in ALLOWED:
        assert word in (ROOT / file).read_text(encoding="utf-8").lower(), f"{file} no longer has {word!r}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("a picture, PICTURES, of_picture", ["picture", "PICTURES", "picture"], id="whole-words"),
        pytest.param("class maps, class_map, ClassMap", ["class maps", "class_map", "ClassMap"], id="separators"),
        pytest.param("files are passed\n    over", ["passed over"], id="line-break"),
        pytest.param("the standard deviation, standard_deviation", [], id="standard-deviation"),
        pytest.param("depicture, pass over the data, renewed", [], id="other-words"),
    ],
)
def test_banned_words_are_found(text: str, words: list[str]) -> None:
    messages = list(find_banned(text, "a.py"))
    assert [message.split("'")[1] for message in messages] == words
    assert all(message.startswith("a.py:1: ") and ": write " in message for message in messages)
